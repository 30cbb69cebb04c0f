"""Rules of the simple operator families: what is free, what pins and why, and that removal is exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from family_graphs import FAMILY_GRAPHS
from graph_builder import Builder
from removal_support import assert_same, built, compact, feed_of, network, random_masks, reread, run

from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import analyse
from evonnx.dependency.rules.blocks import members_of_blocks
from evonnx.dependency.signs import Sign, sign_of
from evonnx.dependency.sizes import Size, evaluate
from evonnx.onnx_io import constant_tensor, set_array

PINNED = {"pad_channels_reflected", "gathered_elements", "pool_with_indices"}
"""Graphs in which the first convolution's channels stay."""


@pytest.mark.parametrize("name", sorted(set(FAMILY_GRAPHS) - PINNED))
def test_channels_are_free_and_their_removal_is_exact(name: str) -> None:
    net = network(FAMILY_GRAPHS[name](), name)
    coupling = analyse(net)
    assert not coupling.pinned()[coupling.weights["conv1.weight"].output].any()
    cut = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        masked, plan, compacted = compact(net, coupling, random_masks(net, coupling, "channel", rng, 0.5))
        assert all(np.isfinite(array).all() for array in run(masked.model, feed_of(masked, rng)).values())
        assert_same(masked, compacted, rng, exact="integers" in name)
        cut += any(one.tensor == "conv1.weight" for one in plan.cuts)
    assert cut >= 2


@pytest.mark.parametrize(
    ("name", "node", "reason"),
    [
        ("pad_channels_reflected", "pad1", "Pad mirrors"),
        ("pad_channels_with_ones", "pad1", "Pad adds channels that are not zero"),
        ("gathered_elements", "gatherelements1", "GatherElements addresses entries"),
        ("pool_with_indices", "maxpool1", "the Indices of MaxPool are read"),
        ("pool_with_indices", "maxunpool1", "MaxUnpool is told places"),
        ("grid_sampled", "gridsample1", "GridSample takes them as places"),
        ("expanded_as_integers", "expand2", "one channel is spread over 6 by Expand"),
    ],
)
def test_pins_name_node_and_reason(name: str, node: str, reason: str) -> None:
    pins = analyse(network(FAMILY_GRAPHS[name](), name)).pins
    assert any(pin.node_label == node and pin.reason.startswith(reason) and pin.classes.size for pin in pins)


# --- padding


def test_padded_channels_go_with_what_they_are_added_to() -> None:
    net = network(FAMILY_GRAPHS["option_a_integers"]())
    coupling = analyse(net)
    added = coupling.axes["pad1_out", 1]
    np.testing.assert_array_equal(added[1:7], coupling.weights["conv1.weight"].output)
    np.testing.assert_array_equal(added, coupling.weights["conv3.weight"].output)
    assert np.unique(added).size == 10


@pytest.mark.parametrize("gone", [[0], [7, 8, 9], [0, 7, 8, 9]], ids=["front", "behind", "both"])
def test_pads_count_what_is_left(gone: list[int]) -> None:
    net = network(FAMILY_GRAPHS["option_a_integers"]())
    masks = {name: np.ones(net.array(name).shape, bool) for name in net.weights}
    masks["conv3.weight"][gone] = False
    masks["conv4.weight"][:, gone] = False
    masked, _, compacted = compact(net, analyse(net), masks)
    pad = next(node for node in compacted.model.graph if node.op_type == "Pad")
    tensor = constant_tensor(pad.inputs[1])
    assert tensor is not None
    front, behind = 1 - (0 in gone), 3 - len([channel for channel in gone if channel > 6])
    assert tensor.numpy().tolist() == [0, front, 0, 0, 0, behind, 0, 0]
    assert_same(masked, compacted, np.random.default_rng(0), exact=True)


def test_a_dead_branch_beside_a_padded_shortcut_is_bypassed() -> None:
    net = network(FAMILY_GRAPHS["option_a_integers"]())
    masks = {name: np.ones(net.array(name).shape, bool) for name in net.weights}
    masks["conv3.weight"][:] = False
    masked, plan, compacted = compact(net, analyse(net), masks)
    assert [one.node.label for one in plan.bypasses] == ["add1"]
    assert_same(masked, compacted, np.random.default_rng(0), exact=True)


# --- blocks


