"""Closure: against a slow reference, and its edge cases one by one."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from removal_support import KINDS, assert_same, built, compact, network, random_masks

from evonnx.dependency import Coupling, analyse, close
from evonnx.dependency.zeros import some_tap
from evonnx.masks import Mask, live_masks
from evonnx.network import Network


def reference(net: Network, coupling: Coupling, masks: dict[str, Mask]) -> tuple[dict[str, Mask], set[int]]:
    """The definition, synapse by synapse: (closed masks, dead wires)."""
    canonical = {name: weight.to_canonical(masks[name]).copy() for name, weight in net.weights.items()}
    pinned = coupling.pinned()
    dead: set[int] = set()
    lines = set(coupling.given.tolist())
    while True:
        produced, consumed = set(), set()
        for name, weight in net.weights.items():
            wires = coupling.weight_wires[name]
            for o in range(weight.outputs):
                for i in range(weight.inputs_per_group):
                    source = wires.input[o // (weight.outputs // weight.groups), i]
                    if wires.output[o] in dead or source in dead:
                        canonical[name][o, i] = False
                    elif canonical[name][o, i].any():
                        produced.add(int(wires.output[o]))
                        consumed.add(int(source))
        seen = seen_classes(net, coupling, canonical)
        fresh = {
            wire
            for wire in range(coupling.wire_class.size)
            if wire not in dead
            and not pinned[coupling.wire_class[wire]]
            and wire not in lines
            and (wire not in produced or wire not in consumed or int(coupling.wire_class[wire]) not in seen)
        }
        if not fresh:
            return {name: net.weights[name].from_canonical(mask) for name, mask in canonical.items()}, dead
        dead |= fresh


def seen_classes(net: Network, coupling: Coupling, canonical: dict[str, Mask]) -> set[int]:
    """Those that stay, and those that a live synapse leads from to a seen one."""
    seen = set(np.flatnonzero(coupling.pinned()).tolist())
    while True:
        more = {
            int(classes.input[o // (weight.outputs // weight.groups), i])
            for name, weight in net.weights.items()
            for classes in [coupling.weights[name]]
            for o, i in np.argwhere(canonical[name].any(axis=2))
            if int(classes.output[o]) in seen
        }
        if more <= seen:
            return seen
        seen |= more


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "lenet",
        "residual_bn",
        "depthwise",
        "grouped",
        "concat_fire",
        "matmul_left",
        "conv_transpose",
        "shared_weights",
        "relayouts",
    ],
)
def test_agrees_with_the_definition(name: str, kind: str) -> None:
    net = network(GRAPHS[name](), name)
    coupling = analyse(net)
    for seed in range(3):
        masks = random_masks(net, coupling, kind, np.random.default_rng(seed), share=0.35)
        want, dead = reference(net, coupling, masks)
        closure = close(net, coupling, masks)
        for weight in net.weights:
            np.testing.assert_array_equal(closure.masks[weight], want[weight])
        alive = {int(coupling.wire_class[w]) for w in range(coupling.wire_class.size) if w not in dead}
        assert set(np.flatnonzero(~closure.dead_classes)) == alive


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_closing_twice_is_closing_once(name: str) -> None:
    net = network(GRAPHS[name](), name)
    coupling = analyse(net)
    once = close(net, coupling, random_masks(net, coupling, "kernel", np.random.default_rng(1)))
    twice = close(net, coupling, once.masks)
    for weight, mask in once.masks.items():
        np.testing.assert_array_equal(mask, twice.masks[weight])
    np.testing.assert_array_equal(once.dead_classes, twice.dead_classes)
    assert not once.dead_classes[coupling.pinned()].any()


def test_masks_that_are_not_given_are_the_live_weights() -> None:
    net = network(GRAPHS["lenet"]())
    coupling = analyse(net)
    for weight, mask in close(net, coupling, {}).masks.items():
        np.testing.assert_array_equal(mask, live_masks(net)[weight])


def test_a_filter_that_nobody_reads_dies_with_its_bias() -> None:
    net = network(GRAPHS["lenet"]())
    coupling = analyse(net)
    masks = live_masks(net)
    masks["conv2.weight"] = masks["conv2.weight"].copy()
    masks["conv2.weight"][:, 1] = False
    closure = close(net, coupling, masks)
    assert not closure.masks["conv1.weight"][1].any()
    assert closure.masks["conv1.weight"][[0, 2, 3]].all()
    dead = {vector.name: flags for vector, flags in closure.vectors_dead}
    np.testing.assert_array_equal(dead["conv1.bias"], [False, True, False, False])


def test_death_runs_through_the_whole_network() -> None:
    net = network(GRAPHS["lenet"]())
    coupling = analyse(net)
    masks = live_masks(net)
    masks["conv1.weight"] = np.zeros_like(masks["conv1.weight"])
    closure = close(net, coupling, masks)
    assert not any(mask.any() for mask in closure.masks.values())
    np.testing.assert_array_equal(closure.dead_classes, ~coupling.pinned())


def residual() -> Builder:
    b = Builder([1, 3, 6, 6])
    y = b.node("Relu", b.conv("x", 3, 4))
    branch = b.batch_norm(b.conv(b.node("Relu", b.batch_norm(b.conv(y, 4, 5), 5)), 5, 4), 4)
    b.output(b.conv(b.node("Add", branch, y), 4, 2), [None] * 4)
    return b


def test_a_dead_branch_takes_its_private_vectors() -> None:
    net = built(residual())
    coupling = analyse(net)
    masks = live_masks(net)
    masks["conv3.weight"] = np.zeros_like(masks["conv3.weight"])
    closure = close(net, coupling, masks)
    assert closure.dead_layers == ("conv3.weight",)
    dead = {vector.name: flags for vector, flags in closure.vectors_dead}
    assert all(
        dead[f"{stem}"].all() for stem in ("conv3.bias", "bn2.scale", "bn2.bias", "bn1.scale", "conv2.bias")
    )
    assert not {"conv1.bias", "conv4.bias"} & set(dead)
    assert closure.masks["conv1.weight"].all()
    assert not closure.masks["conv2.weight"].any()


def test_a_dead_layer_on_the_only_path_keeps_its_bias() -> None:
    net = network(GRAPHS["lenet"]())
    coupling = analyse(net)
    masks = live_masks(net)
    masks["gemm2.weight"] = np.zeros_like(masks["gemm2.weight"])
    closure = close(net, coupling, masks)
    assert closure.dead_layers == ()
    assert "gemm2.bias" not in {vector.name for vector, _ in closure.vectors_dead}


def test_a_dead_depthwise_filter_ends_the_signal() -> None:
    b = Builder([1, 3, 6, 6])
    y = b.conv(b.conv("x", 3, 4), 4, 4, group=4)
    b.output(b.conv(y, 4, 2), [None] * 4)
    net = built(b)
    coupling = analyse(net)
    masks = live_masks(net)
    masks["conv2.weight"] = masks["conv2.weight"].copy()
    masks["conv2.weight"][2] = False
    closure = close(net, coupling, masks)
    assert not closure.masks["conv1.weight"][2].any()
    assert not closure.masks["conv3.weight"][:, 2].any()
    assert np.count_nonzero(closure.dead_classes) == 1


def side_branch(join: str) -> Builder:
    """conv2's channels are pinned (LRN), and only conv3 leads from them to the output."""
    b = Builder([1, 3, 6, 6])
    y = b.conv("x", 3, 4)
    side = b.conv(b.node("LRN", b.conv(y, 4, 5), size=3), 5, 4)
    y = b.node("Add", side, y) if join == "Add" else b.node("Concat", side, y, axis=1)
    b.output(b.conv(y, 4 if join == "Add" else 8, 2), [None] * 4)
    return b


