from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.metadata import entry_points

import numpy as np
import onnx_ir as ir
import pytest
from genetics_support import PLAIN, convolutions, dense, live, mlp, named
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evonnx import genome as genome_module
from evonnx.clusters import find_clusters
from evonnx.encodings import (
    Encoding,
    LayerAdaptive,
    Magnitude,
    Signed,
    Uniform,
    adaptive,
    cluster_driven,
    synaptic,
)
from evonnx.encodings._ranks import Lookup
from evonnx.environment import Budget, SynapseBudget, prices_of
from evonnx.environment.pressure import solve_pressure
from evonnx.errors import EvonnxError, ModelError
from evonnx.genome import Genome, encode
from evonnx.network import Network

STRENGTHS = (Magnitude(), Signed(), Uniform(), LayerAdaptive())
by_name = [pytest.param(strength, id=strength.name) for strength in STRENGTHS]


def express(pair, encoding: Encoding, masks=None) -> Genome:
    network, coupling = pair
    return encode(network, find_clusters(network, coupling, encoding.granularity), encoding, masks)


# --- the equations, by hand


def test_equation_5_is_exp_of_strength_over_the_layers_largest() -> None:
    weights = np.array([[0.5, -2.0], [0.0, 1.0]], dtype=np.float32), np.array([[4.0, -1.0]], dtype=np.float32)
    genome = express(mlp(*weights), Encoding(Magnitude()))
    expected = np.exp(np.array([[0.25, 1.0], [-np.inf, 0.5]]) - 1)
    assert np.allclose(genome.synapse_probability("w0")[:, :, 0], expected)
    assert np.allclose(genome.synapse_probability("w1")[:, :, 0], np.exp([[0.0, -0.75]]))
    sharper = express(mlp(*weights), Encoding(Magnitude(), synapse_selectivity=0.5))
    assert np.allclose(sharper.synapse_probability("w1")[:, :, 0], np.exp([[0.0, -1.5]]))


def test_equation_4_sums_truncated_strengths_over_the_largest_sum_of_the_layer() -> None:
    kernels = np.zeros((2, 1, 2, 2), dtype=np.float32)
    kernels[0, 0] = [[1.0, 0.5], [0.05, -0.2]]
    kernels[1, 0] = [[0.3, 0.0], [0.0, -0.09]]
    after = np.ones((1, 2, 2, 2), dtype=np.float32)
    pair = convolutions(kernels, after)
    whole = express(pair, Encoding(Magnitude(), granularity="kernel")).cluster_probability("w0")
    assert np.allclose(whole[:, 0, 0], np.exp(np.array([1.75, 0.39]) / 1.75 - 1))
    truncated = express(pair, Encoding(Magnitude(), truncation=0.1)).cluster_probability("w0")
    assert np.allclose(truncated[:, 0, 0], np.exp(np.array([1.7, 0.3]) / 1.7 - 1))
    signed = express(pair, Encoding(Signed())).cluster_probability("w0")
    assert np.allclose(signed[:, 0, 0], np.exp(np.array([1.55, 0.3]) / 1.55 - 1))
    half = express(pair, Encoding(Magnitude(), cluster_selectivity=0.5)).cluster_probability("w0")
    assert np.allclose(half[:, 0, 0], np.exp(2 * (np.array([1.75, 0.39]) / 1.75 - 1)))


def test_a_channel_cluster_is_normalised_in_each_member_layer_and_averaged() -> None:
    first = np.array([[3.0, 1.0], [1.0, 1.0]], dtype=np.float32)
    second = np.array([[1.0, 4.0], [0.0, 1.0], [1.0, 1.0]], dtype=np.float32)
    network, coupling = mlp(first, second)
    genome = express((network, coupling), Encoding(Magnitude(), granularity="channel"))
    hidden = coupling.weights["w0"].output
    as_producer, as_consumer = np.array([4.0, 2.0]) / 4, np.array([2.0, 6.0]) / 6
    assert np.allclose(genome.cluster_x[hidden], (as_producer + as_consumer) / 2)
    p = np.exp(genome.cluster_x.astype(np.float64) - 1)
    produced, read = p[coupling.weights["w1"].output], p[coupling.weights["w1"].input[0]]
    assert np.allclose(genome.cluster_probability("w1")[:, :, 0], produced[:, None] * read[None, :])


