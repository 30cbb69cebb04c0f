"""Which weights are found, how they are laid out, what is refused and why, shapes, and folding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from hypothesis import given
from onnx import helper, numpy_helper
from strategies import small_models

from evonnx.errors import ModelError
from evonnx.network import Network, load_network, network_of
from evonnx.onnx_io import files as onnx_io


def network(name: str) -> Network:
    return network_of(ir.from_proto(GRAPHS[name]()), f"{name}.onnx")


def run(model: onnx.ModelProto | bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


# --------------------------------------------------------------------------------------- what is found where

FOUND: dict[str, dict[str, tuple[int, int, int, int, float]]] = {
    # weight: (groups, O, I, K, MACs per tap)
    "lenet": {
        "conv1.weight": (1, 4, 1, 25, 144),
        "conv2.weight": (1, 6, 4, 9, 36),
        "gemm1.weight": (1, 10, 54, 1, 1),
        "gemm2.weight": (1, 5, 10, 1, 1),
    },
    "depthwise": {
        "conv1.weight": (1, 6, 3, 9, 64),
        "conv2.weight": (6, 6, 1, 9, 64),
        "conv3.weight": (1, 8, 6, 1, 64),
        "conv4.weight": (8, 16, 1, 9, 64),
        "conv5.weight": (1, 5, 16, 1, 64),
    },
    "grouped": {
        "conv1.weight": (1, 8, 4, 9, 36),
        "conv2.weight": (2, 12, 4, 9, 36),
        "conv3.weight": (4, 8, 3, 9, 36),
        "conv4.weight": (1, 3, 8, 1, 36),
    },
    "conv_transpose": {
        "conv1.weight": (1, 6, 3, 9, 16),
        "convtranspose1.weight": (1, 8, 6, 4, 16),
        "convtranspose2.weight": (2, 4, 4, 4, 64),
        "conv2.weight": (1, 2, 4, 1, 256),
    },
    "conv1d": {
        "conv1.weight": (1, 6, 2, 3, 12),
        "conv2.weight": (1, 8, 6, 5, 12),
        "gemm1.weight": (1, 4, 48, 1, 1),
    },
    "conv3d": {
        "conv1.weight": (1, 4, 1, 27, 144),
        "conv2.weight": (1, 6, 4, 9, 144),
        "gemm1.weight": (1, 3, 6, 1, 1),
    },
    "gemm_trans_b": {
        "gemm1.weight": (1, 10, 6, 1, 1),
        "gemm2.weight": (1, 8, 10, 1, 1),
        "gemm3.weight": (1, 3, 8, 1, 1),
    },
    "gemm_trans_a": {"a1.weight": (1, 8, 6, 1, 4), "a2.weight": (1, 3, 8, 1, 4)},
    "matmul_mlp": {
        "matmul1.weight": (1, 9, 7, 1, 1),
        "matmul2.weight": (1, 8, 9, 1, 1),
        "matmul3.weight": (1, 3, 8, 1, 1),
    },
    "matmul_left": {"left1.weight": (1, 8, 6, 1, 5), "left2.weight": (1, 4, 8, 1, 5)},
    "matmul_batched": {"batched.weight": (1, 8, 6, 2, 5), "matmul2.weight": (1, 3, 8, 1, 10)},
    "shared_weights": {"shared.weight": (1, 4, 4, 9, 72), "conv3.weight": (1, 3, 4, 1, 36)},
    "siamese": {"shared.weight": (1, 5, 2, 9, 72), "conv3.weight": (1, 3, 5, 1, 36)},
    "relayouts": {
        "flat.weight": (1, 6, 3, 9, 36),
        "hwio.weight": (1, 8, 6, 9, 36),
        "thin.weight": (1, 8, 8, 1, 36),
        "fat.weight": (1, 5, 8, 1, 1),
        "boxed.weight": (1, 3, 5, 1, 1),
    },
    "cntk_style": {"w1": (1, 4, 1, 25, 64), "w2": (1, 6, 4, 9, 16), "w3": (1, 5, 24, 1, 1)},
    "quantized_weight": {"stored.weight": (1, 6, 3, 9, 16), "conv2.weight": (1, 2, 6, 1, 16)},
    "fp16_cast": {"half.weight": (1, 6, 3, 9, 36), "conv2.weight": (1, 2, 6, 1, 36)},
    "dynamic_size": {
        "conv1.weight": (1, 6, 3, 9, 112 * 112),
        "conv2.weight": (1, 8, 6, 9, 112 * 112),
        "gemm1.weight": (1, 4, 8, 1, 1),
    },
}
FOUND |= dict.fromkeys(("constant_nodes", "unnamed_nodes", "initializers_as_inputs", "fp16"), FOUND["lenet"])


@pytest.mark.parametrize("name", FOUND)
def test_weights_are_found_with_their_layout_and_cost(name):
    weights = network(name).weights
    assert {
        w.name: (w.groups, w.outputs, w.inputs_per_group, w.taps, w.macs_per_tap) for w in weights.values()
    } == FOUND[name]
    for weight in weights.values():
        assert weight.is_convolution == (weight.uses[0].op_type in ("Conv", "ConvTranspose"))


REFUSED = {
    "control_flow": {
        "outer.weight": "inside the If subgraph of node if1",
        "inner.weight": "inside the If subgraph of node if1",
    },
    "tied_embedding": {"table": "embedding table"},
    "lstm": {"lstm.w": "recurrent", "lstm.r": "recurrent"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_weights_that_cannot_be_pruned_are_listed_with_the_reason(name):
    found = network(name)
    reasons = {item.name: item.reason for item in found.unprunable}
    assert reasons.keys() == REFUSED[name].keys()
    assert all(REFUSED[name][key] in reason for key, reason in reasons.items())
    assert not reasons.keys() & found.weights.keys()


EINSUMS = {
    # equation: (weight's shape, activation's shape) and (O, I) or the reason
    "bsd,dk->bsk": ((4, 6), (2, 3, 4), (6, 4)),
    "bsd,kd->bsk": ((6, 4), (2, 3, 4), (6, 4)),
    "...i,oi->...o": ((6, 4), (2, 3, 4), (6, 4)),
    "bchw, oc -> bohw": ((6, 4), (2, 4, 3, 3), (6, 4)),
    "bsd,dhk->bshk": ((4, 2, 3), (2, 3, 4), "not a product with a matrix"),
    "bsd,sk->bdk": ((3, 6), (2, 3, 4), (6, 3)),
    "bsd,dk->bs": ((4, 6), (2, 3, 4), "not a product with a matrix"),
    "bsd,sd->bsd": ((3, 4), (2, 3, 4), "not a product with a matrix"),
}


@pytest.mark.parametrize("equation", EINSUMS)
@pytest.mark.parametrize("slot", [1, 0])
def test_an_einsum_with_a_matrix_is_a_layer(equation, slot):
    shape, source, want = EINSUMS[equation]
    b = Builder(list(source))
    weight = b.constant(b.values(*shape), "w")
    terms, result = equation.split("->")
    if slot == 0:
        equation = ",".join(reversed(terms.split(","))) + "->" + result
    y = b.node("Einsum", *(["x", weight] if slot else [weight, "x"]), equation=equation)
    rank = len(result.strip().replace("...", "bs"))
    b.output(y, [None] * rank)
    found = network_of(ir.from_proto(b.model()), "einsum")
    if isinstance(want, str):
        assert [want in item.reason for item in found.unprunable] == [True]
        return
    layer = found.weights["w"]
    assert (layer.outputs, layer.inputs_per_group, layer.taps) == (*want, 1)
    made = found.shapes[y]
    assert layer.macs_per_tap == np.prod(made) / layer.outputs
    o, i = (layer.output_axis, layer.input_axis)
    np.testing.assert_array_equal(found.canonical("w")[:, :, 0], np.transpose(found.array("w"), (o, i)))


def _two_readers(second: Callable[[Builder, str, str], str]) -> Network:
    b = Builder([1, 4, 5, 5])
    weight = b.constant(b.values(4, 4, 1, 1), "w")
    y = b.conv("x", 4, 4, 1, weight=weight)
    b.output(b.conv(second(b, y, weight), 4, 2, 1), [1, 2, 5, 5], "y")
    return network_of(ir.from_proto(b.model()), "two readers")


SECOND_READERS: dict[str, tuple[Callable[[Builder, str, str], str], str]] = {
    "a Mul": (
        lambda b, y, w: b.node(
            "Add", y, b.node("ReduceSum", b.node("Mul", w, b.node("ReduceSum", y, keepdims=0)), keepdims=0)
        ),
        "also read by mul1 (Mul)",
    ),
    "other groups": (
        lambda b, y, w: b.conv(b.node("Concat", y, y, y, y, axis=1), 16, 4, 1, group=4, weight=w),
        "several layouts",
    ),
    "inputs as outputs": (
        lambda b, y, w: b.conv(y, 4, 4, 1, weight=b.node("Transpose", w, perm=[1, 0, 2, 3])),
        "several layouts",
    ),
}


@pytest.mark.parametrize("case", SECOND_READERS)
def test_a_constant_read_in_ways_that_disagree_is_left_alone(case):
    second, reason = SECOND_READERS[case]
    found = _two_readers(second)
    assert "w" not in found.weights
    assert [reason in item.reason for item in found.unprunable if item.name == "w"] == [True]


def test_equal_views_through_different_relayouts_are_one_weight():
    found = _two_readers(lambda b, y, w: b.conv(y, 4, 4, 1, weight=b.node("Reshape", w, b.ints(4, 4, 1, 1))))
    assert len(found.weights["w"].uses) == 2
    assert found.weights["w"].macs_per_tap == 50


def test_a_weight_that_is_also_an_output_is_left_alone():
    model = GRAPHS["lenet"]()
    model.graph.output.append(
        helper.make_tensor_value_info("conv1.weight", onnx.TensorProto.FLOAT, [4, 1, 5, 5])
    )
    found = network_of(ir.from_proto(model), "weight as output")
    assert [item.reason for item in found.unprunable] == ["it is also an output of the model"]


def test_weights_in_functions_and_other_domains_are_left_alone():
    model = GRAPHS["lenet"]()
    weight = numpy_helper.from_array(np.ones((5, 5), np.float32), "inside")
    body = [
        helper.make_node("Constant", [], ["inside"], value=weight),
        helper.make_node("MatMul", ["a", "inside"], ["b"]),
    ]
    opset = helper.make_opsetid("", 17)
    model.functions.append(helper.make_function("mine", "Head", ["a"], ["b"], body, [opset]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((5, 5), np.float32), "foreign"))
    tip = model.graph.output[0].name
    model.graph.node[-1].output[0] = "tip"
    model.graph.node.append(helper.make_node("Head", ["tip"], ["headed"], domain="mine"))
    model.graph.node.append(helper.make_node("Odd", ["headed", "foreign"], [tip], domain="theirs"))
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    found = network_of(ir.from_proto(model), "functions")
    reasons = {item.name: item.reason for item in found.unprunable}
    assert reasons == {
        "inside": "it is inside function Head",
        "foreign": "operator theirs.Odd is not understood",
    }


# -------------------------------------------------------------------------------------------------- layouts


def _stored_of(name: str, weight: str, o: int, i: int, k: int) -> tuple[int, ...]:
    """Where (o, i, k) of a named graph's weight is stored, by hand."""
    return {
        "conv1.weight": (o, i, k // 3, k % 3),
        "convtranspose1.weight": (i, o, k // 2, k % 2),
        # groups = 2, 4 outputs of 2 per group, 4 inputs per group
        "convtranspose2.weight": (4 * (o // 2) + i, o % 2, k // 2, k % 2),
        "conv2.weight": (o, i, 0, 0),
        "hwio.weight": (k // 3, k % 3, i, o),
        "flat.weight": (o, 9 * i + k),
        "thin.weight": (o, i),
        "fat.weight": (i // 4, i % 4, o),
        "boxed.weight": (0, o, i),
        "batched.weight": (k, i, o),
        "matmul2.weight": (i, o),
        "left1.weight": (o, i),
        "left2.weight": (o, i),
        "a1.weight": (o, i),
        "a2.weight": (i, o),
    }[weight]


@pytest.mark.parametrize(
    "name", ["conv_transpose", "relayouts", "matmul_batched", "matmul_left", "gemm_trans_a"]
)
def test_the_canonical_view_is_what_the_operator_defines(name):
    found = network(name)
    for weight in found.weights.values():
        stored, canonical = found.array(weight.name), found.canonical(weight.name)
        assert canonical.shape == (weight.outputs, weight.inputs_per_group, weight.taps)
        for o, i, k in np.ndindex(*canonical.shape):
            assert canonical[o, i, k] == stored[_stored_of(name, weight.name, o, i, k)]


@pytest.mark.parametrize("name", GRAPHS)
def test_from_canonical_inverts_to_canonical(name):
    for weight in network(name).weights.values():
        ids = np.arange(int(np.prod(weight.shape))).reshape(weight.shape)
        np.testing.assert_array_equal(weight.from_canonical(weight.to_canonical(ids)), ids)
        mask = ids % 3 == 0
        assert weight.from_canonical(weight.to_canonical(mask)).dtype == np.bool_


@given(small_models())
def test_random_models_are_understood_whole(model):
    found = network_of(ir.from_proto(model), "random")
    assert not found.unprunable
    assert not found.notes
    feeds = {"x": np.zeros(found.input_shapes["x"], np.float32)}
    every = onnx.shape_inference.infer_shapes(model)
    every.graph.output.extend(every.graph.value_info)
    results = run(every, feeds)
    for info, array in zip(every.graph.output, results, strict=True):
        assert found.shapes[info.name] == array.shape
    for weight in found.weights.values():
        assert weight.macs_per_tap
        np.testing.assert_array_equal(
            weight.from_canonical(found.canonical(weight.name)), found.array(weight.name)
        )


@given(small_models(integers=True))
def test_integer_models_stay_exact(model):
    rng = np.random.default_rng(0)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    (y,) = run(model, {"x": rng.integers(-2, 3, size=shape).astype(np.float32)})
    assert np.all(y == np.round(y))
    assert np.max(np.abs(y)) < 2**24


# --------------------------------------------------------------------------------------------------- shapes


def test_open_dimensions_are_filled_and_noted(graph_file):
    found = load_network(graph_file("dynamic_size"))
    assert found.input_shapes == {"x": (1, 3, 224, 224)}
    assert found.notes == ("Input 'x' declares [N, 3, H, W]; shapes and MACs are for 1x3x224x224.",)
    assert found.shapes[found.weights["conv2.weight"].uses[0].node.outputs[0].name] == (1, 8, 112, 112)
    assert str(found.model.graph.inputs[0].shape) == "[N,3,H,W]"


def test_given_input_shapes_are_used_and_macs_stay_per_example(graph_file):
    found = load_network(graph_file("dynamic_size"), {"x": (4, 3, 8, 6)})
    assert found.input_shapes == {"x": (4, 3, 8, 6)}
    assert not found.notes
    assert found.weights["conv1.weight"].macs_per_tap == 4 * 3
    assert found.weights["gemm1.weight"].macs_per_tap == 1


def test_an_open_size_is_chosen_so_that_the_layers_fit():
    b = Builder([1, 3, "H", "W"])
    y = b.max_pool(b.node("Relu", b.conv("x", 3, 4)))
    b.output(b.gemm(b.node("Flatten", y), 4 * 16 * 16, 3), [1, 3], "y")
    assert network_of(ir.from_proto(b.model()), "fixed head").input_shapes == {"x": (1, 3, 32, 32)}


def test_a_named_dimension_has_one_size():
    b = Builder(["N", 4])
    b.inputs.append(helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, [3, "N", 4]))
    b.output(b.node("Add", b.gemm("x", 4, 4), "state"), [3, "N", 4], "y")
    model = ir.from_proto(b.model())
    assert network_of(model, "m").input_shapes == {"x": (1, 4), "state": (3, 1, 4)}
    assert network_of(model, "m", {"x": (7, 4)}).input_shapes == {"x": (7, 4), "state": (3, 7, 4)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"image": (1, 3, 8, 8)}, r"no input named 'image'; its inputs are x\[N, 3, H, W\]"),
        ({"x": (1, 3, 8)}, r"does not fit input 'x' .*; its inputs are x\[N, 3, H, W\]"),
        ({"x": (1, 4, 8, 8)}, "does not fit input 'x'"),
        ({"x": (1, 3, 0, 8)}, "dimension below 1"),
    ],
)
def test_input_shapes_that_do_not_fit_are_refused(shapes, message, graph_file):
    with pytest.raises(ModelError, match=message):
        load_network(graph_file("dynamic_size"), shapes)


# -------------------------------------------------------------------------------------------------- folding


def test_constant_subgraphs_are_folded_in_a_clone_without_changing_the_function():
    proto = GRAPHS["folded_constants"]()
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString()
    found = network_of(model, "folded")
    assert ir.to_proto(model).SerializeToString() == before
    assert set(found.weights) == {"mul1_out", "conv2.weight"}
    assert [note.split(" were ")[0] for note in found.notes] == ["3 node(s) with constant results"]
    assert "raw.weight" not in found.model.graph.initializers
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(onnx_io.to_bytes(found.model), feeds)[0], run(proto, feeds)[0], rtol=1e-5)
    onnx.checker.check_model(onnx.load_from_string(onnx_io.to_bytes(found.model)), full_check=True)


def test_folding_keeps_what_others_still_read_and_old_files_valid():
    b = Builder([1, 3, 6, 6], opset=8, ir_version=3, initializers_as_inputs=True)
    shared = b.constant(b.values(6, 3, 1, 1), "shared")
    doubled = b.node("Add", shared, shared)
    y = b.node("Add", b.conv("x", 3, 6, 1, weight=doubled), b.conv("x", 3, 6, 1, weight=shared))
    b.output(b.conv(y, 6, 2, 1), [1, 2, 6, 6], "y")
    found = network_of(ir.from_proto(b.model()), "old")
    assert {"shared", "add1_out"} <= set(found.weights)
    onnx.checker.check_model(onnx.load_from_string(onnx_io.to_bytes(found.model)), full_check=True)


def test_a_constant_that_would_explode_is_not_computed():
    b = Builder([1, 4])
    column, row = b.constant(b.values(1 << 15, 1), "column"), b.constant(b.values(1, 1 << 15), "row")
    huge = b.node("Add", column, row)
    huger = b.node("Expand", b.constant(np.float32(1)), b.ints(1 << 15, 1 << 15))
    y = b.node("Add", b.gemm("x", 4, 1), b.node("ReduceMax", huge, keepdims=0))
    b.output(b.node("Add", y, b.node("ReduceMax", huger, keepdims=0)), [1, 1], "y")
    found = network_of(ir.from_proto(b.model()), "huge")
    assert not found.notes
    assert set(found.weights) == {"gemm1.weight"}


def test_a_tensor_that_no_machine_should_hold_is_refused():
    b = Builder([1, 4])
    huge = b.node("Expand", b.constant(np.float32(1)), b.ints(1 << 16, 1 << 15))
    y = b.node("Add", b.gemm("x", 4, 1), b.node("ReduceMax", huge, keepdims=0))
    b.output(y, [1, 1], "y")
    with pytest.raises(ModelError, match=r"'expand1_out' would have the shape \[65536, 32768\]"):
        network_of(ir.from_proto(b.model()), "huge")


def test_a_model_without_constant_subgraphs_is_not_cloned():
    model = ir.from_proto(GRAPHS["residual_bn"]())
    assert network_of(model, "m").model is model


# ------------------------------------------------------------------------------------------------- the rest


def test_arrays_and_labels(graph_file):
    found = load_network(graph_file("constant_nodes"))
    assert found.array("conv1.bias").shape == (4,)
    assert found.weights["conv1.weight"].uses[0].node_label == "conv1"
    assert found.label(found.weights["gemm2.weight"].uses[0].node) == "gemm2"
    with pytest.raises(ModelError, match="no initializer or Constant node named 'nope'"):
        found.array("nope")
    unnamed = network("unnamed_nodes")
    assert unnamed.weights["conv2.weight"].uses[0].node_label == "Conv#3"


@pytest.mark.parametrize("name", ["lenet", "fp16", "double", "bfloat16"])
def test_every_floating_point_type_is_read(name):
    found = network(name)
    assert found.weights
    for weight in found.weights.values():
        assert found.array(weight.name).dtype == weight.dtype.numpy()
        assert np.all(np.isfinite(found.canonical(weight.name)))


def test_infinite_weights_are_refused_wherever_they_are():
    model = ir.from_proto(GRAPHS["relayouts"]())
    array = onnx_io.initializer_arrays(model)["hwio.weight"].copy()
    array[-1, -1, -1, -1] = -np.inf
    onnx_io.set_array(model, "hwio.weight", array)
    with pytest.raises(ModelError, match=r"m\.onnx: weight 'hwio.weight' of node conv2 holds NaN"):
        network_of(model, "m.onnx")


REAL_FILES = {
    # file: (prunable weights, unprunable, million MACs)
    "mnist_cntk": (3, 0, 0.79),
    "silero_vad": (0, 12, 0.0),
    "silero_vad_16k_op15": (6, 0, 0.43),
    "squeezenet_fp16": (26, 0, 349.15),
    "ultraface_version-RFB-320": (52, 0, 100.42),
    "ultraface_version-slim-320_simplified": (42, 0, 81.41),
    "winml_pytorch_tutorial_imageclassifier": (5, 0, 6.13),
    "yunet_n_320_320": (59, 0, 135.60),
    "yunet_n_dynamic": (59, 0, 66.44),
}


def test_real_files_are_read(shared_data):
    for stem, (prunable, unprunable, mmacs) in REAL_FILES.items():
        found = load_network(shared_data / "onnx" / f"{stem}.onnx")
        assert (len(found.weights), len(found.unprunable)) == (prunable, unprunable), stem
        costs = [
            None if w.macs_per_tap is None else w.macs_per_tap * w.outputs * w.inputs_per_group * w.taps
            for w in found.weights.values()
        ]
        assert (None if None in costs else round(sum(costs) / 1e6, 2)) == mmacs, stem
        for weight in found.weights.values():
            stored = found.array(weight.name)
            np.testing.assert_array_equal(weight.from_canonical(weight.to_canonical(stored)), stored)


def test_a_weight_is_plain_data():
    weight = network("lenet").weights["conv1.weight"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        weight.groups = 2  # type: ignore[misc]
