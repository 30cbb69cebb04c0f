"""Deep narrow networks with random weights, where signals fade, swell or hardly move: what a proof must see
through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from graph_builder import Builder
from onnx import helper

DEEP: dict[str, Callable[[], onnx.ModelProto]] = {}
DIMS, HEADS = 16, 2


def deep(function: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    DEEP[function.__name__] = function
    return function


def _linear(b: Builder, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
    weight = b.constant(gain * b.values(inputs, outputs), b.fresh("linear.weight"))
    return b.node("Add", b.node("MatMul", x, weight), b.constant(0.1 * b.values(outputs), b.fresh("bias")))


def _norm(b: Builder, x: str, dims: int = DIMS) -> str:
    scale, shift = b.rng.uniform(0.5, 1.5, dims), 0.1 * b.rng.standard_normal(dims)
    return b.node("LayerNormalization", x, b.constant(scale.astype("f")), b.constant(shift.astype("f")))


def _heads(b: Builder, x: str) -> str:
    return b.node("Transpose", b.node("Reshape", x, b.ints(0, -1, HEADS, DIMS // HEADS)), perm=[0, 2, 1, 3])


def _attention(b: Builder, x: str, bias: str | None = None) -> str:
    q, k, v = (_heads(b, _linear(b, x, DIMS, DIMS)) for _ in range(3))
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = b.node("Mul", scores, b.constant(np.float32((DIMS // HEADS) ** -0.5)))
    if bias is not None:
        scores = b.node("Add", scores, bias)
    y = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), b.ints(0, -1, DIMS))
    return _linear(b, y, DIMS, DIMS)


def _gelu(b: Builder, x: str) -> str:
    erf = b.node("Erf", b.node("Div", x, b.constant(np.float32(np.sqrt(2)))))
    half = b.node("Mul", b.node("Add", erf, b.constant(np.float32(1))), b.constant(np.float32(0.5)))
    return b.node("Mul", x, half)


def _transformer(b: Builder, x: str, blocks: int, gain: float = 1.0, bias: str | None = None) -> str:
    for _ in range(blocks):
        x = b.node("Add", x, _attention(b, _norm(b, x), bias))
        hidden = _gelu(b, _linear(b, _norm(b, x), DIMS, 2 * DIMS, gain))
        x = b.node("Add", x, _linear(b, hidden, 2 * DIMS, DIMS, gain))
    return _norm(b, x)


def _silu(b: Builder, x: str) -> str:
    return b.node("Mul", x, b.node("Sigmoid", x))


def _gate(b: Builder, x: str, channels: int) -> str:
    squeezed = b.node("Relu", b.conv(b.node("GlobalAveragePool", x), channels, 4, 1))
    return b.node("Mul", x, b.node("Sigmoid", b.conv(squeezed, 4, channels, 1)))


@deep
def vit() -> onnx.ModelProto:
    """Six blocks with small weights, as they are initialised."""
    b = Builder(["N", 3, 16, 16], opset=17)
    patches = b.conv("x", 3, DIMS, 4, strides=[4, 4], pads=[0, 0, 0, 0])
    x = b.node("Transpose", b.node("Reshape", patches, b.ints(0, DIMS, -1)), perm=[0, 2, 1])
    x = b.node("Add", x, b.constant(b.values(1, 16, DIMS), "positions"))
    x = _transformer(b, x, 6, 0.08)
    b.output(_linear(b, b.node("Gather", x, b.constant(np.asarray(0)), axis=1), DIMS, 5), ["N", 5], "y")
    return b.model()


@deep
def nfnet() -> onnx.ModelProto:
    """Eight residual blocks without norms: gates, small gains, averages of many positions."""
    b = Builder([1, 3, 16, 16])
    x = b.conv("x", 3, 12)
    for _ in range(8):
        y = b.conv(_gelu(b, x), 12, 8, 1)
        y = b.conv(_gelu(b, b.conv(_gelu(b, y), 8, 8, 3, group=2)), 8, 12, 1)
        y = b.node("Mul", _gate(b, y, 12), b.constant(np.float32(0.2)))
        x = b.node("Add", x, y)
    y = b.node("Flatten", b.node("GlobalAveragePool", _gelu(b, b.conv(x, 12, 16, 1))))
    b.output(b.gemm(y, 16, 5), [1, 5], "y")
    return b.model()


@deep
def efficientnet() -> onnx.ModelProto:
    """Six inverted bottlenecks with gates and unfolded norms."""
    b = Builder(["N", 3, 16, 16])
    x = _silu(b, b.batch_norm(b.conv("x", 3, 8, bias=False), 8))
    for _ in range(6):
        y = _silu(b, b.batch_norm(b.conv(x, 8, 16, 1, bias=False), 16))
        y = _silu(b, b.batch_norm(b.conv(y, 16, 16, 3, group=16, bias=False), 16))
        x = b.node("Add", x, b.batch_norm(b.conv(_gate(b, y, 16), 16, 8, 1, bias=False), 8))
    b.output(b.gemm(b.node("Flatten", b.node("GlobalAveragePool", x)), 8, 5), ["N", 5], "y")
    return b.model()


@deep
def starnet() -> onnx.ModelProto:
    """Products of two branches, block after block: redrawn alike, signals grow doubly exponentially."""
    b = Builder([1, 3, 8, 8])
    x = b.conv("x", 3, 8)
    for _ in range(10):
        spread = b.conv(x, 8, 8, 3, group=8)
        one = b.node("Clip", b.conv(spread, 8, 16, 1), b.constant(np.float32(0)), b.constant(np.float32(6)))
        other = b.conv(spread, 8, 16, 1, weight=b.constant(0.1 * b.values(16, 8, 1, 1), b.fresh("small")))
        x = b.node("Add", x, b.conv(b.node("Mul", one, other), 16, 8, 1))
    b.output(b.conv(b.node("GlobalAveragePool", x), 8, 5, 1), [None] * 4, "y")
    return b.model()


@deep
def swin() -> onnx.ModelProto:
    """Three blocks with relative position bias, a table looked up by constant indices."""
    b = Builder(["N", 16, DIMS], opset=17)
    table = b.constant(b.values(49, HEADS), "table")
    index = b.constant(b.rng.integers(0, 49, size=(16, 16)).astype(np.int64))
    bias = b.node("Unsqueeze", b.node("Transpose", b.node("Gather", table, index), perm=[2, 0, 1]), b.ints(0))
    x = _transformer(b, "x", 3, bias=bias)
    b.output(_linear(b, b.node("ReduceMean", x, axes=[1], keepdims=0), DIMS, 5), ["N", 5], "y")
    return b.model()


@deep
def attention_with_batch_norm() -> onnx.ModelProto:
    """Attention whose signals no LayerNormalization holds: redrawn alone, every Softmax would be hard."""
    b = Builder(["N", 16, DIMS], opset=17)
    x = "x"
    for _ in range(4):
        y = b.node("Transpose", x, perm=[0, 2, 1])
        y = b.node("Transpose", b.batch_norm(y, DIMS), perm=[0, 2, 1])
        x = b.node("Add", x, _attention(b, y))
        x = b.node("Add", x, _linear(b, b.node("HardSwish", _linear(b, x, DIMS, 2 * DIMS)), 2 * DIMS, DIMS))
    b.output(_linear(b, x, DIMS, 5), ["N", 16, 5], "y")
    return b.model()


@deep
def tokens() -> onnx.ModelProto:
    """Token ids, positions and a mask in, open length; ids and positions are rows of tables."""
    b = Builder(["N", "T"], opset=17)
    kinds = {"x": onnx.TensorProto.INT64, "position_ids": onnx.TensorProto.INT32}
    b.inputs = [helper.make_tensor_value_info(name, kind, ["N", "T"]) for name, kind in kinds.items()]
    b.inputs.append(helper.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, ["N", "T"]))
    words, places = b.constant(b.values(40, DIMS), "words"), b.constant(b.values(24, DIMS), "places")
    x = b.node("Add", b.node("Gather", words, "x"), b.node("Gather", places, "position_ids"))
    mask = b.node("Sub", b.constant(np.float32(1)), b.node("Cast", "attention_mask", to=1))
    bias = b.node("Mul", b.node("Unsqueeze", mask, b.ints(1, 2)), b.constant(np.float32(-1e9)))
    b.output(_linear(b, _transformer(b, _norm(b, x), 3, bias=bias), DIMS, 5), ["N", "T", 5], "y")
    return b.model()


@deep
def class_token() -> onnx.ModelProto:
    """A query made of a constant token alone, and positions made from the input's size: neither reacts."""
    b = Builder(["N", 16, DIMS], opset=17)
    length = b.node("Gather", b.node("Shape", "x"), b.constant(np.asarray(1)), axis=0)
    steps = b.node("Range", b.constant(np.asarray(0)), length, b.constant(np.asarray(1)))
    angles = b.node("Unsqueeze", b.node("Cast", steps, to=1), b.ints(1))
    places = _linear(b, b.node("Concat", b.node("Sin", angles), b.node("Cos", angles), axis=1), 2, DIMS)
    x = b.node("Add", "x", places)
    batch = b.node("Shape", "x", start=0, end=1)
    token = b.node(
        "Expand", b.constant(b.values(1, 1, DIMS)), b.node("Concat", batch, b.ints(1, DIMS), axis=0)
    )
    x = _norm(b, b.node("Concat", token, x, axis=1))
    query = _linear(b, b.node("Slice", x, b.ints(0), b.ints(1), b.ints(1)), DIMS, 8)
    keys, values = _linear(b, x, DIMS, 8), _linear(b, x, DIMS, 8)
    scores = b.node("MatMul", query, b.node("Transpose", keys, perm=[0, 2, 1]))
    y = b.node("MatMul", b.node("Softmax", scores, axis=-1), values)
    b.output(_linear(b, _linear(b, y, 8, 8), 8, 5), ["N", 1, 5], "y")
    return b.model()