def test_a_layer_without_strength_gives_one_over_e() -> None:
    weights = np.array([[-1.0, -2.0], [-3.0, -1.0]], dtype=np.float32), np.ones((1, 2), dtype=np.float32)
    genome = express(mlp(*weights), Encoding(Signed()))
    assert np.allclose(genome.synapse_probability("w0"), 1 / math.e)
    assert np.allclose(genome.cluster_probability("w0"), 1 / math.e)


def test_uniform_gives_everything_that_lives_the_same_chance() -> None:
    weights = np.array([[1.0, 0.0], [3.0, -1.0]], dtype=np.float32), np.ones((1, 2), dtype=np.float32)
    genome = express(mlp(*weights), Encoding(Uniform(), synapse_selectivity=0.01))
    assert np.array_equal(genome.synapse_probability("w0")[:, :, 0], weights[0] != 0)
    assert np.array_equal(genome.cluster_probability("w0").ravel(), [1, 1])


# --- LAMP against a plain reading of its definition


def lamp(weights: np.ndarray) -> np.ndarray:
    squares = weights.astype(np.float64) ** 2
    return np.array(
        [square / squares[squares >= square].sum() if square else 0.0 for square in squares.ravel()]
    )


@given(seed=st.integers(0, 1000), dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_lamp_ranks_among_all_live_synapses(seed: int, dtype) -> None:
    rng = np.random.default_rng(seed)
    layers = [(rng.normal(size=shape) * scale).round(2) for shape, scale in (((4, 3), 1.0), ((2, 4), 9.0))]
    weights = [np.asarray(layer, dtype=dtype) for layer in layers]
    weights[0].flat[seed % 12] = 0
    pair = mlp(*weights)
    genome = express(pair, Encoding(LayerAdaptive(), synapse_selectivity=0.1, granularity="filter"))
    scores = [lamp(weight) for weight in weights]
    everything = np.concatenate(
        [score[weight.ravel() != 0] for score, weight in zip(scores, weights, strict=True)]
    )
    for index, (score, weight) in enumerate(zip(scores, weights, strict=True)):
        # Scores that agree to a few bits may tie, either way.
        low = np.array([np.mean(everything <= one * (1 - 4e-3)) for one in score])
        high = np.array([np.mean(everything <= one * (1 + 4e-3)) for one in score])
        p = genome.synapse_probability(f"w{index}").ravel()
        alive = weight.ravel() != 0
        x = 1 + 0.1 * np.log(p[alive])
        assert np.all((x >= low[alive] - 1e-5) & (x <= high[alive] + 1e-5))
        if np.count_nonzero(np.abs(weight) == np.abs(weight).max()) == 1:
            assert math.isclose(x.max(), 1, rel_tol=1e-6), "the strongest synapse of every layer scores 1"
        assert np.all(p[~alive] == 0)


def test_lamp_is_exact_in_float16_and_does_not_change_with_a_layers_scale() -> None:
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=shape).astype(np.float16) for shape in ((5, 4), (3, 5))]
    encoding = Encoding(LayerAdaptive(), granularity="filter")
    genome = express(mlp(*weights), encoding)
    scaled = express(mlp(weights[0] * np.float16(4), weights[1] * np.float16(0.25)), encoding)
    scores = [lamp(weight) for weight in weights]
    everything = np.concatenate(scores)
    for index, score in enumerate(scores):
        x = 1 + np.log(genome.synapse_probability(f"w{index}").ravel())
        assert np.allclose(x, [np.mean(everything <= one * (1 + 1e-9)) for one in score], atol=1e-5)
        assert np.array_equal(
            genome.synapse_probability(f"w{index}"), scaled.synapse_probability(f"w{index}")
        )


def test_lamp_of_a_cluster_is_the_rank_of_the_mean_over_its_live_members() -> None:
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=shape).astype(np.float16) for shape in ((5, 4), (3, 5))]
    weights[0][2, 1:] = 0
    genome = express(mlp(*weights), Encoding(LayerAdaptive(), granularity="filter"))
    means = [
        score[alive].mean()
        for weight in weights
        for score, alive in zip(lamp(weight).reshape(weight.shape), weight != 0, strict=True)
    ]
    assert np.allclose(genome.cluster_x, [np.mean(means <= mean * (1 + 1e-6)) for mean in means])


