"""What holds for every graph: removal is exact, proven or refused with a reason; couplings say what is so.

Graphs are drawn from all operator families (`strategies_families.py`); with integers, equal is bit for bit.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from faults import faults, make_case
from graph_builder import Builder
from graphs import GRAPHS
from head_graphs import HEAD_GRAPHS
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from oracle import classes_at, reactions, separate
from removal_support import (
    KINDS,
    assert_lengths,
    assert_same,
    built,
    compact,
    feed_of,
    network,
    random_masks,
    reread,
    run,
    without_running_sums,
)
from strategies_families import family_models

from evonnx.compaction import Plan, apply_plan, plan_compaction
from evonnx.dependency import Coupling, analyse, close
from evonnx.dependency.coupling import NOT_ZEROED
from evonnx.dependency.observed import Observed, Reading, edges_of
from evonnx.dependency.zeros import live_slices
from evonnx.masks import Mask, live_masks
from evonnx.network import Array, Network
from evonnx.onnx_io import set_array
from evonnx.proof import prove

LARGE = 100.0
"""What a parameter of a removed channel is poisoned with."""

Draw = tuple[onnx.ModelProto, str, int, int]
"""Model, kind of masks, seed, alignment."""

drawn = st.tuples(
    st.booleans().flatmap(lambda integers: family_models(integers=integers)),
    st.sampled_from(("channel", *KINDS)),
    st.integers(0, 2**16),
    st.sampled_from([1, 1, 4]),
)


def is_exact(proto: onnx.ModelProto) -> bool:
    return proto.doc_string.startswith("integers")


def check(draw: Draw) -> str:
    """All properties of one graph; gives "proven" or "void"."""
    proto, kind, number, align = draw
    exact = is_exact(proto)
    net, rng = network(proto), np.random.default_rng(number)
    coupling = analyse(net)
    assert all(pin.node_label and pin.reason and pin.classes.size for pin in coupling.pins)
    assert_lengths(net, coupling)
    masks = random_masks(net, coupling, kind, rng, share=(0.6, 0.8, 0.9)[number % 3])
    masked, plan, compacted = compact(net, coupling, masks, align)
    assert all(pad.reason for pad in plan.padding)
    assert_same(masked, compacted, rng, exact=exact, floor=1e-6)
    check_counts(masked, compacted.model)
    check_poisoned(masked, rng)
    if align == 1:
        check_again(masked, plan, compacted.model, rng, exact)
    proof = prove(masked.model, compacted, input_shapes=masked.input_shapes, seed=number, threads=1)
    # A function that has died, or whose outputs never moved, can't be proven, and says so.
    assert proof.passed or (proof.void and "two unrelated inputs" in proof.reason), proof.reason
    return "proven" if proof.passed else "void"


def check_counts(masked: Network, model: ir.Model) -> None:
    """What masks call alive is in the compact model, all of it: nothing that lived was unread."""
    left = reread(model, masked)
    for name in masked.weights:
        found = np.count_nonzero(left.live(name)) if name in left.weights else 0
        assert found == np.count_nonzero(masked.live(name)), name


def check_again(masked: Network, plan: Plan, model: ir.Model, rng: np.random.Generator, exact: bool) -> None:
    """Compaction is idempotent; where it has freed what is left to lose more, that must be exact too."""
    again = reread(model, masked)
    more = plan_compaction(again, analyse(again))
    if not frees(plan, masked):
        assert more.is_empty(), more.describe()
    assert_same(again, apply_plan(again, more), rng, exact=exact, floor=1e-6)


def frees(plan: Plan, masked: Network) -> bool:
    """Whether constraints end with a plan: nodes go, a single group or head is left, or one dead channel."""
    single = any(
        np.count_nonzero(change.value == 1) > np.count_nonzero(masked.array(change.tensor) == 1)
        for change in plan.constants
        if change.tensor in masked.model.graph.initializers
    )
    return bool(plan.removed_nodes or plan.attributes or plan.refusals or single)


def unread_classes(net: Network, coupling: Coupling) -> Mask:
    """Shape (n_classes,): no path of live weights leads from them to what stays, whatever else is zero."""
    sources: dict[str, list[tuple[str | None, int]]] = {name: [] for name in net.weights}
    edges = edges_of(net, coupling, live_slices(net), {}, sources)
    readings = [Reading(link.source, link.target) for link in coupling.links]
    return ~Observed(coupling, edges, readings).kept


def check_poisoned(masked: Network, rng: np.random.Generator) -> None:
    """Channels that nobody reads may have any finite value: large ones change no output, not by a bit."""
    coupling = analyse(masked)
    unread = unread_classes(masked, coupling)
    arrays: dict[str, Array] = {}

    def poison(name: str, axis: int, places: Mask) -> None:
        array = arrays.setdefault(name, masked.array(name).copy())
        if places.any() and array.dtype.kind == "f":
            view = np.moveaxis(array, axis, 0)
            view[places] = rng.choice([-LARGE, LARGE], size=view[places].shape)

    for name, weight in masked.weights.items():
        transposed = weight.groups > 1 and weight.uses[0].op_type == "ConvTranspose"
        if not weight.uses[0].relayouts and not transposed:
            poison(name, weight.output_axis, unread[coupling.weights[name].output])
    for vector in coupling.vectors:
        if vector.role not in NOT_ZEROED:
            poison(vector.name, vector.axis, unread[coupling.axes[vector.name, vector.axis]])
    model = masked.model.clone()
    for name, array in arrays.items():
        set_array(model, name, array)
    feed = feed_of(masked, rng, integers=True)
    # A kernel's rounding that leaks from channel to channel is no dependence: LRN is written out in both.
    want, got = (run(without_running_sums(one), feed) for one in (masked.model, model))
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)


def masks_without(net: Network, coupling: Coupling, dead: int) -> dict[str, Mask]:
    """Masks in which what produces and what reads one class is dead."""
    masks = live_masks(net)
    for name, weight in net.weights.items():
        ids = coupling.weights[name]
        columns = np.repeat(ids.input != dead, weight.outputs // weight.groups, axis=0)
        keep = ((ids.output != dead)[:, None] & columns)[:, :, None]
        keep = np.broadcast_to(keep, (weight.outputs, weight.inputs_per_group, weight.taps))
        masks[name] &= weight.from_canonical(keep.copy())
    return masks


def check_single_classes(net: Network, rng: np.random.Generator, most: int, exact: bool) -> None:
    """Every class that is not pinned can go by itself, with what equal counts take along."""
    coupling = analyse(net)
    free = np.flatnonzero(~coupling.pinned())
    held = _held_otherwise(coupling)
    for one in rng.permutation(free)[:most]:
        masks = masks_without(net, coupling, int(one))
        if one not in held:
            assert close(net, coupling, masks).dead_classes[one]
        masked, _, compacted = compact(net, coupling, masks)
        assert_same(masked, compacted, rng, exact=exact, floor=1e-6)


def _held_otherwise(coupling: Coupling) -> set[int]:
    """Classes that no weight puts out, or that are fed by constants and read by products or reductions."""
    put_out = np.concatenate([ids.output for ids in coupling.weights.values()])
    others = np.setdiff1d(np.arange(coupling.n_classes), put_out)
    read = np.concatenate([link.source for link in coupling.links] or [others[:0]])
    fed = coupling.wire_class[np.concatenate([coupling.fed, coupling.given])]
    return {int(one) for one in (*others, *np.intersect1d(read, fed))}


def check_independence(net: Network) -> None:
    """A channel that only weights read moves no other channel and no output but through weights."""
    coupling = analyse(net)
    pinned = coupling.pinned()
    linked = np.zeros(coupling.n_classes, dtype=np.bool_)
    for link in coupling.links:
        linked[link.source] = True
    for one in reactions(net, coupling):
        if pinned[one.channel] or linked[one.channel]:
            continue
        assert not one.outputs, f"an output reacts to a channel of {one.layer}"
        seen: dict[str, list[set[int]]] = {}
        for key, flags in one.followed.items():
            seen.setdefault(key[0], []).append({int(index) for index in classes_at(coupling, key)[flags]})
        for name, found in seen.items():
            # Along other followed axes (tokens) a channel reaches everything, but along one only itself.
            assert any(classes <= {one.channel} for classes in found), (one.layer, one.channel, name, found)


def chunk(number: int, size: int, body: Callable[[Draw], object]) -> None:
    """Run a property on `size` graphs, others for each number, the same in every run."""
    quiet = settings(
        max_examples=size, deadline=None, derandomize=False, database=None, phases=[Phase.generate]
    )
    seed(number)(quiet(given(drawn)(body)))()


# --- random graphs


@pytest.mark.parametrize("number", range(3))
def test_any_graph(number: int) -> None:
    run_chunk(number, 40)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100, 120))
def test_any_graph_at_length(number: int) -> None:
    run_chunk(number, 100)


def run_chunk(number: int, size: int) -> None:
    """Wrong results: none; void proofs only of functions that don't move, which are few."""
    verdicts: Counter[str] = Counter()
    chunk(number, size, lambda draw: verdicts.update([check(draw)]))
    assert verdicts.total() >= size
    assert verdicts["proven"] >= 0.75 * size, verdicts


