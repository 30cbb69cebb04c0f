"""Named small graphs of channels in heads and groups: attention, shuffles; `graphs.py` takes them up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from graph_builder import Builder

HEAD_GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {}

TOKENS, WIDTH, HEADS, DIMS = 5, 6, 2, 4


def tokens(**options) -> Callable[[Callable[[Builder, str], str]], Callable[[], onnx.ModelProto]]:
    """What stands between two matrices: from (1, 5, 6) tokens to tokens as many and as wide."""

    def register(function: Callable[[Builder, str], str]) -> Callable[[], onnx.ModelProto]:
        def make() -> onnx.ModelProto:
            b = Builder([1, TOKENS, 3], **options)
            y = function(b, b.node("Relu", _linear(b, "x", 3, WIDTH)))
            b.output(b.matmul(y, WIDTH, 2), [1, TOKENS, 2], "y")
            return b.model()

        HEAD_GRAPHS[function.__name__] = make
        return make

    return register


def images(into: int, side: int = 4, **options):
    """What stands between two convolutions: from (1, 6, 4, 4) to `into` channels."""

    def register(function: Callable[[Builder, str], str]) -> Callable[[], onnx.ModelProto]:
        def make() -> onnx.ModelProto:
            b = Builder([1, 3, 4, 4], **options)
            y = function(b, b.node("Relu", b.conv("x", 3, 6)))
            b.output(b.conv(y, into, 3, 1), [1, 3, side, side], "y")
            return b.model()

        HEAD_GRAPHS[function.__name__] = make
        return make

    return register


def _linear(b: Builder, x: str, inputs: int, outputs: int) -> str:
    return b.node("Add", b.matmul(x, inputs, outputs), b.constant(b.values(outputs)))


def _clip(b: Builder, x: str) -> str:
    low, high = (b.constant(np.asarray(value, b.dtype)) for value in (-3, 3))
    return b.node("Clip", x, low, high)


def _heads(b: Builder, x: str, dims: int = DIMS, heads: int = HEADS) -> str:
    y = b.node("Reshape", _linear(b, x, WIDTH, heads * dims), b.ints(0, -1, heads, dims))
    return b.node("Transpose", y, perm=[0, 2, 1, 3])


def _attend(b: Builder, q: str, k: str, v: str, *, soft: bool = True) -> str:
    """(1, heads, tokens, dims)."""
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = b.node("Softmax", scores, axis=-1) if soft else _clip(b, scores)
    return b.node("MatMul", scores, v)


def _joined(b: Builder, x: str, y: str, dims: int = DIMS, heads: int = HEADS) -> str:
    """Heads side by side, projected and added to `x`."""
    y = b.node("Transpose", y, perm=[0, 2, 1, 3])
    y = b.node("Reshape", y, b.ints(0, 0, heads * dims))
    return b.node("Add", x, _linear(b, y, heads * dims, WIDTH))


@tokens(integers=True)
def attention_integers(b: Builder, x: str) -> str:
    """Queries, keys and values apart; scores are used as they are, within bounds."""
    q, k, v = (_clip(b, _heads(b, x, dims)) for dims in (DIMS, DIMS, 2))
    return _joined(b, x, _attend(b, q, k, v, soft=False), 2)


@tokens(integers=True)
def attention_fused_integers(b: Builder, x: str) -> str:
    """One matrix for queries, keys and values."""
    y = _clip(b, _linear(b, x, WIDTH, 3 * HEADS * DIMS))
    y = b.node("Reshape", y, b.ints(0, TOKENS, 3, HEADS, DIMS))
    y = b.node("Transpose", y, perm=[2, 0, 3, 1, 4])
    q, k, v = (b.node("Gather", y, b.constant(np.asarray(i)), axis=0) for i in range(3))
    return _joined(b, x, _attend(b, q, k, v, soft=False))


@tokens()
def attention_scaled_by_shape(b: Builder, x: str) -> str:
    """Scores are divided by the root of the head's width, found at run time; a bias per head."""
    q, k, v = (_heads(b, x) for _ in range(3))
    width = b.node("Gather", b.node("Shape", q), b.constant(np.asarray(-1)), axis=0)
    root = b.node("Sqrt", b.node("Cast", width, to=onnx.TensorProto.FLOAT))
    scores = b.node("MatMul", b.node("Div", q, root), b.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = b.node("Add", scores, b.constant(b.values(HEADS, TOKENS, TOKENS), "bias"))
    return _joined(b, x, b.node("MatMul", b.node("Softmax", scores, axis=-1), v))


@tokens()
def attention_by_einsum(b: Builder, x: str) -> str:
    q, k, v = (_heads(b, x) for _ in range(3))
    scores = b.node("Softmax", b.node("Einsum", q, k, equation="bhid,bhjd->bhij"), axis=-1)
    return _joined(b, x, b.node("Einsum", scores, v, equation="bhij,bhjd->bhid"))


@tokens(integers=True)
def attention_rotary_integers(b: Builder, x: str) -> str:
    """Pairs i and i + d / 2 are turned by an angle per token."""
    tables = [b.constant(b.values(TOKENS, DIMS)) for _ in range(2)]

    def rotated(y: str) -> str:
        b.node("Split", y, b.ints(2, 2), outputs=2, axis=3)
        one, other = b.last_outputs()
        turned = b.node("Concat", b.node("Neg", other), one, axis=-1)
        return b.node("Add", b.node("Mul", y, tables[0]), b.node("Mul", turned, tables[1]))

    q, k, v = (_heads(b, x) for _ in range(3))
    return _joined(b, x, _attend(b, _clip(b, rotated(q)), _clip(b, rotated(k)), v, soft=False))


@tokens(integers=True)
def single_head_rotary_integers(b: Builder, x: str) -> str:
    """One head out of a fused matrix, sliced in halves: one axis of channels again."""
    y = _clip(b, _linear(b, x, WIDTH, 3 * DIMS))
    y = b.node("Reshape", y, b.ints(0, TOKENS, 1, 3, DIMS))
    y = b.node("Transpose", y, perm=[3, 0, 2, 1, 4])
    b.node("Split", y, b.ints(1, 1, 1), outputs=3, axis=0)
    q, k, v = (b.node("Squeeze", part, b.ints(0)) for part in b.last_outputs())
    halves = [b.node("Slice", q, b.ints(2 * i), b.ints(2 * i + 2), b.ints(3)) for i in range(2)]
    turned = b.node("Concat", b.node("Neg", halves[1]), halves[0], axis=-1)
    q = b.node("Add", b.node("Mul", q, b.constant(b.values(TOKENS, DIMS))), turned)
    return _joined(b, x, _attend(b, q, k, v, soft=False), heads=1)


@tokens(integers=True)
def attention_grouped_query_integers(b: Builder, x: str) -> str:
    """Every head of keys and values serves two of queries."""
    q, k, v = (_clip(b, _heads(b, x, heads=heads)) for heads in (4, 2, 2))

    def repeated(y: str) -> str:
        y = b.node("Expand", b.node("Unsqueeze", y, b.ints(2)), b.ints(1, 2, 2, TOKENS, DIMS))
        return b.node("Reshape", y, b.ints(1, 4, TOKENS, DIMS))

    return _joined(b, x, _attend(b, q, repeated(k), repeated(v), soft=False), heads=4)


@tokens()
def cross_covariance(b: Builder, x: str) -> str:
    """Attention among the channels of each head."""
    q, k, v = (b.node("Transpose", _heads(b, x), perm=[0, 1, 3, 2]) for _ in range(3))
    return _joined(b, x, b.node("Transpose", _attend(b, q, k, v), perm=[0, 1, 3, 2]))


@tokens(integers=True)
def token_mixing_integers(b: Builder, x: str) -> str:
    """Matrices over tokens and over channels (MLP-Mixer)."""
    y = b.node("Transpose", x, perm=[0, 2, 1])
    y = b.node("Relu", _linear(b, y, TOKENS, 6))
    y = b.node("Add", x, b.node("Transpose", _linear(b, y, 6, TOKENS), perm=[0, 2, 1]))
    return b.node("Add", y, _linear(b, b.node("Relu", _linear(b, y, WIDTH, 6)), 6, WIDTH))


@images(into=6, integers=True)
def channel_shuffle_integers(b: Builder, y: str) -> str:
    y = b.conv(y, 6, 6, 1, group=2)
    y = b.node("Reshape", y, b.ints(1, 2, 3, 4, 4))
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3, 4]), b.ints(1, 6, 4, 4))
    return b.conv(y, 6, 6, 3, group=6)


