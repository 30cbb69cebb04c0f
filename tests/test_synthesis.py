from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from genetics_support import PLAIN, dense, live, mlp, named
from graph_builder import Builder
from hypothesis import given
from hypothesis import strategies as st

from evonnx import genome as genome_module
from evonnx.clusters import find_clusters
from evonnx.dependency import analyse, close
from evonnx.encodings import Encoding, Magnitude, Uniform, adaptive, cluster_driven, synaptic
from evonnx.environment import Budget, MacBudget, SynapseBudget
from evonnx.environment.pressure import survival
from evonnx.errors import BudgetError
from evonnx.genome import encode
from evonnx.network import network_of
from evonnx.synthesis import Solution, sample, sampling, solve, synthesize
from evonnx.synthesis.connectivity import through_living, walk

ENCODINGS = {
    "cluster-driven": cluster_driven,
    "synaptic": synaptic,
    "adaptive": adaptive,
    "channels-only": replace(adaptive, levels="clusters", cluster_selectivity=1.0),
    "filters-only": replace(cluster_driven, granularity="filter", levels="clusters", scope="network"),
    "channels-per-layer": replace(adaptive, scope="layer"),
    "filters-sharp": replace(
        cluster_driven, granularity="filter", cluster_selectivity=1e-3, synapse_selectivity=1e-3
    ),
}


def solved(pair, encoding: Encoding, share: float, factor="synapses", **options) -> Solution:
    network, coupling = pair
    genome = encode(network, find_clusters(network, coupling, encoding.granularity), encoding)
    return solve(network, coupling, genome, Budget(share, factor), **options)


@functools.cache
def solved_by_name(name: str, encoding: str, share: float, factor: str = "synapses") -> Solution:
    return solved(named(name), ENCODINGS[encoding], share, factor, best_effort=True)


def probabilities(solution: Solution) -> dict[str, np.ndarray]:
    """Survival of every synapse under the solved environment, canonical, from the tables that are sampled."""
    genome, pressure = solution.genome, solution.pressure
    found = {}
    for name, layer in genome.parent.clusters.layers.items():
        rows = slice(0, solution.network.weights[name].outputs)
        block = genome.parent.block(name, rows)
        found[name] = (
            block.live * layer.spread(pressure.cluster_survival, rows) * survival(genome, pressure, block)
        )
    return found


# --- budgets


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", [*PLAIN, "squeeze_excite", "relayouts"])
def test_the_expectation_meets_the_budget_within_one_percent(name: str, encoding: str, share: float) -> None:
    solution = solved_by_name(name, encoding, share)
    probability = probabilities(solution)
    expected = sum(p.sum(dtype=np.float64) for p in probability.values()) / sum(solution.genome.live.values())
    assert expected == pytest.approx(solution.pressure.expected_share, rel=2e-3)
    assert expected == pytest.approx(share, rel=0.01)
    for name_, p in probability.items():
        assert np.all(p[~live(solution.network, name_)] == 0)


def test_the_mean_of_bare_draws_meets_the_budget_within_one_percent() -> None:
    network, coupling = dense((40, 200, 60, 10))
    for encoding in (cluster_driven, adaptive, replace(adaptive, levels="clusters")):
        solution = solved((network, coupling), encoding, 0.6)
        draws = [sample(solution, rng, trim=False) for rng in np.random.default_rng(1).spawn(150)]
        assert np.mean([one.achieved_share for one in draws]) == pytest.approx(0.6, rel=0.01)
        assert np.std([one.achieved_share for one in draws]) > 0


def test_every_synapse_is_drawn_with_its_probability() -> None:
    solution = solved(
        dense((6, 8, 5)), replace(adaptive, cluster_selectivity=0.5, synapse_selectivity=0.5), 0.5
    )
    expected = probabilities(solution)
    draws = [sample(solution, rng, trim=False).masks for rng in np.random.default_rng(2).spawn(2000)]
    for name, p in expected.items():
        frequency = np.mean([masks[name] for masks in draws], axis=0)
        assert np.all(np.abs(frequency - p[:, :, 0]) <= 5 * np.sqrt(p * (1 - p) / 2000)[:, :, 0] + 1e-9)
    # Within a filter synapses live or die together more often than apart: the cluster level is shared.
    first = np.array([masks["w0"][0] for masks in draws])
    alive = first.any(axis=1)
    assert np.mean(first[alive, 1]) > np.mean(first[:, 1])