@pytest.mark.parametrize("number", range(1))
def test_any_class_alone_and_independent(number: int) -> None:
    singly(number, 12)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100, 104))
def test_any_class_alone_and_independent_at_length(number: int) -> None:
    singly(number, 60)


def singly(number: int, size: int) -> None:
    def body(draw: Draw) -> None:
        net, rng = network(draw[0]), np.random.default_rng(draw[2])
        check_independence(net)
        check_single_classes(net, rng, 6, is_exact(draw[0]))

    chunk(number, size, body)


# --- named graphs

TINY = sorted({*HEAD_GRAPHS, "lenet", "residual_bn", "depthwise", "grouped", "concat_fire", "squeeze_excite"})
OUT_OF_REACH = {"fp16", "double", "bfloat16", "along_space"}
"""The oracle computes in float32, with shapes known beforehand."""


@pytest.mark.parametrize("name", TINY)
def test_every_class_alone(name: str) -> None:
    net = network(GRAPHS[name](), name)
    check_single_classes(net, np.random.default_rng(0), 12, "integers" in name)


@pytest.mark.parametrize("name", TINY)
def test_coupled_is_what_reacts(name: str) -> None:
    check_coupled(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(GRAPHS) - set(TINY) - OUT_OF_REACH))
def test_coupled_is_what_reacts_in_all_graphs(name: str) -> None:
    check_coupled(name)