def test_blocks_agree_with_the_runtime() -> None:
    for mode in ("DCR", "CRD"):
        b = Builder([1, 12, 1, 1], opset=13)
        b.output(b.node("DepthToSpace", "x", blocksize=2, mode=mode), [1, 3, 2, 2], "y")
        x = np.arange(12, dtype=np.float32).reshape(1, 12, 1, 1)
        made = run(ir.from_proto(b.model()), {"x": x})["y"]
        want = members_of_blocks(4, 12, crd=mode == "CRD")
        np.testing.assert_array_equal(made.reshape(3, 4), want.T)


# --- zeros


def number(b: Builder, value: float | list[float], dtype: type = np.float32) -> str:
    return b.constant(np.asarray(value, dtype=dtype))


def quantized(b: Builder, y: str, first: int, second: int) -> str:
    y = b.node("QuantizeLinear", y, number(b, 0.5), number(b, first, np.uint8))
    return b.node("DequantizeLinear", y, number(b, 0.5), number(b, second, np.uint8))


@pytest.mark.parametrize(
    ("function", "zero"),
    [
        (lambda b, y: b.node("Max", y, number(b, -1)), True),
        (lambda b, y: b.node("Max", y, number(b, [1])), False),
        (lambda b, y: b.node("Min", y, number(b, 3)), True),
        (lambda b, y: b.node("Min", number(b, -3), y), False),
        (lambda b, y: b.node("Max", y, b.constant(b.values(6, 1, 1))), False),
        (lambda b, y: b.node("Max", y, b.conv(y, 6, 6)), False),
        (lambda b, y: b.node("Div", y, number(b, 3)), True),
        (lambda b, y: b.node("Div", y, b.node("Exp", b.conv(y, 6, 1))), True),
        (lambda b, y: b.node("Div", number(b, 3), b.node("Exp", y)), False),
        (lambda b, y: b.node("Mod", y, number(b, 3), fmod=1), True),
        (lambda b, y: b.node("Pow", y, number(b, 3)), True),
        (lambda b, y: b.node("Pow", b.node("Exp", y), number(b, -3)), False),
        (lambda b, y: b.node("Where", b.constant(np.ones((4, 4), bool)), y, number(b, 0)), True),
        (lambda b, y: b.node("Where", b.constant(np.ones((4, 4), bool)), y, number(b, 1)), False),
        (lambda b, y: b.node("Where", b.node("Greater", y, number(b, 1)), number(b, 0), y), True),
        (lambda b, y: b.node("Cast", b.node("Greater", y, number(b, 0)), to=1), True),
        (lambda b, y: b.node("Cast", b.node("GreaterOrEqual", y, number(b, 0)), to=1), False),
        (lambda b, y: quantized(b, y, 7, 7), True),
        (lambda b, y: quantized(b, y, 0, 0), True),
        (lambda b, y: quantized(b, y, 7, 8), False),
        (lambda b, y: quantized(b, y, 0, 8), False),
        (lambda b, y: b.node("Expand", y, b.ints(1, 6, 4, 4)), True),
        (lambda b, y: b.node("Trilu", b.node("GlobalMaxPool", y)), True),
        (lambda b, y: b.node("Softmax", y, axis=3), False),
    ],
)
def test_zeros_that_pass(function: Callable[[Builder, str], str], zero: bool) -> None:
    """A channel that is always zero goes only where the rule knows that it still is one convolution later."""
    b = Builder([1, 3, 4, 4])
    y = b.conv("x", 3, 6)
    y = b.conv(function(b, y), 6, 3)
    b.output(y, [1, 3, None, None], "y")
    net = built(b)
    model = net.model.clone()
    for name in ("conv1.weight", "conv1.bias"):
        array = net.array(name).copy()
        array[2] = 0
        set_array(model, name, array)
    holed = reread(model, net)
    plan = plan_compaction(holed, analyse(holed))
    silent = [one.silent.tolist() for one in plan.removals if one.tensor == "conv1.weight"]
    assert silent == ([[2]] if zero else [])
    assert_same(holed, apply_plan(holed, plan), np.random.default_rng(0), floor=1e-6)


# --- signs