@images(into=6, integers=True)
def channel_shuffle_last_integers(b: Builder, y: str) -> str:
    """The same, channels last; grouped convolutions before and behind."""
    y = b.node("Transpose", b.conv(y, 6, 6, 1, group=2), perm=[0, 2, 3, 1])
    y = b.node("Transpose", b.node("Reshape", y, b.ints(-1, 4, 4, 2, 3)), perm=[0, 1, 2, 4, 3])
    y = b.node("Transpose", b.node("Reshape", y, b.ints(0, 0, 0, -1)), perm=[0, 3, 1, 2])
    return b.conv(y, 6, 6, 1, group=3)


@images(into=9, integers=True)
def res2net_integers(b: Builder, y: str) -> str:
    """y_i = conv(x_i + y_(i-1)) over thirds of the channels."""
    b.node("Split", b.conv(y, 6, 9, 1), b.ints(3, 3, 3), outputs=3, axis=1)
    one, two, three = b.last_outputs()
    two = b.node("Relu", b.conv(b.node("Add", one, two), 3, 3))
    three = b.node("Relu", b.conv(b.node("Add", two, three), 3, 3))
    return b.node("Concat", one, two, three, axis=1)


@images(into=8, integers=True)
def grouped_residual_integers(b: Builder, y: str) -> str:
    """A grouped convolution added to what it reads (ResNeXt): groups may keep different channels."""
    y = b.node("Relu", b.conv(y, 6, 8, 1))
    return b.node("Add", y, b.conv(y, 8, 8, 3, group=2))