def test_small_layers_have_small_tables() -> None:
    """Of the 65,000 measures that may be told apart in so many octaves, a table has those that occur; a large
    layer's is read by position."""
    rng = np.random.default_rng(0)
    small, large = (
        np.exp2(rng.uniform(-octaves, 0, shape)).astype(np.float32)
        for octaves, shape in ((30, (16, 8)), (1, (8, 16, 16, 16)))
    )
    network, coupling = mlp(small, np.ones((4, 16), np.float32))
    genome = encode(
        network, find_clusters(network, coupling, "filter"), Encoding(LayerAdaptive(), granularity="filter")
    )
    table = genome.traits["w0"]
    assert isinstance(table, Lookup)
    assert len(table.values) == len(table.codes) <= small.size
    network, coupling = convolutions(large, np.ones((2, 8, 1, 1), np.float32))
    genome = encode(
        network, find_clusters(network, coupling, "filter"), Encoding(LayerAdaptive(), granularity="filter")
    )
    table = genome.traits["w0"]
    assert isinstance(table, Lookup)
    assert len(table.codes) == 1 < len(table.values) <= 4 * large.size


def test_ranks_are_per_amount_where_synapses_have_prices() -> None:
    """The weak layer costs so little that it comes first; what costs nothing comes before everything."""
    strong, weak = np.array([[4.0, 3.0]], np.float32), np.array([[0.2], [0.1]], np.float32)
    network, coupling = mlp(strong.reshape(1, 2), weak.reshape(2, 1))
    clusters = find_clusters(network, coupling, "filter")
    encoding = Encoding(LayerAdaptive(), granularity="filter", scope="network")
    alone = encode(network, clusters, encoding)
    priced = encode(network, clusters, encoding, prices={"w0": 100.0, "w1": 1.0})
    free = encode(network, clusters, encoding, prices={"w0": 0.0, "w1": 1.0})
    # LAMP: 16/16 and 9/25 in w0; 0.04/0.04 and 0.01/0.05 in w1. Filters: 0.68; 1 and 0.2.
    assert list(alone.cluster_x) == pytest.approx([2 / 3, 1, 1 / 3])
    assert list(priced.cluster_x) == pytest.approx([1 / 3, 1, 2 / 3])
    assert list(free.cluster_x) == pytest.approx([1, 2 / 3, 1 / 3])
    block = free.parent.block("w0", slice(0, 1))
    assert np.all(free.traits["w0"](block) == 1)
    assert (alone.priced, priced.priced) == (False, True)


@pytest.mark.parametrize("granularity", ["channel", "filter", "kernel"])
def test_equal_prices_change_nothing(granularity) -> None:
    rng = np.random.default_rng(0)
    network, coupling = convolutions(
        *(rng.normal(size=shape).astype(np.float32) for shape in ((6, 3, 3, 3), (4, 6, 3, 3)))
    )
    clusters = find_clusters(network, coupling, granularity)
    encoding = Encoding(LayerAdaptive(), granularity=granularity, scope="network")
    alone = encode(network, clusters, encoding)
    priced = encode(network, clusters, encoding, prices=dict.fromkeys(network.weights, 0.5))
    assert np.array_equal(alone.cluster_x, priced.cluster_x)
    for name in network.weights:
        assert np.array_equal(alone.synapse_probability(name), priced.synapse_probability(name))


@dataclass(frozen=True)
class Prices(SynapseBudget):
    """A factor with prices as given."""

    given: tuple[float, ...] = ()

    def prices(self, network: Network) -> dict[str, float]:
        return dict(zip(network.weights, self.given, strict=True))


def test_prices_are_relative_and_those_of_several_budgets_are_mixed() -> None:
    network, _ = convolutions(*(np.ones(shape, np.float32) for shape in ((4, 3, 3, 3), (8, 4, 3, 3))))
    first, second = 4 * 3 * 9, 8 * 4 * 9
    mean = (first + 3 * second) / (first + second)
    unequal = Budget(0.5, Prices(given=(1.0, 3.0)))
    assert prices_of(network, [Budget(0.5)]) is None
    assert prices_of(network, [unequal]) == pytest.approx({"w0": 1 / mean, "w1": 3 / mean})
    both = prices_of(network, [unequal, Budget(0.3)])
    assert both == pytest.approx({"w0": (1 / mean + 1) / 2, "w1": (3 / mean + 1) / 2})