@pytest.mark.parametrize("selectivity", [1e-3, 1e-2, 1.0, 1e6])
@pytest.mark.parametrize("levels", ["both", "clusters", "synapses"])
@pytest.mark.parametrize("granularity", ["channel", "filter"])
def test_extreme_selectivity_still_meets_the_budget(granularity, levels, selectivity: float) -> None:
    for scope in ("layer", "network"):
        for strength in (Magnitude(), adaptive.strength, Uniform()):
            encoding = Encoding(
                strength,
                cluster_selectivity=selectivity,
                synapse_selectivity=selectivity,
                scope=scope,
                granularity=granularity,
                levels=levels,
            )
            solution = solved(dense((20, 30, 12)), encoding, 0.4)
            assert np.all(np.isfinite(solution.pressure.cluster_survival))
            assert solution.pressure.expected_share == pytest.approx(0.4, rel=0.01)
            one = sample(solution, np.random.default_rng(0))
            assert 0 < one.achieved_share <= 0.4


def test_levels_share_the_pressure_as_asked() -> None:
    pair = dense((30, 60, 40, 10))
    for share in (0.0, 0.3, 0.5, 1.0):
        solution = solved(pair, cluster_driven, 0.5, cluster_share=share)
        genome = solution.genome
        by_clusters = (
            sum(
                float(
                    np.sum(
                        genome.parent.block(name, slice(0, weight.outputs)).live
                        * layer.spread(solution.pressure.cluster_survival, slice(0, weight.outputs))
                    )
                )
                for (name, weight), layer in zip(
                    solution.network.weights.items(), genome.parent.clusters.layers.values(), strict=True
                )
            )
            / solution.bounds[0].parent_amount
        )
        assert by_clusters == pytest.approx(0.5**share, rel=0.01)
        assert solution.pressure.expected_share == pytest.approx(0.5, rel=0.01)
    synapses_only = solved(pair, cluster_driven, 0.5, levels="synapses").pressure
    assert np.all(synapses_only.cluster_survival == 1)
    clusters_only = solved(pair, cluster_driven, 0.5, levels="clusters").pressure
    assert set(clusters_only.synapse_log_factor.values()) == {math.inf}


def test_per_layer_scope_keeps_the_same_share_of_every_layer() -> None:
    solution = solved(dense((30, 60, 40, 10)), cluster_driven, 0.5)
    for name, p in probabilities(solution).items():
        assert p.mean() == pytest.approx(0.5, rel=0.01), name
    network_wide = solved(dense((30, 60, 40, 10)), replace(adaptive, levels="synapses"), 0.3)
    shares = [p.mean() for p in probabilities(network_wide).values()]
    assert max(shares) > 1.2 * min(shares)


# --- samples

shares = st.sampled_from([0.1, 0.35, 0.66, 0.95])


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(name=st.sampled_from([*PLAIN, "shared_weights", "lstm"]), share=shares, seed=st.integers(0, 2**32 - 1))
def test_samples_keep_bound_and_floor_and_the_dead_dead(
    encoding: str, name: str, share: float, seed: int
) -> None:
    solution = solved_by_name(name, encoding, share)
    network, coupling = named(name)
    one = sample(solution, np.random.default_rng(seed))
    if not any("out of reach" in note for note in one.notes):
        assert one.survivors <= share * one.parent_synapses
    assert one.survivors == sum(int(mask.sum()) for mask in one.masks.values())
    assert one.achieved_share == one.survivors / one.parent_synapses
    closed = close(network, coupling, dict(one.masks)).masks
    for weight, mask in one.masks.items():
        assert mask.shape == network.weights[weight].shape
        assert mask.dtype == np.bool_
        assert not np.any(mask & (np.asarray(network.array(weight)) == 0)), "dead stays dead"
        assert np.array_equal(mask, closed[weight]), "removal has run to its fixed point"
    reach = walk(
        network,
        coupling,
        through_living(lambda weight, rows: network.weights[weight].to_canonical(one.masks[weight])[rows]),
    )
    assert all(reach.reached(value) for value in network.model.graph.outputs)


