"""Physical removal: masked equals compact in onnxruntime; plans as data; lineage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from hypothesis import given
from hypothesis import strategies as st
from removal_support import KINDS, assert_same, built, compact, network, random_masks, reread, run
from strategies import small_models

from evonnx.compaction import (
    Compacted,
    Plan,
    apply_plan,
    compose_lineage,
    plan_compaction,
    read_lineage,
    write_lineage,
)
from evonnx.dependency import analyse
from evonnx.errors import ModelError
from evonnx.masks import live_masks
from evonnx.network import Network, load_network
from evonnx.onnx_io import initializer_arrays, set_array, to_bytes

RUNNABLE = sorted(set(GRAPHS) - {"bfloat16"})  # onnxruntime has no bfloat16 Gemm on the CPU


@pytest.mark.parametrize("kind", ["channel", "synapse", "layer"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_masked_and_compact_are_equal(name: str, kind: str) -> None:
    net = network(GRAPHS[name](), name)
    coupling = analyse(net)
    for seed, align in ((0, 1), (1, 4)):
        rng = np.random.default_rng(seed)
        masked, plan, compacted = compact(net, coupling, random_masks(net, coupling, kind, rng), align)
        assert plan.describe()
        assert_same(masked, compacted, rng, exact="integers" in name)


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_nothing_is_planned_for_a_model_as_it_is(name: str) -> None:
    net = network(GRAPHS[name](), name)
    plan = plan_compaction(net, analyse(net))
    assert plan.is_empty(), plan.describe()
    assert to_bytes(apply_plan(net, plan).model) == to_bytes(net.model)


@pytest.mark.parametrize(
    "name", ["lenet", "residual_bn", "depthwise", "grouped", "concat_fire", "relayouts", "matmul_mlp"]
)
def test_compacting_again_finds_nothing(name: str) -> None:
    net = network(GRAPHS[name](), name)
    coupling = analyse(net)
    masks = random_masks(net, coupling, "channel", np.random.default_rng(2))
    masked, plan, compacted = compact(net, coupling, masks)
    assert not plan.is_empty()
    again = reread(compacted.model, masked)
    assert not plan_compaction(again, analyse(again)).cuts
    assert sum(a.size for a in initializer_arrays(compacted.model).values()) < sum(
        a.size for a in initializer_arrays(masked.model).values()
    )


@pytest.mark.parametrize("align", [1, 2, 3, 4, 8])
def test_alignment(align: int) -> None:
    net = network(GRAPHS["concat_fire"]())
    coupling = analyse(net)
    masks = random_masks(net, coupling, "channel", np.random.default_rng(0), share=0.5)
    masked, plan, compacted = compact(net, coupling, masks, align)
    for name, weight in reread(compacted.model, masked).weights.items():
        whole = net.weights[name].outputs
        assert weight.outputs % align == 0 or weight.outputs == whole
    assert_same(masked, compacted, np.random.default_rng(1))
    assert align == 1 or any("multiples of" in pad.reason for pad in plan.padding)


def test_alignment_below_one_is_refused() -> None:
    net = network(GRAPHS["lenet"]())
    with pytest.raises(ValueError, match="at least 1"):
        plan_compaction(net, analyse(net), 0)


@given(small_models(integers=True), st.sampled_from(KINDS), st.integers(0, 2**16), st.sampled_from([1, 1, 4]))
def test_any_small_model_stays_equal_bit_for_bit(
    proto: onnx.ModelProto, kind: str, seed: int, align: int
) -> None:
    net = network(proto)
    rng = np.random.default_rng(seed)
    masked, _, compacted = compact(net, analyse(net), random_masks(net, analyse(net), kind, rng), align)
    assert_same(masked, compacted, rng, exact=True)


@given(small_models(), st.sampled_from(KINDS), st.integers(0, 2**16), st.sampled_from([1, 1, 4]))
def test_any_small_model_stays_equal(proto: onnx.ModelProto, kind: str, seed: int, align: int) -> None:
    net = network(proto)
    rng = np.random.default_rng(seed)
    masked, _, compacted = compact(net, analyse(net), random_masks(net, analyse(net), kind, rng), align)
    assert_same(masked, compacted, rng, floor=1e-6)


@given(small_models(integers=True), st.integers(0, 2**16))
def test_zeros_that_no_closure_wrote(proto: onnx.ModelProto, seed: int) -> None:
    """Files from elsewhere: zeros anywhere in weights and vectors, biases alive behind dead filters."""
    net = network(proto)
    rng = np.random.default_rng(seed)
    model = net.model.clone()
    for name, array in initializer_arrays(net.model).items():
        if array.dtype == np.float32 and not name.endswith(".var"):
            drawn = rng.random(array.shape[:1] + (1,) * (array.ndim - 1)) < 0.5 if array.ndim else np.True_
            set_array(model, name, np.where(drawn, array, np.float32(0)))
    holed = reread(model, net)
    assert_same(holed, apply_plan(holed, plan_compaction(holed, analyse(holed))), rng, exact=True)


# --- the two arguments, on files


def edited(net: Network, **arrays: Callable[[np.ndarray], None]) -> Network:
    """A copy with constants changed in place; `conv1__weight` stands for `conv1.weight`."""
    model = net.model.clone()
    for key, change in arrays.items():
        name = key.replace("__", ".")
        array = net.array(name).copy()
        change(array)
        set_array(model, name, array)
    return reread(model, net)


def zero(*index: object) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[index] = 0

    return change


def kept_outputs(net: Network, plan: Plan, tensor: str) -> list[int]:
    cut = next((cut for cut in plan.cuts if cut.tensor == tensor and cut.axis == 0), None)
    return list(range(net.weights[tensor].outputs)) if cut is None else cut.kept.tolist()


def three_convs(activation: str) -> Network:
    b = Builder([1, 2, 6, 6])
    y = b.node(activation, b.conv("x", 2, 4))
    b.output(b.conv(b.node("Relu", b.conv(y, 4, 3)), 3, 2), [1, 2, 6, 6])
    return built(b)


@pytest.mark.parametrize(
    ("activation", "changes", "kept"),
    [
        ("Relu", {"conv1__weight": zero(1), "conv1__bias": zero(1)}, [0, 2, 3]),
        ("Relu", {"conv1__weight": zero(1)}, [0, 1, 2, 3]),
        ("Sigmoid", {"conv1__weight": zero(1), "conv1__bias": zero(1)}, [0, 1, 2, 3]),
        ("Relu", {"conv2__weight": zero(slice(None), 1)}, [0, 2, 3]),
        ("Sigmoid", {"conv2__weight": zero(slice(None), 1)}, [0, 2, 3]),
        (
            "Sigmoid",
            {"conv2__weight": zero(slice(0, 2), 1), "conv3__weight": zero(slice(None), 2)},
            [0, 2, 3],
        ),
        ("Relu", {"conv2__weight": zero(slice(0, 2), 1)}, [0, 1, 2, 3]),
    ],
    ids=[
        "forward",
        "bias lives",
        "not zero-preserving",
        "backward",
        "backward through sigmoid",
        "two steps",
        "one reader",
    ],
)
def test_what_is_removed_from_a_file(activation: str, changes: dict, kept: list[int]) -> None:
    net = edited(three_convs(activation), **changes)
    plan = plan_compaction(net, analyse(net))
    assert kept_outputs(net, plan, "conv1.weight") == kept
    assert_same(net, apply_plan(net, plan), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "unread", "silent"),
    [
        ({"conv1__weight": zero(1), "conv1__bias": zero(1)}, [], [1]),
        ({"conv2__weight": zero(slice(None), 1)}, [1], []),
    ],
    ids=["forward", "backward"],
)
def test_a_plan_says_which_argument_holds(changes: dict, unread: list[int], silent: list[int]) -> None:
    net = edited(three_convs("Relu"), **changes)
    plan = plan_compaction(net, analyse(net))
    assert [(one.tensor, one.unread.tolist(), one.silent.tolist()) for one in plan.removals] == [
        ("conv1.weight", unread, silent)
    ]


def test_what_nobody_reads_in_the_first_place_stays() -> None:
    b = Builder([1, 3, 6, 6])
    y = b.node("Relu", b.conv("x", 3, 4))
    branch = b.conv(y, 4, 4)
    b.node("Abs", branch)
    b.output(b.conv(b.node("Add", branch, y), 4, 2), [1, 2, 6, 6])
    net = edited(built(b), conv2__weight=zero(), conv2__bias=zero())
    plan = plan_compaction(net, analyse(net))
    compacted = apply_plan(net, plan)
    assert "abs1" in {node.name for node in compacted.model.graph}
    assert [one.node.label for one in plan.bypasses] == ["add1"]
    assert_same(net, compacted, np.random.default_rng(0))


def test_a_normalisation_can_silence_a_channel() -> None:
    b = Builder([1, 2, 6, 6])
    b.output(b.conv(b.batch_norm(b.conv("x", 2, 4), 4), 4, 2), [1, 2, 6, 6])
    net = edited(built(b), bn1__scale=zero(2), bn1__bias=zero(2))
    plan = plan_compaction(net, analyse(net))
    assert kept_outputs(net, plan, "conv1.weight") == [0, 1, 3]
    assert_same(net, apply_plan(net, plan), np.random.default_rng(0))


# --- residual branches


def residual(last: bool = False, integers: bool = False) -> Network:
    b = Builder([1, 3, 6, 6], integers=integers)
    y = b.node("Relu", b.conv("x", 3, 4))
    branch = b.batch_norm(b.conv(b.node("Relu", b.conv(y, 4, 5)), 5, 4), 4)
    z = b.node("Add", branch, y)
    b.output(z if last else b.conv(z, 4, 2), [1, 4 if last else 2, 6, 6])
    return built(b)


@pytest.mark.parametrize("last", [False, True], ids=["inside", "at the output"])
def test_a_dead_branch_is_bypassed(last: bool) -> None:
    net = residual(last, integers=True)
    coupling = analyse(net)
    masks = live_masks(net)
    masks["conv3.weight"] = np.zeros_like(masks["conv3.weight"])
    masked, plan, compacted = compact(net, coupling, masks)
    assert [one.node.label for one in plan.bypasses] == ["add1"]
    assert plan.removed_layers == ("conv2.weight", "conv3.weight")
    assert not plan.refusals
    left = {node.op_type for node in compacted.model.graph}
    assert left == ({"Conv", "Relu", "Identity"} if last else {"Conv", "Relu"})
    assert not {"bn1.mean", "conv2.bias", "conv3.weight"} & set(compacted.model.graph.initializers)
    assert_same(masked, compacted, np.random.default_rng(0), exact=True)


def test_a_path_is_never_cut() -> None:
    net = network(GRAPHS["lenet"]())
    coupling = analyse(net)
    masks = {name: np.zeros_like(mask) for name, mask in live_masks(net).items()}
    masked, plan, compacted = compact(net, coupling, masks)
    assert any("'conv1.weight'" in refusal and "one stays" in refusal for refusal in plan.refusals)
    assert all(min(array.shape, default=1) > 0 for array in initializer_arrays(compacted.model).values())
    assert_same(masked, compacted, np.random.default_rng(0))


# --- single inputs of a matrix


def wide() -> Builder:
    b = Builder([1, 2, 6, 6], integers=True)
    y = b.node("Flatten", b.node("Relu", b.conv("x", 2, 4)))
    y = b.node("Relu", b.gemm(y, 4 * 36, 20))
    b.output(b.gemm(y, 20, 3), [1, 3])
    return b


def test_dead_inputs_of_a_matrix_are_gathered_away_and_then_more_of_them() -> None:
    net = built(wide())
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(2):
        coupling = analyse(net)
        masks = live_masks(net)
        columns = rng.random(net.weights["gemm1.weight"].inputs_per_group) < 0.5
        masks["gemm1.weight"] = masks["gemm1.weight"] & columns
        masks["conv1.weight"] = masks["conv1.weight"].copy()
        masks["conv1.weight"][0] = False
        masked, plan, compacted = compact(net, coupling, masks)
        assert_same(masked, compacted, rng, exact=True)
        sizes.append((len(plan.gathers), net.weights["gemm1.weight"].inputs_per_group))
        net = reread(compacted.model, net)
    assert sizes[0] == (1, 144)
    assert sizes[1][0] == 0  # the Gather that is there picks fewer
    assert net.weights["gemm1.weight"].inputs_per_group < sizes[1][1] < 60
    assert sum(node.op_type == "Gather" for node in net.model.graph) == 1
    ancestor = built(wide()).array("gemm1.weight")
    kept = read_lineage(net.model)["gemm1.weight", 1]
    np.testing.assert_array_equal(ancestor[:, kept], net.array("gemm1.weight"))


def test_a_gather_that_does_not_pay_is_not_put_in() -> None:
    net = built(wide())
    masks = live_masks(net)
    masks["gemm1.weight"] = masks["gemm1.weight"].copy()
    masks["gemm1.weight"][:, ::5] = False
    _, plan, _ = compact(net, analyse(net), masks)
    assert plan.is_empty()


# --- numbers that follow


def shared_target() -> Builder:
    """One Reshape target read by two nodes whose channels shrink differently."""
    b = Builder([1, 2, 4, 4], integers=True)
    target = b.ints(1, 4, 16)
    one = b.node("Reshape", b.conv("x", 2, 4), target)
    two = b.node("Reshape", b.conv("x", 2, 4), target)
    y = b.node("Concat", one, two, axis=1)
    b.output(b.conv(y, 8, 2, dims=1), [1, 2, 16])
    return b


def pieces() -> Builder:
    """Split, Slice and Gather of channels, by constants."""
    b = Builder([1, 2, 4, 4], integers=True)
    y = b.conv("x", 2, 8)
    b.node("Split", y, b.ints(5, 3), axis=1, outputs=2)
    left, right = b.last_outputs()
    cut = b.node("Slice", left, b.ints(1), b.ints(2**62), b.ints(1))
    mixed = b.node("Gather", right, b.ints(2, -3, 2), axis=1)
    b.output(b.conv(b.node("Concat", cut, mixed, axis=1), 7, 3), [1, 3, 4, 4])
    return b


def transposed() -> Builder:
    """Channels last and back, squeezed to a vector."""
    b = Builder([1, 2, 4, 4], integers=True)
    y = b.node("Transpose", b.conv("x", 2, 6), perm=[0, 2, 3, 1])
    y = b.matmul(b.node("Relu", y), 6, 5)
    y = b.node("GlobalMaxPool", b.node("Transpose", y, perm=[0, 3, 1, 2]))
    y = b.node("Squeeze", y, b.ints(2, 3))
    b.output(b.gemm(y, 5, 3), [1, 3])
    return b


def two_sums() -> Builder:
    """Constants of several shapes, added and multiplied per channel."""
    b = Builder([1, 2, 4, 4], integers=True)
    y = b.conv("x", 2, 6)
    y = b.node("Add", y, b.constant(b.values(6, 1, 1), "plus"))
    y = b.node("Mul", b.constant(b.values(1, 6, 1, 1), "times"), y)
    y = b.node("PRelu", y, b.constant(b.values(6, 1, 1), "slope"))
    y = b.node("Sub", y, b.constant(b.values(6, 4, 4), "minus"))
    b.output(b.conv(b.node("Max", y, b.constant(b.values(1), "least")), 6, 3), [1, 3, 4, 4])
    return b


@pytest.mark.parametrize("make", [shared_target, pieces, transposed, two_sums, wide])
def test_numbers_follow_the_channels(make: Callable[[], Builder]) -> None:
    net = built(make())
    coupling = analyse(net)
    assert not coupling.pinned()[coupling.weights["conv1.weight"].output].any()
    removed = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        masked, plan, compacted = compact(net, coupling, random_masks(net, coupling, "channel", rng))
        assert_same(masked, compacted, rng, exact=True)
        removed += bool(plan.cuts)
    assert removed >= 5


def test_a_compact_model_runs_at_other_batch_sizes() -> None:
    net = network(GRAPHS["dynamic_batch"]())
    coupling = analyse(net)
    rng = np.random.default_rng(0)
    masked, plan, compacted = compact(net, coupling, random_masks(net, coupling, "channel", rng))
    assert plan.cuts
    for batch in (1, 3):
        feed = {"x": rng.normal(size=(batch, *net.input_shapes["x"][1:])).astype(np.float32)}
        for name, array in run(masked.model, feed).items():
            np.testing.assert_allclose(run(compacted.model, feed)[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs", "dead_inputs", "dead_outputs", "stored"),
    [
        (4, 1, 1, [[0], [2]], [[0], [2]], (2, 1, 2, 2)),
        (4, 1, 2, [[1]], [[1]], (3, 2, 2, 2)),
        (2, 3, 4, [[0, 1], [1, 0]], [[0, 3], [1, 2]], (4, 3, 2, 2)),
        (3, 2, 2, [[1]], [[1]], (4, 2, 2, 2)),
    ],
    ids=["depthwise", "depthwise, two each", "some of each group", "a whole group"],
)
def test_a_transposed_convolution_is_cut_group_by_group(
    groups: int, inputs: int, outputs: int, dead_inputs: list, dead_outputs: list, stored: tuple
) -> None:
    """Dead channels as [group, channel] or as [group]."""
    b = Builder([1, 2, 4, 4], integers=True)
    y = b.node("Relu", b.conv("x", 2, groups * inputs))
    y = b.node("Relu", b.conv_transpose(y, groups * inputs, groups * outputs, group=groups))
    b.output(b.conv(y, groups * outputs, 2), [1, 2, 8, 8])
    net = built(b)
    coupling = analyse(net)
    ends = coupling.weights["convtranspose1.weight"]
    alive = np.ones(coupling.n_classes, dtype=np.bool_)
    for classes, dead in ((ends.input, dead_inputs), (ends.output.reshape(groups, -1), dead_outputs)):
        for place in dead:
            alive[classes[tuple(place)]] = False
    masks = {}
    for name, weight in net.weights.items():
        reads = np.repeat(alive[coupling.weights[name].input], weight.outputs // weight.groups, axis=0)
        keep = (alive[coupling.weights[name].output][:, None] & reads)[:, :, None]
        shape = (weight.outputs, weight.inputs_per_group, weight.taps)
        masks[name] = weight.from_canonical(np.broadcast_to(keep, shape))
    masked, _, compacted = compact(net, coupling, masks)
    assert_same(masked, compacted, np.random.default_rng(0), exact=True)
    left = reread(compacted.model, net).weights["convtranspose1.weight"]
    assert left.shape == stored
    assert not compacted.plan.padding
    rows = compacted.lineage["convtranspose1.weight", 0]
    assert rows.size == left.shape[0]
    assert compacted.lineage["convtranspose1.weight", 1].size == left.outputs


# --- lineage


@pytest.mark.parametrize(
    "name", ["lenet", "residual_bn", "depthwise", "grouped", "concat_fire", "matmul_mlp"]
)
def test_lineage_points_into_the_ancestor(name: str) -> None:
    ancestor = network(GRAPHS[name](), name)
    net = ancestor
    for seed in range(3):
        coupling = analyse(net)
        masks = random_masks(net, coupling, "channel", np.random.default_rng(seed), share=0.8)
        _, _, compacted = compact(net, coupling, masks)
        net = reread(compacted.model, net)
    lineage = read_lineage(net.model)
    assert lineage
    np.testing.assert_equal(lineage, compacted.lineage)
    for tensor, array in initializer_arrays(net.model).items():
        if tensor not in {key[0] for key in lineage}:
            continue
        whole = ancestor.array(tensor)
        weight = ancestor.weights.get(tensor)
        if weight is not None and weight.groups > 1 and weight.inputs_per_group > 1:
            groups = lineage.get((tensor, 1), np.arange(weight.groups * weight.inputs_per_group))
            rows = lineage.get((tensor, 0), np.arange(weight.outputs))
            left = net.weights[tensor].groups
            columns = (groups % weight.inputs_per_group).reshape(left, -1)
            want = np.stack([whole[row, columns[at * left // rows.size]] for at, row in enumerate(rows)])
        else:
            want = whole
            for (key, axis), kept in lineage.items():
                want = want.take(kept, axis) if key == tensor else want
        alive = array != 0
        np.testing.assert_array_equal(array[alive], want[alive])
        assert array.shape == want.shape


def test_lineage_is_written_in_runs() -> None:
    model = network(GRAPHS["lenet"]()).model.clone()
    lineage = {("b", 0): np.asarray([0, 1, 2, 5, 7, 8]), ("a", 1): np.asarray([], dtype=np.int64)}
    write_lineage(model, lineage)
    document = json.loads(model.metadata_props["evonnx.lineage"])
    assert document == {"version": 1, "axes": [["a", 1, []], ["b", 0, [0, 3, 5, 1, 7, 2]]]}
    np.testing.assert_equal(read_lineage(model), lineage)
    write_lineage(model, {})
    assert "evonnx.lineage" not in model.metadata_props


def test_composing_lineage() -> None:
    parent = {("a", 0): np.asarray([0, 2, 4, 6]), ("b", 0): np.asarray([1])}
    child = {("a", 0): np.asarray([1, 3]), ("c", 1): np.asarray([0, 5])}
    want = {("a", 0): [2, 6], ("b", 0): [1], ("c", 1): [0, 5]}
    assert {key: kept.tolist() for key, kept in compose_lineage(parent, child).items()} == want
    with pytest.raises(ModelError, match="changed after evonnx wrote it"):
        compose_lineage(parent, {("a", 0): np.asarray([4])})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version":2,"axes":[]}',
        '{"version":1,"axes":[["a",0]]}',
        '{"version":1,"axes":[["a",-1,[0,1]]]}',
        '{"version":1,"axes":[["a",0,[0]]]}',
        '{"version":1,"axes":[["a",0,[0,1,0,1]]]}',
        '{"version":1,"axes":[["a",0,[-1,1]]]}',
        '{"version":1,"axes":[["a",0,[0,99999999999]]]}',
        '{"version":1,"axes":[["a",0,[0,1.5]]]}',
        '{"version":1,"axes":[["a",0,[0,1]],["a",0,[0,1]]]}',
        '{"version":1,"axes":[' + "[" * 100000 + "]}",
    ],
)
def test_a_damaged_lineage_is_refused(text: str) -> None:
    model = network(GRAPHS["lenet"]()).model.clone()
    model.metadata_props["evonnx.lineage"] = text
    with pytest.raises(ModelError, match=r"evonnx\.lineage"):
        read_lineage(model)


# --- declarations


def test_declared_shapes_and_inputs_follow() -> None:
    proto = onnx.shape_inference.infer_shapes(GRAPHS["initializers_as_inputs"]())
    net = network(proto)
    coupling = analyse(net)
    masked, plan, compacted = compact(
        net, coupling, random_masks(net, coupling, "channel", np.random.default_rng(0))
    )
    made = onnx.load_from_string(to_bytes(compacted.model))
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    assert {v.name: v.type for v in made.graph.value_info} == {
        v.name: v.type for v in inferred.graph.value_info
    }
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in made.graph.input}
    assert all(declared[tensor.name] == list(tensor.dims) for tensor in made.graph.initializer)
    assert plan.activations
    assert_same(masked, compacted, np.random.default_rng(0))


def test_metadata_and_functions_stay() -> None:
    net = network(GRAPHS["lenet"]())
    net.model.metadata_props["author"] = "somebody"
    net.model.doc_string = "a model"
    coupling = analyse(net)
    _, _, compacted = compact(net, coupling, random_masks(net, coupling, "channel", np.random.default_rng(0)))
    assert compacted.model.metadata_props["author"] == "somebody"
    assert compacted.model.doc_string == "a model"
    assert compacted.model.producer_name == net.model.producer_name
    assert compacted.model.opset_imports == net.model.opset_imports


def test_unnamed_nodes_stay_unnamed() -> None:
    net = network(GRAPHS["unnamed_nodes"]())
    coupling = analyse(net)
    _, _, compacted = compact(net, coupling, random_masks(net, coupling, "channel", np.random.default_rng(0)))
    assert {node.name for node in onnx.load_from_string(to_bytes(compacted.model)).graph.node} == {""}


def test_kept_activations_are_those_of_the_masked_model() -> None:
    net = network(GRAPHS["lenet_integers"]())
    coupling = analyse(net)
    rng = np.random.default_rng(0)
    masked, _, compacted = compact(net, coupling, random_masks(net, coupling, "channel", rng))
    assert compacted.kept
    feed = {"x": rng.integers(-2, 3, size=net.input_shapes["x"]).astype(np.float32)}

    def with_outputs(model: ir.Model) -> ir.Model:
        proto = onnx.load_from_string(to_bytes(model))
        for name in sorted({name for name, _ in compacted.kept}):
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        return ir.from_proto(proto)

    want, got = run(with_outputs(masked.model), feed), run(with_outputs(compacted.model), feed)
    for (name, axis), kept in compacted.kept.items():
        np.testing.assert_array_equal(want[name].take(kept, axis), got[name])


def test_a_plan_and_its_result_are_deterministic() -> None:
    net = network(GRAPHS["concat_fire"]())
    coupling = analyse(net)
    masks = random_masks(net, coupling, "channel", np.random.default_rng(0))
    first: Compacted = compact(net, coupling, masks)[2]
    second: Compacted = compact(net, coupling, masks)[2]
    assert first.plan.describe() == second.plan.describe()
    assert to_bytes(first.model) == to_bytes(second.model)


# --- real files


@pytest.mark.parametrize(
    ("file", "share"),
    [
        ("mnist_cntk.onnx", 0.7),
        ("winml_pytorch_tutorial_imageclassifier.onnx", 0.7),
        ("yunet_n_320_320.onnx", 0.7),
        ("ultraface_version-slim-320_simplified.onnx", 0.7),
    ],
)
def test_real_files(file: str, share: float, shared_data: Path) -> None:
    net = load_network(shared_data / "onnx" / file)
    coupling = analyse(net)
    rng = np.random.default_rng(1)
    masked, _, compacted = compact(net, coupling, random_masks(net, coupling, "channel", rng, share=0.7))
    assert len(to_bytes(compacted.model)) < share * len(to_bytes(masked.model))
    assert_same(masked, compacted, rng, floor=1e-6)