def test_what_x_tells_of_prices_the_factor_does_not_repeat() -> None:
    """Under the prices that the genome was read at, one F is for all; under others the difference acts."""
    network, coupling = dense((6, 8, 4))
    clusters = find_clusters(network, coupling, "channel")
    prices = {"w0": 2.0, "w1": 0.5}
    encoding = replace(adaptive, levels="synapses")
    told = encode(network, clusters, encoding, prices=prices)
    untold = encode(network, clusters, encoding)
    same = {name: 7 * price for name, price in prices.items()}
    factors = solve_pressure(told, same, 0.5, "synapses", 0.5).synapse_log_factor
    assert factors["w0"] == pytest.approx(factors["w1"], abs=1e-6)
    factors = solve_pressure(untold, same, 0.5, "synapses", 0.5).synapse_log_factor
    assert factors["w1"] - factors["w0"] == pytest.approx(math.log(4))
    factors = solve_pressure(told, {"w0": 2.0, "w1": 1.0}, 0.5, "synapses", 0.5).synapse_log_factor
    assert factors["w0"] - factors["w1"] == pytest.approx(math.log(2))


# --- properties

values = st.floats(-2, 2, width=32).map(lambda value: 0.0 if abs(value) < 1e-3 else value)
layers = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)).flatmap(
    lambda sizes: st.tuples(
        arrays.arrays(np.float32, (sizes[1], sizes[0], 3, 3), elements=values),
        arrays.arrays(np.float32, (sizes[2], sizes[1], 1, 1), elements=values),
    )
)


@pytest.mark.parametrize("granularity", ["channel", "filter", "kernel"])
@pytest.mark.parametrize("strength", by_name)
@given(weights=layers, truncation=st.sampled_from([0.0, 0.3]))
def test_probabilities_lie_between_one_over_e_and_one_and_the_dead_have_none(
    strength, granularity, weights, truncation: float
) -> None:
    weights[0].flat[0] = 1.0
    pair = convolutions(*weights)
    genome = express(pair, Encoding(strength, truncation=truncation, granularity=granularity))
    for name in pair[0].weights:
        alive = live(pair[0], name)
        p = genome.synapse_probability(name)
        assert p.shape == alive.shape
        assert np.all(p[~alive] == 0)
        assert np.all((p[alive] >= 1 / math.e - 1e-6) & (p[alive] <= 1))
    per_cluster = np.exp(genome.cluster_log_probability())
    has_members = genome.cluster_live > 0
    assert np.all(per_cluster[~has_members] == 0)
    assert np.all((per_cluster[has_members] >= 1 / math.e - 1e-6) & (per_cluster[has_members] <= 1))


@pytest.mark.parametrize("selectivity", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e37])
@pytest.mark.parametrize("strength", by_name)
def test_extreme_selectivity_and_extreme_weights_stay_finite(
    strength, scale: float, selectivity: float
) -> None:
    rng = np.random.default_rng(0)
    weights = [(rng.normal(size=shape) * scale).astype(np.float32) for shape in ((6, 5), (3, 6))]
    encoding = Encoding(
        strength, cluster_selectivity=selectivity, synapse_selectivity=selectivity, granularity="channel"
    )
    genome = express(mlp(*weights), encoding)
    log_p = genome.cluster_log_probability()[genome.cluster_live > 0]
    assert np.all(np.isfinite(log_p))
    assert np.all(log_p <= 0)
    for name, weight in zip(("w0", "w1"), weights, strict=True):
        p = genome.synapse_probability(name)
        assert np.all(np.isfinite(p))
        assert p.max() == pytest.approx(1, rel=1e-3)
        assert np.all(p[:, :, 0][weight == 0] == 0)


@pytest.mark.parametrize("strength", by_name)
def test_doubles_beyond_the_range_of_float32_are_ranked(strength) -> None:
    weights = [np.array([[1e300, 1e200], [-1e299, 1e-300]]), np.array([[1e-200, 2e-200]])]
    genome = express(mlp(*weights), Encoding(strength, granularity="channel"))
    p = genome.synapse_probability("w0")[:, :, 0]
    assert np.all(p > 0)
    assert p[0, 0] == pytest.approx(1)
    if strength.name in ("magnitude", "layer-adaptive"):
        assert p[0, 0] > p[1, 0] > p[0, 1]