@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.05, 0.2]),
    levels=st.sampled_from(["both", "clusters"]),
)
def test_some_chain_of_synapses_always_leads_from_input_to_output(seed: int, share: float, levels) -> None:
    pair = dense((4, 5, 5, 5, 3), seed % 7)
    one = synthesize(
        *pair,
        solved(pair, cluster_driven, 0.5).genome,
        Budget(share),
        np.random.default_rng(seed),
        levels=levels,
        best_effort=True,
    )
    paths = np.eye(4, dtype=np.int64)
    for mask in one.masks.values():
        paths = (mask @ paths > 0).astype(np.int64)
    assert paths.any()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_equal_seeds_give_equal_masks_whatever_the_threads(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    solution = solved_by_name("grouped", encoding, 0.5)
    monkeypatch.setattr(genome_module, "BLOCK_SYNAPSES", 64)
    monkeypatch.setattr(genome_module, "WORKERS", 1)
    alone = sample(solution, np.random.default_rng(5))
    monkeypatch.setattr(genome_module, "WORKERS", 3)
    monkeypatch.setattr(genome_module, "PARALLEL_SYNAPSES", 1)
    together = sample(solution, np.random.default_rng(5))
    others = [sample(solution, np.random.default_rng(seed)) for seed in range(6, 12)]
    for name, mask in alone.masks.items():
        assert mask.tobytes() == together.masks[name].tobytes()
    assert any(
        not np.array_equal(other.masks[name], mask) for other in others for name, mask in alone.masks.items()
    )


def test_one_generator_gives_different_samples_in_turn() -> None:
    solution, rng = solved_by_name("lenet", "adaptive", 0.5), np.random.default_rng(0)
    first, second = sample(solution, rng), sample(solution, rng)
    assert any(not np.array_equal(first.masks[name], second.masks[name]) for name in first.masks)


def test_the_least_probable_survivors_are_trimmed() -> None:
    pair = dense((30, 40, 20))
    solution = solved(pair, replace(synaptic, synapse_selectivity=0.3), 0.5)
    p = probabilities(solution)
    trimmed_any = 0
    for seed in range(12):
        bare = sample(solution, np.random.default_rng(seed), trim=False)
        held = sample(solution, np.random.default_rng(seed))
        assert all(np.all(held.masks[name] <= bare.masks[name]) for name in bare.masks)
        if bare.survivors <= solution.bounds[0].amount:
            assert all(np.array_equal(bare.masks[name], held.masks[name]) for name in bare.masks)
            continue
        trimmed_any += 1
        assert held.survivors == math.floor(solution.bounds[0].amount), "no more goes than must"
        gone = np.concatenate([p[name][:, :, 0][bare.masks[name] & ~held.masks[name]] for name in p])
        kept = np.concatenate([p[name][:, :, 0][held.masks[name]] for name in p])
        assert gone.max() <= kept.min() * (1 + 1e-3)
    assert trimmed_any


def test_ties_are_trimmed_by_lot_and_no_further_than_needed() -> None:
    solution = solved(dense((30, 40, 20)), Encoding(Uniform(), levels="synapses", scope="network"), 0.5)
    gone = np.zeros((40, 30))
    for seed in range(20):
        bare = sample(solution, np.random.default_rng(seed), trim=False)
        held = sample(solution, np.random.default_rng(seed))
        assert held.survivors == min(bare.survivors, math.floor(solution.bounds[0].amount))
        gone += bare.masks["w0"] & ~held.masks["w0"]
    assert gone[:20].any()
    assert gone[20:].any()


def test_pinned_clusters_live() -> None:
    for name in ("lenet", "two_outputs", "concat_fire"):
        solution = solved_by_name(name, "channels-only", 0.3)
        pinned = solution.coupling.pinned() & (solution.genome.cluster_live > 0)
        assert pinned.any()
        assert np.all(solution.pressure.cluster_survival[pinned] == 1)
        assert solution.pressure.cluster_survival.min() < 1


def test_with_clusters_only_what_lives_are_whole_clusters() -> None:
    for encoding, share in (("channels-only", 0.5), ("filters-only", 0.4)):
        solution = solved_by_name("residual_folded", encoding, share)
        for seed in range(8):
            one = sample(solution, np.random.default_rng(seed))
            for name, weight in solution.network.weights.items():
                mask = weight.to_canonical(one.masks[name])
                rows, columns = mask.any(axis=(1, 2)), mask.any(axis=(0, 2))
                assert np.array_equal(mask.any(axis=2), rows[:, None] & columns[None, :])
                assert np.array_equal(mask.all(axis=2), mask.any(axis=2))


def test_a_residual_branch_may_die_and_the_only_path_may_not() -> None:
    """Two blocks of which the first has an identity shortcut: its branch is not needed."""
    solution = solved_by_name("residual_folded", "filters-only", 0.1)
    names = list(solution.network.weights)
    branch, only = names[1], names[-1]
    died = 0
    for seed in range(30):
        masks = sample(solution, np.random.default_rng(seed)).masks
        died += not masks[branch].any()
        assert masks[only].any()
        assert masks[names[0]].any()
    assert died


def test_shapes_carry_no_signal() -> None:
    """The output is reshaped to the input's own shape, which connects the two whatever the weights are."""
    builder = Builder([2, 4])
    y = builder.node("Gemm", "x", builder.constant(np.zeros((4, 4), dtype=np.float32), "dead"))
    y = builder.node("Gemm", y, builder.constant(np.ones((4, 4), dtype=np.float32), "live"))
    builder.output(builder.node("Reshape", y, builder.node("Shape", "x")), [2, 4], "y")
    network = network_of(ir.serde.deserialize_model(builder.model()), "shapes.onnx")
    assert solved((network, analyse(network)), synaptic, 0.5).outputs == ()


def test_signals_follow_wires_through_depthwise_convolutions() -> None:
    """The last layers of `depthwise` multiply channels: two wires in one class, either may be the path."""
    for seed in range(40):
        solution = solved_by_name("depthwise", "synaptic", 0.05)
        one = sample(solution, np.random.default_rng(seed))
        assert all(mask.any() for mask in one.masks.values())


# --- bounds out of reach


def test_an_unreachable_budget_names_the_lowest_share_which_is_reachable() -> None:
    pair = dense((6, 8, 4))
    solution = solved(pair, synaptic, 0.01)
    with pytest.raises(BudgetError, match=r"mlp\.onnx cannot be met.*share of 0\.025\b") as error:
        sample(solution, np.random.default_rng(0))
    assert "--best-effort" in str(error.value)
    reached = sample(solved(pair, synaptic, 0.025), np.random.default_rng(0))
    assert reached.survivors == 2
    effort = sample(solved(pair, synaptic, 0.01, best_effort=True), np.random.default_rng(0))
    assert effort.survivors == 2
    assert "out of reach" in effort.notes[-1]


def test_pins_that_make_a_budget_unreachable_are_said() -> None:
    """Every class around a Softmax is pinned: clusters alone can't remove anything."""
    pair = named("softmax_middle")
    solution = solved(pair, ENCODINGS["channels-only"], 0.5)
    assert solution.pressure.expected_share == pytest.approx(1)
    with pytest.raises(BudgetError, match="needs a share of 1"):
        sample(solution, np.random.default_rng(0))
    effort = sample(solved(pair, ENCODINGS["channels-only"], 0.5, best_effort=True), np.random.default_rng(0))
    assert effort.achieved_share == 1
    assert sample(solved(pair, adaptive, 0.5), np.random.default_rng(0)).achieved_share <= 0.5


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, math.nan, math.inf])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(BudgetError, match=r"\(0, 1\]"):
        Budget(share)


