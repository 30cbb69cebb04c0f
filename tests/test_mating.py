"""Several parents as one network and one genome: pure steps, on graphs of every kind."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from graphs import GRAPHS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantized import quantized
from removal_support import compact, feed_of, network, random_masks, reread, run
from strategies import small_models

from evonnx.clusters import find_clusters
from evonnx.compaction import read_lineage, write_lineage
from evonnx.dependency import Coupling, analyse
from evonnx.encodings.presets import adaptive, cluster_driven
from evonnx.genome import Encoding, Genome, Parent, encode
from evonnx.masks import live_masks
from evonnx.mating import Lifted, Refusal, choose_mates, join, lift, live_clusters, mate, overlap
from evonnx.network import Network, network_of
from evonnx.onnx_io import constant_values, set_array

RULES = ("dominant", "mean")
KEPT = frozenset({"variance", "divisor", "exponent"})


def retrained(net: Network, rng: np.random.Generator) -> Network:
    """Every trainable number moved, the dead ones left dead."""
    model = net.model.clone()
    coupling = analyse(net)
    for name in (*net.weights, *{vector.name for vector in coupling.vectors}):
        array = net.array(name)
        if array.dtype.kind == "f":
            set_array(model, name, (array * rng.uniform(0.8, 1.2, array.shape)).astype(array.dtype))
    return network_of(model, net.source, net.input_shapes)


def child(net: Network, coupling: Coupling, kind: str, seed: int, share: float = 0.7) -> Network:
    """A compact, retrained descendant, read back from its file."""
    rng = np.random.default_rng(seed)
    _, _, compacted = compact(net, coupling, random_masks(net, coupling, kind, rng, share))
    return retrained(reread(compacted.model, net), rng)


def lifted(net: Network, coupling: Coupling, descendant: Network) -> Lifted:
    found = lift(net, coupling, descendant)
    assert isinstance(found, Lifted), found
    return found


def assert_same_function(one: Network, other: Network, seed: int = 0) -> None:
    """Within 1e-5 of the largest value of each output, in onnxruntime."""
    feed = feed_of(one, np.random.default_rng(seed))
    want, got = run(one.model, feed), run(other.model, feed)
    for name, array in want.items():
        wide = array.astype(np.float64)
        scale = float(np.abs(wide).max(initial=0))
        tolerance = 4e-3 if array.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(got[name].astype(np.float64), wide, rtol=0, atol=tolerance * scale + 1e-7)


def runnable(name: str) -> tuple[Network, Coupling]:
    net = network(GRAPHS[name]())
    if any(weight.quantization is not None for weight in net.weights.values()):
        pytest.skip("quantised models are refused, which another test is about")
    if any(weight.dtype == ir.DataType.BFLOAT16 for weight in net.weights.values()):
        pytest.skip("onnxruntime runs no bfloat16 here")
    return net, analyse(net)


# --- one parent


CASES = [
    pytest.param(name, kind, marks=[] if place % 9 == order else pytest.mark.slow)
    for place, name in enumerate(sorted(GRAPHS))
    for order, kind in enumerate(("channel", "kernel", "layer"))
]
"""Of every third graph one kind by default."""


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_parent_mated_with_itself_is_itself(name: str, kind: str) -> None:
    """Lifted, joined and cut again it computes what it computed; so does each parent in the joint graph."""
    net, coupling = runnable(name)
    descendant = child(net, coupling, kind, seed=5)
    one = lifted(net, coupling, descendant)
    joint = join(net, [one, one], "dominant")
    for other in (one.network, joint.network, *joint.parents):
        assert_same_function(descendant, other)
    assert {key: mask.sum() for key, mask in live_masks(joint.network).items() if mask.any()} == {
        key: mask.sum() for key, mask in live_masks(descendant).items() if mask.any()
    }


def test_a_lineage_goes_on_from_a_joint_network() -> None:
    """Its own lineage is against the ancestor, as that of any offspring."""
    net, coupling = runnable("residual_bn")
    descendant = child(net, coupling, "channel", seed=5)
    joint = join(net, [lifted(net, coupling, descendant)])
    kept, expected = read_lineage(joint.network.model), read_lineage(descendant.model)
    assert expected
    assert {key: value.tolist() for key, value in kept.items()} == {
        key: value.tolist() for key, value in expected.items()
    }


def test_an_ancestor_that_was_cut_before_has_its_own_indices() -> None:
    first, coupling = runnable("residual_bn")
    ancestor = child(first, coupling, "channel", seed=1)
    of_ancestor = analyse(ancestor)
    descendant = child(ancestor, of_ancestor, "channel", seed=2)
    assert read_lineage(ancestor.model)
    assert_same_function(descendant, lifted(ancestor, of_ancestor, descendant).network)


# --- several


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["channel", "synapse"])
@pytest.mark.parametrize(
    "name", ["lenet", "residual_bn", "grouped", "depthwise", "concat_fire", "gemm_trans_a"]
)
def test_what_lives_in_any_parent_lives_in_the_joint_network(name: str, kind: str, rule: str) -> None:
    net, coupling = runnable(name)
    parents = [lifted(net, coupling, child(net, coupling, kind, seed, share=0.6)) for seed in (1, 2, 3)]
    joint = join(net, parents, rule)
    again = lifted(net, coupling, joint.network)
    for weight in net.weights:
        masks = [one.network.live(weight) for one in parents]
        np.testing.assert_array_equal(again.network.live(weight), np.logical_or.reduce(masks))
        values = [
            np.where(mask, one.network.array(weight), 0) for mask, one in zip(masks, parents, strict=True)
        ]
        first = next(iter(values)).copy()
        for mask, value in zip(masks[1:], values[1:], strict=True):
            first = np.where((first == 0) & mask, value, first)
        mean = np.sum(values, axis=0) / np.maximum(np.sum(masks, axis=0), 1)
        expected = first if rule == "dominant" else mean
        np.testing.assert_allclose(again.network.array(weight), expected, rtol=1e-6, atol=0)
    for cut, parent in zip(joint.parents, parents, strict=True):
        assert_same_function(parent.network, cut)


def test_vectors_come_from_the_first_parent_in_which_their_channel_lives() -> None:
    net, coupling = runnable("residual_bn")
    parents = [lifted(net, coupling, child(net, coupling, "channel", seed, share=0.5)) for seed in (1, 2)]
    joint = lifted(net, coupling, join(net, parents, "dominant").network)
    seen = set()
    for vector in coupling.vectors:
        alive = [one.alive[vector.name] for one in parents]
        assert vector.role not in KEPT or np.all(joint.network.array(vector.name) > 0)
        for index in np.flatnonzero(alive[0] | alive[1]):
            owner = 0 if alive[0][index] else 1
            seen.add((vector.role, owner))
            assert joint.network.array(vector.name)[index] == parents[owner].network.array(vector.name)[index]
    assert {("variance", 0), ("variance", 1), ("mean", 0), ("mean", 1), ("scale", 1)} <= seen


def test_the_same_parents_give_the_same_bytes() -> None:
    net, coupling = runnable("lenet")
    made = []
    for _ in range(2):
        parents = [lifted(net, coupling, child(net, coupling, "channel", seed)) for seed in (1, 2)]
        made.append(ir.serde.serialize_model(join(net, parents).network.model).SerializeToString())
    assert made[0] == made[1]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(small_models(), st.sampled_from(["channel", "filter", "kernel", "layer"]), st.integers(0, 1000))
def test_any_graph_can_be_mated(proto, kind: str, seed: int) -> None:
    net = network(proto)
    coupling = analyse(net)
    descendants = [child(net, coupling, kind, seed + number) for number in range(2)]
    parents = [lifted(net, coupling, one) for one in descendants]
    for descendant, parent in zip(descendants, parents, strict=True):
        assert_same_function(descendant, parent.network)
    joint = join(net, parents)
    again = lifted(net, coupling, joint.network)
    for weight in net.weights:
        masks = [one.network.live(weight) for one in parents]
        assert not (again.network.live(weight) & ~np.logical_or.reduce(masks)).any()
    run(joint.network.model, feed_of(net, np.random.default_rng(seed)))


# --- refusals


def test_models_that_cannot_be_lifted_say_why() -> None:
    net, coupling = runnable("lenet")
    descendant = child(net, coupling, "channel", seed=5)

    stranger = network(GRAPHS["matmul_mlp"]())
    assert "does not descend" in refused(net, coupling, stranger)

    changed = reread(descendant.model, descendant)
    write_lineage(changed.model, {})
    assert "its lineage does not explain the shape" in refused(net, coupling, changed)

    beyond = {key: kept + 1000 for key, kept in read_lineage(descendant.model).items()}
    write_lineage(changed.model, beyond)
    assert "its lineage does not explain the shape" in refused(net, coupling, changed)

    ancestor = child(net, coupling, "channel", seed=6)
    assert "indices" in refused(ancestor, analyse(ancestor), descendant)

    whole = quantized(GRAPHS["lenet"]())
    assert "quantised" in refused(network(whole), analyse(network(whole)), network(whole))


def refused(net: Network, coupling: Coupling, descendant: Network) -> str:
    found = lift(net, coupling, descendant)
    assert isinstance(found, Refusal)
    return found.reason


# --- genomes


def genomes(encoding: Encoding, *seeds: int) -> tuple[Parent, list[Genome], list[Network]]:
    net, coupling = runnable("lenet")
    parents = [lifted(net, coupling, child(net, coupling, "kernel", seed)) for seed in seeds]
    joint = join(net, parents)
    clusters = find_clusters(joint.network, analyse(joint.network), encoding.granularity)
    return (
        Parent(joint.network, clusters),
        [encode(one, clusters, encoding) for one in joint.parents],
        list(joint.parents),
    )


@pytest.mark.parametrize("selectivity", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("encoding", [adaptive, cluster_driven], ids=["adaptive", "cluster-driven"])
def test_mated_probabilities_are_weighted_sums(encoding: Encoding, selectivity: float) -> None:
    encoding = replace(encoding, cluster_selectivity=selectivity, synapse_selectivity=selectivity)
    joint, parents, _ = genomes(encoding, 1, 2, 3)
    shares = (0.5, 0.3, 0.2)
    mated = mate(joint, parents, shares)
    assert 0 <= mated.cluster_x.min() <= mated.cluster_x.max() <= 1
    want = sum(
        share * np.exp(one.cluster_log_probability().astype(np.float64))
        for share, one in zip(shares, parents, strict=True)
    )
    got = np.exp(mated.cluster_log_probability().astype(np.float64))
    # x is a float32: at small T its last bit is 1e-4 of P, and 0.3% at T = 1e-3.
    tolerance = 3e-7 / selectivity + 1e-6
    seen = want > np.exp(-80)
    assert seen.any()
    np.testing.assert_allclose(got[seen], want[seen], rtol=10 * tolerance)
    for name in joint.network.weights:
        want = sum(share * one.synapse_probability(name) for share, one in zip(shares, parents, strict=True))
        got = mated.synapse_probability(name)
        seen = want > np.exp(-80)
        np.testing.assert_allclose(got[seen], want[seen], rtol=10 * tolerance)
        assert not got[joint.network.canonical(name) == 0].any()


def test_a_genome_mated_with_itself_is_itself() -> None:
    joint, parents, _ = genomes(adaptive, 1)
    mated = mate(joint, [parents[0]])
    np.testing.assert_allclose(mated.cluster_x, parents[0].cluster_x, atol=1e-6)
    assert mated.encoding == parents[0].encoding
    both = mate(joint, [parents[0], parents[0]])
    np.testing.assert_allclose(
        both.cluster_log_probability(), parents[0].cluster_log_probability(), atol=1e-4
    )


@pytest.mark.parametrize("shares", [(0.5,), (0.7, 0.7), (1.0, 0.0), (1.5, -0.5)])
def test_shares_that_are_none_are_refused(shares: tuple[float, ...]) -> None:
    joint, parents, _ = genomes(adaptive, 1, 2)
    with pytest.raises(ValueError, match="positive shares"):
        mate(joint, parents, shares)


# --- diversity


def flags(*indices: int) -> np.ndarray:
    found = np.zeros(8, dtype=bool)
    found[list(indices)] = True
    return found


def test_overlap_is_the_jaccard_index() -> None:
    assert overlap(flags(0, 1, 2), flags(1, 2, 3)) == 0.5
    assert overlap(flags(0, 1), flags(0, 1)) == 1
    assert overlap(flags(0), flags(1)) == 0
    assert overlap(flags(), flags()) == 1


ALIVE = dict(
    enumerate([flags(0, 1, 2), flags(0, 1, 2), flags(3, 4), flags(2, 3, 4), flags(0, 1), flags(6, 7)])
)


@pytest.mark.parametrize(
    ("fit", "others", "most", "chosen"),
    [
        ([0, 1, 2], [], 2, [0, 2]),
        ([0, 1, 2, 3], [], 3, [0, 2, 3]),
        ([0, 1, 2, 3], [5], 4, [0, 2, 3, 1]),
        ([0], [4, 5], 2, [0, 4]),
        ([0, 1], [4, 5], 3, [0, 1, 4]),
        ([], [4], 3, [0, 4]),
        ([0, 1, 2], [4], 1, [0]),
    ],
    ids=["least overlap", "with all chosen", "then the rest", "less fit ones by score", "after all the fit",
         "too few", "one"],
)  # fmt: skip
def test_mates_are_fit_first_and_then_unlike(
    fit: list[int], others: list[int], most: int, chosen: list[int]
) -> None:
    assert choose_mates(0, fit, others, ALIVE, most) == chosen


def test_live_clusters_are_compared_in_the_ancestors_indices() -> None:
    net, coupling = runnable("lenet")
    clusters = find_clusters(net, coupling, "channel")
    parents = [lifted(net, coupling, child(net, coupling, "channel", seed)) for seed in (1, 2)]
    alive = [live_clusters(one.network, clusters) for one in parents]
    for one, flagged in zip(parents, alive, strict=True):
        name = next(iter(net.weights))
        rows = one.network.canonical(name).any(axis=(1, 2))
        np.testing.assert_array_equal(flagged[coupling.weights[name].output], rows)
    shares = [overlap(one, other) for one, other in itertools.permutations(alive, 2)]
    assert shares[0] == shares[1] < 1


def test_constants_that_are_no_weights_are_the_ancestors() -> None:
    net, coupling = runnable("lenet_reshape")
    one = lifted(net, coupling, child(net, coupling, "channel", seed=3))
    for name, _, tensor in constant_values(net.model):
        if not tensor.dtype.is_floating_point():
            np.testing.assert_array_equal(one.network.array(name), tensor.numpy())
