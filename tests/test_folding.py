"""Constant subgraphs as exporters write them become plain weights; evaluation is as the standard says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph_builder import Builder
from onnx import helper
from onnx.reference import ReferenceEvaluator

from evonnx.network import Network, load_network, network_of
from evonnx.network.evaluation import evaluate
from evonnx.onnx_io import to_bytes

# ----------------------------------------------------------------- what exporters write for one weight


def _batch_norm_training(b: Builder, w: str) -> str:
    """Weight standardisation by F.batch_norm in training mode: statistics per row of a reshaped kernel."""
    flat = b.node("Reshape", w, b.ints(1, 6, -1))
    ones, zeros = b.constant(np.full(6, 0.2, np.float32)), b.constant(np.zeros(6, np.float32))
    y = b.node("BatchNormalization", flat, ones, zeros, zeros, ones, outputs=3, epsilon=1e-6, training_mode=1)
    return b.node("Reshape", y, b.ints(6, 3, 3, 3))


def _instance_norm(b: Builder, w: str) -> str:
    flat = b.node("Reshape", w, b.ints(1, 6, -1))
    ones, zeros = b.constant(np.full(6, 0.2, np.float32)), b.constant(np.zeros(6, np.float32))
    return b.node("Reshape", b.node("InstanceNormalization", flat, ones, zeros), b.ints(6, 3, 3, 3))


def _mean_and_variance(b: Builder, w: str) -> str:
    centred = b.node("Sub", w, b.node("ReduceMean", w, axes=[1, 2, 3]))
    squares = b.node("Mul", centred, centred)
    variance = b.node("ReduceMean", squares, axes=[1, 2, 3])
    deviation = b.node("Sqrt", b.node("Add", variance, b.constant(np.float32(1e-4))))
    return b.node("Mul", b.node("Div", centred, deviation), b.constant(b.values(6, 1, 1, 1)))


def _weight_norm(b: Builder, w: str) -> str:
    norm = b.node("ReduceL2", w, axes=[1, 2, 3])
    return b.node("Mul", b.node("Div", w, norm), b.constant(b.values(6, 1, 1, 1)))


STANDARDISED = (_batch_norm_training, _instance_norm, _mean_and_variance, _weight_norm)


@pytest.mark.parametrize("standardise", STANDARDISED)
def test_a_standardised_kernel_becomes_a_plain_weight(standardise: Callable[[Builder, str], str]) -> None:
    b = Builder([1, 3, 5, 5])
    y = b.node("Relu", b.conv("x", 3, 6, weight=standardise(b, b.constant(b.values(6, 3, 3, 3), "raw"))))
    b.output(b.conv(y, 6, 2, 1), [1, 2, 5, 5], "y")
    proto = b.model()
    found = network_of(ir.from_proto(proto), "standardised")
    folded, second = found.weights.values()
    assert second.name == "conv2.weight"
    assert not folded.uses[0].relayouts
    assert not found.unprunable
    assert [node.op_type for node in found.model.graph] == ["Conv", "Relu", "Conv"]
    assert list(found.model.graph.initializers).count("raw") == 0
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 5, 5)).astype(np.float32)}
    (want,) = ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_allclose(_run(found, feeds), want, rtol=1e-4, atol=1e-5)


def _run(found: Network, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(to_bytes(found.model), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, feeds)
    return np.asarray(y)


# --------------------------------------------------------------------------------- tables of positions


def _bias_table(b: Builder) -> str:
    """Relative position bias: rows of a table by index, heads to the front."""
    table = b.constant(b.values(7 * 7, 2), "table")
    index = b.constant(b.rng.integers(0, 49, size=(16,)).astype(np.int64), "index")
    bias = b.node("Reshape", b.node("Gather", table, index), b.ints(4, 4, 2))
    return b.node("Unsqueeze", b.node("Transpose", bias, perm=[2, 0, 1]), b.ints(0))


def _bias_network(b: Builder) -> str:
    """The same, the table made by a small network from coordinates."""
    coordinates = b.constant(b.values(49, 2), "coordinates")
    hidden = b.node("Relu", b.matmul(coordinates, 2, 8))
    table = b.node("Mul", b.node("Sigmoid", b.matmul(hidden, 8, 2)), b.constant(np.float32(16)))
    index = b.constant(b.rng.integers(0, 49, size=(4, 4)).astype(np.int64), "index")
    bias = b.node("Transpose", b.node("Gather", table, index), perm=[2, 0, 1])
    return b.node("Unsqueeze", bias, b.ints(0))


def _rotary_table(b: Builder) -> str:
    steps = (b.constant(np.float32(0)), b.constant(np.float32(4)), b.constant(np.float32(1)))
    positions = b.node("Unsqueeze", b.node("Range", *steps), b.ints(1))
    angles = b.node("MatMul", positions, b.constant(b.values(1, 2), "frequencies"))
    return b.node("Cos", b.node("Concat", angles, angles, axis=-1))


def _causal_mask(b: Builder) -> str:
    one = b.constant(np.asarray([-1e4], np.float32))
    return b.node("Trilu", b.node("Expand", one, b.ints(4, 4)), upper=1)


def _resized_embedding(b: Builder) -> str:
    grid = b.constant(b.values(1, 2, 3, 3), "grid")
    big = b.node("Resize", grid, "", "", b.ints(1, 2, 4, 4), mode="linear")
    return b.node("Tile", big, b.ints(1, 1, 1, 1))


def _filled(b: Builder) -> str:
    shape = b.node("Shape", b.constant(b.values(4, 4), "template"))
    return b.node("ConstantOfShape", shape, value=onnx.numpy_helper.from_array(np.asarray([0.5], np.float32)))


TABLES = (_bias_table, _bias_network, _rotary_table, _causal_mask, _resized_embedding, _filled)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_positions_becomes_one_constant(table: Callable[[Builder], str]) -> None:
    b = Builder([1, 2, 4, 4])
    made = table(b)
    b.output(b.node("Add", "x", made), [1, 2, 4, 4], "y")
    proto = b.model()
    found = network_of(ir.from_proto(proto), "table")
    assert [node.op_type for node in found.model.graph] == ["Add"]
    assert list(found.model.graph.initializers) == [made]
    assert not found.unprunable
    feeds = {"x": np.zeros((1, 2, 4, 4), np.float32)}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    (want,) = ort.InferenceSession(proto.SerializeToString(), options).run(None, feeds)
    np.testing.assert_allclose(_run(found, feeds), want, rtol=1e-5, atol=1e-6)


def test_a_dequantised_constant_stays_as_it_is() -> None:
    b = Builder([1, 4])
    stored = b.constant(np.arange(8, dtype=np.int8).reshape(4, 2), "stored")
    weight = b.node("DequantizeLinear", stored, b.constant(np.float32(0.5)))
    b.output(b.node("MatMul", "x", weight), [1, 2], "y")
    found = network_of(ir.from_proto(b.model()), "quantised")
    assert [node.op_type for node in found.model.graph] == ["DequantizeLinear", "MatMul"]
    assert list(found.weights) == ["stored"]


# -------------------------------------------------------------------------- evaluation of single nodes

F = np.asarray([[1.5, -2.0, 0.25], [3.0, -0.5, 4.0]], np.float32)
P = np.abs(F)
I = np.asarray([[7, -7, 2], [-9, 4, 5]], np.int64)  # noqa: E741
B = np.asarray([[True, False, True], [False, False, True]])


def _i(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


NODES: list[tuple[str, tuple[np.ndarray | None, ...], dict[str, object]]] = [
    *((op, (F,), {}) for op in ("Identity", "Neg", "Abs", "Exp", "Sin", "Cos", "Tanh", "Floor", "Ceil")),
    *((op, (F,), {}) for op in ("Sign", "Reciprocal", "Relu", "Shape", "Size", "Flatten", "Transpose")),
    *((op, (P,), {}) for op in ("Sqrt", "Log")),
    *((op, (F, P), {}) for op in ("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater", "LessOrEqual")),
    *((op, (I, I.T.reshape(2, 3)), {}) for op in ("Add", "Sub", "Mul", "Div", "GreaterOrEqual")),
    *((op, (B, ~B), {}) for op in ("And", "Or")),
    ("Not", (B,), {}),
    ("Mod", (I, np.full_like(I, 4)), {}),
    ("Mod", (I, np.full_like(I, -4)), {}),
    ("Mod", (F, P), {"fmod": 1}),
    ("Pow", (P, np.float32(3)), {}),
    ("Where", (B, F, np.float32(9)), {}),
    ("Cast", (F,), {"to": 7}),
    ("Cast", (F,), {"to": 9}),
    ("CastLike", (F, I), {}),
    ("Shape", (F,), {"start": 1}),
    ("Shape", (F,), {"start": -2, "end": -1}),
    ("Gather", (F, _i(2, -1, 0)), {"axis": 1}),
    ("Gather", (F, np.asarray(1)), {}),
    ("Squeeze", (F[None],), {}),
    ("Squeeze", (F[None, :, None], _i(0)), {}),
    ("Unsqueeze", (F, _i(0, -1)), {}),
    ("Flatten", (F[None],), {"axis": 2}),
    ("Flatten", (F[None],), {"axis": 0}),
    ("Flatten", (F[None],), {"axis": -1}),
    ("Reshape", (F, _i(3, -1)), {}),
    ("Reshape", (F, _i(0, 3, 1)), {}),
    ("Transpose", (F[None],), {"perm": [2, 0, 1]}),
    ("Concat", (F, P), {"axis": 0}),
    ("Concat", (F, P), {"axis": -1}),
    ("Slice", (F, _i(1), _i(1000), _i(1)), {}),
    ("Slice", (F, _i(-1), _i(-1000), _i(1), _i(-1)), {}),
    ("Slice", (F, _i(0, 0), _i(2, -1)), {}),
    ("MatMul", (F, P.T), {}),
    ("ConstantOfShape", (_i(2, 3),), {}),
    ("Range", (np.asarray(1), np.asarray(9), np.asarray(3)), {}),
    ("Range", (np.float32(1), np.float32(0), np.float32(-0.25)), {}),
    ("Expand", (F[:, :1], _i(4, 1, 3)), {}),
    ("Expand", (F, _i(1)), {}),
    ("Tile", (F, _i(2, 1)), {}),
    ("Trilu", (F,), {}),
    ("Trilu", (F, np.asarray(-1)), {"upper": 0}),
    *((op, (F,), {}) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")),
    ("ReduceMean", (F, _i(-1)), {"keepdims": 0}),
    ("ReduceSum", (F,), {"noop_with_empty_axes": 1}),
    ("Split", (F, _i(1, 2)), {"axis": 1}),
    ("Gemm", (F, P), {"transB": 1}),
    ("Einsum", (F[0], P[0]), {"equation": "i,j->ij"}),
    ("CumSum", (F, np.asarray(1)), {}),
    ("Pad", (F, _i(0, 1, 0, 2)), {}),
    ("OneHot", (np.asarray([0, 2]), np.asarray(3), np.asarray([0.0, 1.0], np.float32)), {}),
    ("NonZero", (B,), {}),
    ("GatherND", (F, np.asarray([[0, 1], [1, 2]])), {}),
    ("ScatterND", (F, np.asarray([[0, 1]]), np.asarray([9.0], np.float32)), {}),
    ("Softmax", (F,), {}),
    ("LayerNormalization", (F, P[0]), {}),
]


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"), NODES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_nodes_are_evaluated_as_the_standard_says(
    op_type: str, inputs: tuple[np.ndarray, ...], attributes: dict[str, object]
) -> None:
    names = [f"i{index}" for index in range(len(inputs))]
    made = ["a", "b"] if op_type == "Split" else ["a"]
    node = helper.make_node(op_type, names, made, **attributes)
    (results,) = (evaluate(ir.serde.deserialize_node(node), inputs, {"": 18}),)
    assert results is not None
    graph = helper.make_graph(
        [node],
        "g",
        [onnx.ValueInfoProto(name=name) for name in names],
        [onnx.ValueInfoProto(name=name) for name in made],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    wanted = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    for found, want in zip(results, wanted, strict=True):
        assert found.dtype == np.asarray(want).dtype
        assert found.shape == np.asarray(want).shape
        np.testing.assert_allclose(found, want, rtol=1e-6)


LARGE: list[tuple[str, tuple[np.ndarray, ...], dict[str, object]]] = [
    ("Expand", (F[:, :1], _i(2, 1 << 30)), {}),
    ("Tile", (F, _i(1 << 12, 1 << 12)), {}),
    ("Range", (np.asarray(0), np.asarray(1 << 40), np.asarray(1)), {}),
    ("ConstantOfShape", (_i(1 << 20, 1 << 20),), {}),
    ("Pad", (F, _i(0, 0, 1 << 30, 0)), {}),
    ("Resize", (F, None, np.asarray([1e4, 1e4], np.float32)), {}),
    ("OneHot", (np.zeros(9, np.int64), np.asarray(1 << 30), np.asarray([0, 1])), {}),
    ("Einsum", (np.zeros(4096, np.float32), np.zeros(4096, np.float32)), {"equation": "i,j->ij"}),
    ("MatMul", (np.zeros((4096, 1), np.float32), np.zeros((1, 4096), np.float32)), {}),
    ("GatherND", (np.zeros((1, 4096), np.float32), np.zeros((4096, 1), np.int64)), {}),
    ("Gather", (np.zeros((1, 4096), np.float32), np.zeros(4096, np.int64)), {}),
    ("Div", (I, np.zeros_like(I)), {}),
    ("Reshape", (F, _i(7, 7)), {}),
    ("RandomNormalLike", (F,), {}),
]


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"), LARGE, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_would_be_large_or_does_not_fit_is_left_alone(
    op_type: str, inputs: tuple[np.ndarray, ...], attributes: dict[str, object]
) -> None:
    names = [f"i{index}" if array is not None else "" for index, array in enumerate(inputs)]
    node = ir.serde.deserialize_node(helper.make_node(op_type, names, ["a"], **attributes))
    assert evaluate(node, inputs, {"": 18}) is None


def test_bytes_of_a_file_are_those_of_the_file(tmp_path: Path) -> None:
    """Also where constants that are computed from its own make the model larger than that."""
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[1, 512] x) => (float[1, 512] y)
        <float[512] w> { v = Identity (w) a = Add (x, w) y = Mul (a, v) }"""
    model = onnx.parser.parse_model(text)
    values = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    del model.graph.initializer[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    network = load_network(path)
    assert len(network.model.graph.initializers) == 2
    assert network.stored_bytes == path.stat().st_size
