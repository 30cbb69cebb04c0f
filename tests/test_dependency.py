"""Coupling: union-find, rules on small graphs, pins that name node and reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from hypothesis import given
from hypothesis import strategies as st
from removal_support import assert_lengths, built, network

from evonnx.dependency import Coupling, analyse
from evonnx.dependency.ids import UnionFind
from evonnx.dependency.rules import rules_by_operator
from evonnx.dependency.rules._base import Rule
from evonnx.dependency.rules.reshaping import blocks_of
from evonnx.dependency.scope import captured_values
from evonnx.dependency.sizes import Size, evaluate, sizes_of_shape
from evonnx.errors import PluginError


def coupling_of(name: str) -> Coupling:
    return analyse(network(GRAPHS[name](), name))


# --- union-find


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60),
    st.integers(1, 9),
)
def test_union_find_agrees_with_sets(size: int, pairs: list[tuple[int, int]], batch: int) -> None:
    found = UnionFind()
    found.grow(size)
    sets = [{number} for number in range(size)]
    inside = [(one % size, other % size) for one, other in pairs]
    for start in range(0, len(inside), batch):
        chunk = np.asarray(inside[start : start + batch], dtype=np.int64).reshape(-1, 2)
        found.unite(chunk[:, 0], chunk[:, 1])
    for one, other in inside:
        if sets[one] is not sets[other]:
            merged = sets[one] | sets[other]
            for member in merged:
                sets[member] = merged
    roots = found.find(np.arange(size))
    assert roots.tolist() == [min(members) for members in sets]


def test_union_find_grows_past_its_first_room() -> None:
    found = UnionFind()
    first, second = found.grow(50), found.grow(500)
    found.unite(first, second[:50])
    assert len(found) == 550
    np.testing.assert_array_equal(found.find(second[:50]), first)
    np.testing.assert_array_equal(found.find(second[50:]), second[50:])


# --- rules: shapes


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((1, 4, 3, 3), (1, 36), [((1, 2, 3), (1,))]),
        ((2, 4, 3), (2, 4, 3), [((0,), (0,)), ((1,), (1,)), ((2,), (2,))]),
        ((1, 36), (1, 4, 3, 3), [((1,), (1, 2, 3))]),
        ((1, 6, 1, 1), (6,), [((1,), (0,))]),
        ((2, 6), (3, 4), [((0, 1), (0, 1))]),
        ((2, 6), (3, 5), None),
        ((1, 1), (1,), []),
    ],
)
def test_blocks_of_a_reshape(before: tuple[int, ...], after: tuple[int, ...], expected: object) -> None:
    assert blocks_of(before, after) == expected


def test_arithmetic_on_shapes_keeps_what_entries_depend_on() -> None:
    shape = sizes_of_shape("x", 4, followed={1: 8})
    take = ir.node("Gather", [ir.Value(name="s"), ir.Value(name="i")])
    channel = evaluate(take, [shape, np.asarray(1, dtype=object)])
    batch = evaluate(take, [shape, np.asarray(0, dtype=object)])
    assert channel is not None
    assert batch is not None
    assert channel.item() == Size(frozenset({("x", 1)}), exact=True, number=8)
    assert batch.item() == Size(frozenset(), exact=True)
    product = evaluate(ir.node("Mul", [ir.Value(name="a"), ir.Value(name="b")]), [channel, batch])
    assert product is not None
    assert product.item() == Size(frozenset({("x", 1)}), exact=False)
    assert evaluate(ir.node("Range", [ir.Value(name="a")]), [shape]) is None


# --- the walk


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("lenet", 20),
        ("lenet_reshape", 20),
        ("lenet_reshape_zero", 20),
        ("conv_bn", 14),
        ("residual_bn", 26),
        ("residual_folded", 26),
        ("depthwise", 14),
        ("grouped", 34),  # six of them are the groups themselves
        ("concat_fire", 30),
        ("matmul_mlp", 17),
        ("matmul_left", 8),
        ("gemm_trans_a", 8),
        ("gemm_trans_b", 18),
        ("conv1d", 14),
        ("conv3d", 10),
        ("constant_nodes", 20),
        ("relayouts", 27),
        ("fp16", 20),
        ("fp16_cast", 6),
        ("cntk_style", 10),
        ("activations", 32),
        ("squeeze_excite", 12),
        ("per_channel_mul", 6),
        ("pad_node", 11),
        ("resize_add", 6),
        ("initializers_as_inputs", 20),
        ("two_outputs", 6),
    ],
)
def test_free_classes(name: str, free: int) -> None:
    coupling = coupling_of(name)
    assert int(np.count_nonzero(~coupling.pinned())) == free


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_every_coupling_is_consistent(name: str) -> None:
    net = network(GRAPHS[name](), name)
    coupling = analyse(net)
    for key, classes in coupling.axes.items():
        assert classes.min() >= 0, key
        assert classes.max() < coupling.n_classes, key
    for weight_name, weight in net.weights.items():
        for classes in (coupling.weights[weight_name], coupling.weight_wires[weight_name]):
            assert classes.output.shape == (weight.outputs,)
            assert classes.input.shape == (weight.groups, weight.inputs_per_group)
        wires, classes = coupling.weight_wires[weight_name], coupling.weights[weight_name]
        np.testing.assert_array_equal(coupling.wire_class[wires.output], classes.output)
        np.testing.assert_array_equal(coupling.wire_class[wires.input], classes.input)
    for vector, wires in zip(coupling.vectors, coupling.vector_wires, strict=True):
        assert net.array(vector.name).shape[vector.axis] == wires.size
    outputs = [
        classes
        for value in net.model.graph.outputs
        for (tensor, _), classes in coupling.axes.items()
        if tensor == value.name
    ]
    assert all(coupling.pinned()[classes].all() for classes in outputs)
    assert all(pin.node_label and pin.reason for pin in coupling.pins)
    assert_lengths(net, coupling)


@pytest.mark.parametrize(
    ("name", "node", "reason"),
    [
        ("lenet", "conv1", "graph input 'x' keeps its shape"),
        ("lenet", "gemm2", "graph output 'y' keeps its shape"),
        ("lrn", "lrn1", "LRN mixes channels"),
        ("softmax_middle", "softmax1", "Softmax mixes channels"),
        ("layer_norm", "layernormalization1", "LayerNormalization mixes channels"),
        ("control_flow", "if1", "a subgraph of If reads 'relu1_out'"),
        ("lstm", "lstm1", "operator LSTM is not understood"),
        ("unnamed_nodes", "Conv#0", "graph input 'x' keeps its shape"),
        ("detection_head", "sigmoid1", "graph output 'y' keeps its shape"),
    ],
)
def test_pins_name_node_and_reason(name: str, node: str, reason: str) -> None:
    pins = coupling_of(name).pins
    assert any(pin.node_label == node and pin.reason.startswith(reason) and pin.classes.size for pin in pins)


def test_a_depthwise_filter_is_one_class_and_two_wires() -> None:
    b = Builder([1, 2, 6, 6])
    y = b.conv(b.conv("x", 2, 3), 3, 6, group=3)
    b.output(b.conv(y, 6, 2), [None] * 4)
    coupling = analyse(built(b))
    deep = coupling.weights["conv2.weight"]
    np.testing.assert_array_equal(deep.output, np.repeat(deep.input[:, 0], 2))
    wires = coupling.weight_wires["conv2.weight"]
    assert not set(wires.output) & set(wires.input.ravel())
    np.testing.assert_array_equal(coupling.wire_class[wires.output], deep.output)


def test_a_flatten_repeats_classes_in_row_major_order() -> None:
    coupling = coupling_of("lenet")
    read = coupling.weights["gemm1.weight"].input[0]
    made = coupling.weights["conv2.weight"].output
    np.testing.assert_array_equal(read, np.repeat(made, 9))


def test_a_concat_keeps_indices_apart() -> None:
    b = Builder([1, 2, 6, 6])
    y = b.node("Concat", b.conv("x", 2, 3), b.conv("x", 2, 4), axis=1)
    b.output(b.conv(y, 7, 2), [None] * 4)
    coupling = analyse(built(b))
    joined = np.concatenate(
        [coupling.weights["conv1.weight"].output, coupling.weights["conv2.weight"].output]
    )
    np.testing.assert_array_equal(coupling.weights["conv3.weight"].input[0], joined)
    assert np.unique(joined).size == 7


def test_groups_must_keep_equally_many() -> None:
    constraints = coupling_of("grouped").equal_counts
    assert constraints
    for one in constraints:
        assert one.classes.shape[0] == one.lines[0].size > 1
        kept = np.ones(coupling_of("grouped").n_classes, dtype=np.bool_)
        kept[one.lines[0][0]] = False
        assert one.kept_rows(kept).tolist() == [False] + [True] * (one.classes.shape[0] - 1)


@pytest.mark.parametrize("op_type", ["MaxPool", "Resize", "Pad"])
def test_channels_do_not_go_on_along_axes_whose_length_changes(op_type: str) -> None:
    """What a matrix over tokens puts out lies over space, which is pooled, scaled or padded, then split."""
    b = Builder([1, 3, 16])
    y = b.node("Reshape", b.matmul("x", 16, 16), b.ints(1, 3, 4, 4))
    if op_type == "MaxPool":
        y, side = b.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), 2
    elif op_type == "Resize":
        y, side = b.node("Resize", y, "", b.constant(np.asarray([1, 1, 2, 2], np.float32))), 8
    else:
        y, side = b.node("Pad", y, b.ints(0, 0, 1, 1, 0, 0, 1, 1)), 6
    y = b.node("Reshape", y, b.ints(1, 3, 2, side // 2, 2, side // 2))
    b.output(y, [1, 3, 2, side // 2, 2, side // 2], "y")
    net = built(b)
    coupling = analyse(net)
    assert coupling.pinned()[coupling.weights["matmul1.weight"].output].all()
    assert_lengths(net, coupling)


def test_a_vector_read_by_a_stranger_is_pinned() -> None:
    b = Builder([1, 3, 6, 6])
    y = b.conv("x", 3, 4)
    b.output(b.conv(y, 4, 2), [None] * 4)
    b.output(b.node("Exp", "conv1.bias"), [4])
    coupling = analyse(built(b))
    assert coupling.pinned()[coupling.weights["conv1.weight"].output].all()


def test_dividing_by_an_activation_pins() -> None:
    b = Builder([1, 3, 6, 6])
    y = b.node("Div", b.conv("x", 3, 4), b.conv("x", 3, 4))
    b.output(b.conv(y, 4, 2), [None] * 4)
    coupling = analyse(built(b))
    assert coupling.pinned().all()
    assert any("may be zero" in pin.reason and pin.node_label == "div1" for pin in coupling.pins)


def dynamic_view(entry: str) -> Builder:
    """As PyTorch exports `x.view(x.size(0), -1)`; `entry` says which size comes first."""
    b = Builder(["N", 1, 6, 6])
    y = b.node("Relu", b.conv("x", 1, 4))
    axis = b.constant(np.asarray({"batch": 0, "channels": 1}[entry], dtype=np.int64))
    size = b.node("Gather", b.node("Shape", y), axis, axis=0)
    first = b.node("Unsqueeze", size, b.ints(0))
    target = b.node("Concat", first, b.ints(-1), axis=0)
    flat = b.node("Reshape", y, target)
    b.output(b.gemm(flat, 4 * 36, 3) if entry == "batch" else flat, [None] * 2)
    return b


def test_a_view_by_batch_size_is_followed() -> None:
    coupling = analyse(built(dynamic_view("batch")))
    made = coupling.weights["conv1.weight"].output
    assert not coupling.pinned()[made].any()
    np.testing.assert_array_equal(coupling.weights["gemm1.weight"].input[0], np.repeat(made, 36))


def test_a_view_by_channel_count_pins() -> None:
    coupling = analyse(built(dynamic_view("channels")))
    assert coupling.pinned()[coupling.weights["conv1.weight"].output].all()


def test_captured_values_are_found_in_nested_subgraphs() -> None:
    net = network(GRAPHS["control_flow"]())
    node = next(node for node in net.model.graph if node.op_type == "If")
    assert "relu1_out" in {value.name for value in captured_values(node)}


# --- the registry


def test_rules_come_in_through_entry_points() -> None:
    rules = rules_by_operator()
    assert {"Conv", "Gemm", "MatMul", "BatchNormalization", "Relu", "Add", "Concat", "Flatten"} <= set(rules)
    assert all(isinstance(rule, Rule) for rule in rules.values())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("evonnx.dependency.rules.nothing:Nothing", "cannot be loaded"),
        ("collections:OrderedDict", "lacks operators"),
    ],
)
def test_a_broken_rule_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    from importlib.metadata import EntryPoint

    from evonnx.dependency import rules

    point = EntryPoint("broken", value, "evonnx.dependency_rules")
    monkeypatch.setattr(rules, "entry_points", lambda group: [point])
    with pytest.raises(PluginError, match=message):
        rules.rules_by_operator.__wrapped__()