@pytest.mark.parametrize("join", ["Add", "Concat"])
def test_what_leads_nowhere_dies_although_its_channels_are_pinned(join: str) -> None:
    net = built(side_branch(join))
    coupling = analyse(net)
    masks = live_masks(net)
    masks["conv3.weight"][:] = False
    closure = close(net, coupling, masks)
    assert coupling.pinned()[coupling.weights["conv2.weight"].output].all()
    assert not closure.masks["conv2.weight"].any()
    assert closure.masks["conv1.weight"].all()
    assert closure.masks["conv4.weight"].any()
    assert not closure.dead_classes[coupling.pinned()].any()
    masked, plan, compacted = compact(net, coupling, masks)
    assert_same(masked, compacted, np.random.default_rng(0))
    assert {"conv2.weight", "conv3.weight"} <= set(plan.removed_layers)


def test_a_cycle_that_nobody_reads_does_not_keep_itself_alive() -> None:
    """What a residual block reads of a channel and writes to it again is seen by no output."""
    net = built(residual())
    coupling = analyse(net)
    masks = live_masks(net)
    masks["conv4.weight"][:, 1] = False
    masks["conv2.weight"][1:, 1] = False
    masks["conv3.weight"][[0, 2, 3], 0] = False
    closure = close(net, coupling, masks)
    for weight, dead in (("conv1.weight", 1), ("conv3.weight", 1), ("conv2.weight", 0)):
        assert closure.masks[weight].any(axis=(1, 2, 3)).tolist() == [
            index != dead for index in range(masks[weight].shape[0])
        ]


@pytest.mark.parametrize("bias", [False, True])
def test_what_reads_only_zeros_dies_although_its_channels_are_pinned(bias: bool) -> None:
    b = Builder([1, 3, 6, 6])
    y = b.conv("x", 3, 4, bias=bias)
    b.output(y, [None] * 4)
    b.output(b.conv(y, 4, 2), [None] * 4)
    net = built(b)
    masks = live_masks(net)
    masks["conv1.weight"][1] = False
    closure = close(net, analyse(net), masks)
    assert closure.masks["conv2.weight"][:, 1].any() == bias
    assert closure.masks["conv2.weight"][:, [0, 2, 3]].all()


@pytest.mark.parametrize("taps", [1, 4, 16, 17, 49])
def test_some_tap_is_any(taps: int) -> None:
    mask = np.random.default_rng(taps).random((5, 4, taps)) < 1 / (2 * taps)
    np.testing.assert_array_equal(some_tap(mask), mask.any(axis=2))
    assert not np.shares_memory(some_tap(mask), mask)