@pytest.mark.parametrize(
    ("function", "sign"),
    [
        (lambda b: "x", Sign.UNKNOWN),
        (lambda b: number(b, [1, 2]), Sign.POSITIVE),
        (lambda b: number(b, [0, 2]), Sign.NON_NEGATIVE),
        (lambda b: number(b, [-1, 2]), Sign.UNKNOWN),
        (lambda b: b.node("Abs", "x"), Sign.NON_NEGATIVE),
        (lambda b: b.node("Exp", "x"), Sign.POSITIVE),
        (lambda b: b.node("Softmax", "x"), Sign.NON_NEGATIVE),
        (lambda b: b.node("Add", b.node("Abs", "x"), number(b, 1)), Sign.POSITIVE),
        (lambda b: b.node("Add", b.node("Abs", "x"), number(b, -1)), Sign.UNKNOWN),
        (lambda b: b.node("Add", "x", number(b, 1)), Sign.UNKNOWN),
        (lambda b: b.node("Sub", b.node("Exp", "x"), number(b, 1)), Sign.UNKNOWN),
        (lambda b: b.node("Mul", "x", "x"), Sign.NON_NEGATIVE),
        (lambda b: b.node("Mul", "x", b.node("Exp", "x")), Sign.UNKNOWN),
        (lambda b: b.node("Pow", "x", number(b, 2)), Sign.NON_NEGATIVE),
        (lambda b: b.node("Pow", "x", number(b, 3)), Sign.UNKNOWN),
        (lambda b: b.node("Pow", b.node("Exp", "x"), "x"), Sign.POSITIVE),
        (lambda b: b.node("Max", "x", number(b, 1)), Sign.POSITIVE),
        (lambda b: b.node("Min", b.node("Exp", "x"), "x"), Sign.UNKNOWN),
        (lambda b: b.node("Clip", "x", number(b, 0.5)), Sign.POSITIVE),
        (lambda b: b.node("Clip", "x", number(b, 0)), Sign.NON_NEGATIVE),
        (lambda b: b.node("Clip", "x", number(b, 1), number(b, -1)), Sign.UNKNOWN),
        (lambda b: b.node("Clip", "x", "", number(b, 1)), Sign.UNKNOWN),
        (lambda b: b.node("Where", b.node("IsNaN", "x"), "x", number(b, 1)), Sign.UNKNOWN),
        (lambda b: b.node("Where", b.node("IsNaN", "x"), number(b, 2), number(b, 1)), Sign.POSITIVE),
        (lambda b: b.node("Sqrt", b.node("Reshape", b.node("Exp", "x"), b.ints(-1))), Sign.POSITIVE),
        (lambda b: b.node("Cast", b.node("Exp", "x"), to=onnx.TensorProto.INT64), Sign.NON_NEGATIVE),
        (lambda b: b.node("Div", number(b, 1), b.node("Sigmoid", "x")), Sign.POSITIVE),
    ],
)
def test_signs(function: Callable[[Builder], str], sign: Sign) -> None:
    b = Builder([2, 3])
    b.node("Identity", function(b))
    proto = onnx.helper.make_graph(b.nodes, "graph", b.inputs, [], b.initializers)
    graph = ir.from_proto(proto)
    found = sign_of(
        graph[-1].outputs[0], lambda value: None if (t := constant_tensor(value)) is None else t.numpy()
    )
    assert found is sign


def test_a_sign_is_found_in_time() -> None:
    """A value read twice at every step has 2 ** 40 paths."""
    b = Builder([2, 3])
    y = b.node("Abs", "x")
    for _ in range(40):
        y = b.node("Mul", y, y)
    b.output(y, [2, 3])
    graph = ir.from_proto(b.model()).graph
    assert sign_of(graph.outputs[0], lambda value: None) is Sign.NON_NEGATIVE


# --- operators of their own


def test_microsoft_activations_pass() -> None:
    b = Builder([1, 3, 4, 4])
    b.output(b.conv(b.conv("x", 3, 6), 6, 3), [1, 3, 4, 4])
    proto = b.model()
    proto.graph.node[1].input[0] = "gelu"
    gelu = onnx.helper.make_node("QuickGelu", ["conv1_out"], ["gelu"], "gelu", domain="com.microsoft")
    proto.graph.node.insert(1, gelu)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    net = network(proto)
    coupling = analyse(net)
    assert not coupling.pinned()[coupling.weights["conv1.weight"].output].any()


# --- choices among sizes


@pytest.mark.parametrize(
    ("mark", "known"), [(-1, [False, False, True]), (4, None)], ids=["a mark", "what a size may become"]
)
def test_comparing_sizes(mark: int, known: list[bool] | None) -> None:
    """No size is ever -1; whether one is 4 may change with the channels."""
    sizes = np.asarray([Size(frozenset({("x", 1)}), exact=True, number=4), 3, -1], dtype=object)
    equal = ir.node("Equal", [ir.Value(name="a"), ir.Value(name="b")])
    found = evaluate(equal, [sizes, np.asarray(mark, dtype=object)])
    assert (None if found is None else found.tolist()) == known