def test_a_share_of_one_keeps_everything() -> None:
    for name, encoding in (("lenet", "adaptive"), ("grouped", "cluster-driven"), ("lenet", "channels-only")):
        one = sample(solved_by_name(name, encoding, 1.0), np.random.default_rng(0))
        assert one.survivors == one.parent_synapses
        assert one.expected_share == pytest.approx(1)


def test_unknown_factors_are_named() -> None:
    with pytest.raises(BudgetError, match=r"'watts'.*synapses, macs"):
        solved(named("lenet"), adaptive, 0.5, "watts")


@pytest.mark.parametrize("encoding", ["filters-only", "filters-sharp"])
def test_what_removal_takes_with_it_is_drawn_again(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One factor for the network: again, within the bound; a factor for every layer: never."""
    solution = solved_by_name("relayouts", encoding, 0.3)

    def shares() -> list[float]:
        return [sample(solution, np.random.default_rng(seed)).achieved_share for seed in range(6)]

    with_redraws = shares()
    monkeypatch.setattr(sampling, "_DRAWS", 1)
    once = shares()
    assert max(with_redraws) <= 0.3
    if encoding == "filters-only":
        assert all(more >= less for more, less in zip(with_redraws, once, strict=True))
        assert np.mean(with_redraws) > np.mean(once) + 0.02
    else:
        assert with_redraws == once


def test_a_draw_under_less_pressure_is_noted() -> None:
    solution = solved_by_name("relayouts", "filters-only", 0.3)
    samples = [sample(solution, np.random.default_rng(seed)) for seed in range(6)]
    noted = [one for one in samples if any(note.startswith("Drawn at") for note in one.notes)]
    assert noted
    assert all(one.expected_share > solution.pressure.expected_share for one in noted)


# --- other factors


@pytest.mark.parametrize("encoding", ["adaptive", "cluster-driven", "channels-only"])
def test_a_budget_on_macs_bounds_macs(encoding: str) -> None:
    solution = solved_by_name("lenet", encoding, 0.5, "macs")
    assert solution.pressure.expected_share == pytest.approx(0.5, rel=0.01)
    macs = {name: weight.macs_per_tap for name, weight in solution.network.weights.items()}
    assert len(set(macs.values())) > 1
    total = sum(macs[name] * live(solution.network, name).sum() for name in macs)
    for seed in range(6):
        one = sample(solution, np.random.default_rng(seed))
        used = sum(macs[name] * int(mask.sum()) for name, mask in one.masks.items())
        assert used <= 0.5 * total
        assert one.achieved_share == pytest.approx(used / total)


@pytest.mark.parametrize("granularity", ["channel", "kernel"])
def test_what_costs_more_is_as_much_less_probable(granularity: str) -> None:
    even = Encoding(Uniform(), scope="network", granularity=granularity)
    solution = solved(named("lenet"), even, 0.01, "macs")
    pressure, prices = solution.pressure, solution.prices
    assert len(set(prices.values())) > 1
    factors = {name: pressure.synapse_log_factor[name] + math.log(price) for name, price in prices.items()}
    assert max(factors.values()) - min(factors.values()) < 1e-9
    amounts = np.zeros(pressure.cluster_survival.shape)
    for name, price in prices.items():
        for role in solution.genome.parent.sum_members(name, lambda block: block.live):
            amounts[role.clusters] += role.sums * price
    costs = amounts / np.maximum(solution.genome.cluster_live, 1)
    unsure = (pressure.cluster_survival < 1) & (costs > 0)
    products = (pressure.cluster_survival * costs)[unsure]
    assert len(set(costs[unsure].round(6))) > 1
    np.testing.assert_allclose(products, products[0], rtol=1e-4)


def test_macs_need_shapes() -> None:
    network, coupling = named("lenet")
    name = next(iter(network.weights))
    unknown = replace(
        network, weights={**network.weights, name: replace(network.weights[name], macs_per_tap=None)}
    )
    with pytest.raises(BudgetError, match=rf"{name}.*--input-shape"):
        solved((unknown, coupling), adaptive, 0.5, "macs")


def test_factors_of_others_are_used_as_objects() -> None:
    class Soft(SynapseBudget):
        """A target, not a bound."""

    soft = replace(Soft(), name="soft", hard=False)
    solution = solved(named("lenet"), synaptic, 0.5, soft)
    achieved = [sample(solution, np.random.default_rng(seed)).achieved_share for seed in range(10)]
    assert max(achieved) > 0.5
    assert [factor.name for factor in (SynapseBudget(), MacBudget())] == ["synapses", "macs"]


def test_a_dead_parent_layer_and_dead_outputs_are_left_alone() -> None:
    """An output that the parent itself cuts off from the inputs needs no floor."""
    pair = mlp(np.zeros((3, 4), dtype=np.float32), np.ones((2, 3), dtype=np.float32))
    solution = solved(pair, synaptic, 0.5)
    assert solution.outputs == ()
    one = sample(solution, np.random.default_rng(0))
    assert one.survivors <= 3
    assert not one.masks["w0"].any()


@pytest.mark.parametrize(
    "name", ["cntk_style", "matmul_mlp", "gemm_trans_b", "conv_transpose", "matmul_left"]
)
@pytest.mark.parametrize("seed", range(4))
def test_layouts_that_are_not_contiguous_are_trimmed_too(name: str, seed: int) -> None:
    network, coupling = named(name)
    genome = encode(network, find_clusters(network, coupling, "channel"), adaptive)
    for share in (0.6, 0.8):
        drawn = synthesize(network, coupling, genome, Budget(share), np.random.default_rng(seed))
        assert drawn.survivors <= share * drawn.parent_synapses


@pytest.mark.parametrize("seed", range(4))
def test_a_pinned_branch_is_no_floor_and_the_only_path_is(seed: int) -> None:
    """Most synapses are in a branch whose channels are pinned; it goes when what leads from it is dead."""
    b = Builder([1, 3, 6, 6], seed=seed)
    y = b.conv("x", 3, 4)
    side = b.node("LRN", b.conv(b.node("LRN", b.conv(y, 4, 12), size=3), 12, 12), size=3)
    y = b.node("Concat", b.conv(side, 12, 2), y, axis=1)
    b.output(b.conv(y, 6, 2), [None] * 4)
    network = network_of(ir.from_proto(b.model()), "side.onnx")
    coupling = analyse(network)
    pinned = coupling.pinned()
    weight = coupling.weights["conv3.weight"]
    assert pinned[weight.output].all()
    assert pinned[weight.input].all()
    genome = encode(
        network, find_clusters(network, coupling, "channel"), replace(adaptive, levels="clusters")
    )
    one = synthesize(
        network, coupling, genome, Budget(0.1), np.random.default_rng(seed), best_effort=True, align=1
    )
    assert one.achieved_share <= 0.1
    assert not one.masks["conv3.weight"].any()
    step = through_living(lambda name, rows: network.weights[name].to_canonical(one.masks[name])[rows])
    reach = walk(network, coupling, step)
    assert all(reach.reached(value) for value in network.model.graph.outputs)


@pytest.mark.parametrize("name", ["attention_integers", "attention_rotary_integers", "token_mixing_integers"])
def test_where_a_single_chain_is_not_enough_more_lives(name: str) -> None:
    """A product of activations needs all of its factors, however small the budget."""
    network, coupling = named(name)
    for seed in range(12):
        encoding = ENCODINGS["cluster-driven" if seed % 2 else "adaptive"]
        genome = encode(network, find_clusters(network, coupling, encoding.granularity), encoding)
        one = synthesize(
            network, coupling, genome, Budget(0.05), np.random.default_rng(seed), best_effort=True, align=1
        )
        canonical = {key: network.weights[key].to_canonical(mask) for key, mask in one.masks.items()}
        step = through_living(lambda weight, rows, masks=canonical: masks[weight][rows])
        reach = walk(network, coupling, step)
        assert all(reach.reached(value) for value in network.model.graph.outputs), seed