@deep
def recurrent() -> onnx.ModelProto:
    """An LSTM between two matrices, open length."""
    b = Builder(["T", "N", 6])
    x = _linear(b, "x", 6, 8)
    inner = (b.values(1, 32, 8), b.values(1, 32, 8), b.values(1, 64))
    y = b.node("LSTM", x, *(b.constant(array) for array in inner), hidden_size=8, outputs=3)
    y = _linear(b, b.node("Relu", _linear(b, b.node("Squeeze", y, b.ints(1)), 8, 12)), 12, 5)
    b.output(y, ["T", "N", 5], "y")
    return b.model()


@deep
def detector() -> onnx.ModelProto:
    """Boxes in pixels from offsets to a grid; NonZero picks scores above a limit: an open number of rows."""
    b = Builder([1, 3, 16, 16])
    x = b.node("Relu", b.conv(b.node("Relu", b.conv("x", 3, 8)), 8, 12))
    grid = b.constant(np.arange(0, 512, 2, dtype=np.float32).reshape(1, 1, 16, 16))
    boxes = b.node("Add", grid, b.conv(b.node("Relu", b.conv(x, 12, 8)), 8, 4, 1))
    scores = b.node("Sigmoid", b.conv(b.node("Relu", b.conv(x, 12, 8)), 8, 1, 1))
    rows = b.node("Transpose", b.node("Reshape", boxes, b.ints(4, -1)), perm=[1, 0])
    flat = b.node("Reshape", scores, b.ints(-1))
    picked = b.node("NonZero", b.node("Greater", flat, b.constant(np.float32(0.55))))
    b.output(b.node("GatherND", rows, b.node("Transpose", picked, perm=[1, 0])), ["K", 4], "y")
    b.output(boxes, [1, 4, 16, 16], "boxes")
    return b.model()