@images(into=6)
def group_norm_as_exported(b: Builder, y: str) -> str:
    """GroupNormalization as PyTorch writes it for older opsets."""
    rows = b.node("Reshape", y, b.ints(0, 3, -1))
    ones, zeros = b.constant(np.ones(3, np.float32)), b.constant(np.zeros(3, np.float32))
    rows = b.node("InstanceNormalization", rows, ones, zeros)
    y = b.node("Reshape", rows, b.node("Shape", y))
    y = b.node("Mul", y, b.constant(b.values(6, 1, 1)))
    return b.node("Relu", b.node("Add", y, b.constant(b.values(6, 1, 1))))


@images(into=4, integers=True)
def slices_from_the_end_integers(b: Builder, y: str) -> str:
    """Numbers from the end change when channels go that lie outside the slice, too."""
    first = b.node("Slice", y, b.ints(0), b.ints(-4), b.ints(1))
    middle = b.node("Slice", y, b.ints(-4), b.ints(-2), b.ints(1))
    parts = b.node("Concat", first, middle, axis=1)
    return b.node("Add", b.conv(parts, 4, 4, 1), b.conv(y, 6, 4, 1))


@images(into=6, integers=True)
def shuffled_twice_integers(b: Builder, y: str) -> str:
    """One relabelling reads another's result."""
    y = b.node("Reshape", b.conv(y, 6, 6, 1), b.ints(1, 2, 3, 4, 4))
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3, 4]), b.ints(1, 6, 4, 4))
    return b.node("Slice", y, b.ints(-1), b.ints(-(2**40)), b.ints(1), b.ints(-1))


@images(into=3, integers=True)
def relabelled_output_integers(b: Builder, y: str) -> str:
    """What a relabelling gives is a graph output: its source may lose the other channels."""
    y = b.conv(y, 6, 6, 1)
    part = b.node("Slice", y, b.ints(0), b.ints(2**40), b.ints(1), b.ints(2))
    b.output(part, [1, 3, 4, 4])
    return b.conv(y, 6, 3, 1)