@pytest.mark.parametrize("strength", by_name)
def test_a_mask_is_the_same_as_zeroed_weights(strength) -> None:
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((6, 5), (3, 6))]
    masks = {f"w{index}": rng.random(weight.shape) < 0.6 for index, weight in enumerate(weights)}
    masks["w0"].flat[np.argmax(np.abs(weights[0]))] = False
    encoding = Encoding(strength, granularity="channel", truncation=0.1)
    masked = express(mlp(*weights), encoding, masks)
    zeroed = express(mlp(*(weight * masks[f"w{i}"] for i, weight in enumerate(weights))), encoding)
    assert np.array_equal(masked.cluster_log_probability(), zeroed.cluster_log_probability())
    for name in masks:
        assert np.array_equal(masked.synapse_probability(name), zeroed.synapse_probability(name))


@pytest.mark.parametrize("strength", by_name)
def test_blocks_and_threads_do_not_show(strength, monkeypatch: pytest.MonkeyPatch) -> None:
    network, coupling = named("grouped")
    encoding = Encoding(strength, granularity="channel", truncation=0.05)
    whole = express((network, coupling), encoding)
    monkeypatch.setattr(genome_module, "BLOCK_SYNAPSES", 40)
    monkeypatch.setattr(genome_module, "PARALLEL_SYNAPSES", 1)
    monkeypatch.setattr(genome_module, "WORKERS", 3)
    pieces = express((network, coupling), encoding)
    assert np.allclose(whole.cluster_x, pieces.cluster_x, atol=1e-6)
    for name in network.weights:
        assert np.array_equal(whole.synapse_probability(name), pieces.synapse_probability(name))


@pytest.mark.parametrize("encoding", [cluster_driven, synaptic, adaptive])
@pytest.mark.parametrize("name", [*PLAIN, "double", "bfloat16", "conv3d", "tied_embedding", "shared_weights"])
def test_every_preset_reads_every_graph(name: str, encoding: Encoding) -> None:
    network, _ = pair = named(name)
    genome = express(pair, encoding)
    for weight in network.weights:
        assert np.array_equal(genome.synapse_probability(weight) > 0, live(network, weight))


# --- refusals and plugins


def test_weights_that_are_not_finite_are_refused() -> None:
    network, coupling = dense((4, 3, 2))
    broken = np.array(network.array("w0"))
    broken[0, 0] = np.nan
    network.model.graph.initializers["w0"].const_value = ir.tensor(broken, name="w0")
    for strength in (Magnitude(), Signed(), LayerAdaptive()):
        with pytest.raises(ModelError, match=r"'w0' of mlp.onnx has NaN"):
            express((network, coupling), Encoding(strength))


def test_a_network_without_live_synapses_is_refused() -> None:
    pair = mlp(np.zeros((2, 2), dtype=np.float32), np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(ModelError, match="no live synapse"):
        express(pair, adaptive)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("truncation", -0.1),
        ("truncation", 1.0),
        ("cluster_selectivity", 0.0),
        ("synapse_selectivity", math.inf),
        ("synapse_selectivity", math.nan),
        ("cluster_share", 1.5),
    ],
)
def test_parts_out_of_range_are_refused(part: str, value: float) -> None:
    with pytest.raises(EvonnxError, match=part.replace("_", " ").capitalize()):
        replace(adaptive, **{part: value})


def test_a_strength_that_breaks_its_contract_is_named() -> None:
    class Short:
        name = "short"

        def express(self, parent, truncation: float):
            whole = Uniform().express(parent, truncation)
            return replace(whole, cluster_x=whole.cluster_x[:-1])

    with pytest.raises(EvonnxError, match="'short'"):
        express(named("lenet"), Encoding(Short()))


def test_presets_come_in_through_entry_points() -> None:
    found = {entry.name: entry.load() for entry in entry_points(group="evonnx.encodings")}
    assert found["cluster-driven"] is cluster_driven
    assert found["synaptic"] is synaptic
    assert found["adaptive"] is adaptive
    assert cluster_driven.describe()["strength"] == "magnitude"
    assert (cluster_driven.granularity, cluster_driven.levels, cluster_driven.scope) == (
        "kernel",
        "both",
        "layer",
    )
    assert synaptic.levels == "synapses"
    assert adaptive.scope == "network"