def check_coupled(name: str) -> None:
    """Other channels don't react, and nothing is held together without a reason."""
    net = network(GRAPHS[name](), name)
    check_independence(net)
    assert separate(net, analyse(net)) == []


def test_poison_stays_within_a_window_of_one() -> None:
    b = Builder([1, 3, 5, 5])
    y = b.node("LRN", b.conv("x", 3, 6), size=1, alpha=0.1, beta=0.75, bias=1.0)
    b.output(b.conv(y, 6, 2, 1), [1, 2, 5, 5])
    net, rng = built(b), np.random.default_rng(0)
    masks = live_masks(net)
    masks["conv2.weight"][:, [0, 3]] = False
    masked, _, _ = compact(net, analyse(net), masks)
    check_poisoned(masked, rng)
    feed = feed_of(net, rng)
    (want,), (got,) = (run(one, feed).values() for one in (net.model, without_running_sums(net.model)))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * float(np.abs(want).max()))


PLANTED = [
    "attention_integers",
    "attention_fused_integers",
    "attention_scaled_by_shape",
    "attention_rotary_integers",
    "attention_grouped_query_integers",
    "channel_shuffle_integers",
    "channel_shuffle_last_integers",
    "grouped_residual_integers",
    "res2net_integers",
    "depth_to_space_integers",
    "option_a_integers",
]


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_caught(name: str) -> None:
    caught = 0
    for number in range(3):
        case = make_case(name, number)
        for fault in itertools.islice(faults(case, np.random.default_rng(number)), 4):
            proof = prove(fault.masked, fault.compacted, threads=1)
            assert not proof.passed, fault.label
            assert not proof.void, fault.label
            caught += 1
    assert caught >= 3
