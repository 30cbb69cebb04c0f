"""Hypothesis strategies for random small graphs. Each new operator extends `STEPS` here.

A graph is a chain of random steps on a (N, C, H, W) activation, then a random head. With `integers=True` all
weights are small integers, only steps that keep integers exact are drawn, and a Clip stands where numbers
would outgrow float32, so that equality can be bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from graph_builder import Builder
from hypothesis import strategies as st


@dataclass
class State:
    """The tip of a growing graph."""

    builder: Builder
    tensor: str
    channels: int
    side: int
    draw: Callable[[st.SearchStrategy], object]

    def width(self) -> int:
        return self.draw(st.integers(1, 6))


Step = Callable[[State], None]


def conv(s: State) -> None:
    width, kernel = s.width(), s.draw(st.sampled_from([1, 3]))
    bias = s.draw(st.booleans())
    s.tensor, s.channels = s.builder.conv(s.tensor, s.channels, width, kernel, bias=bias), width


def strided_conv(s: State) -> None:
    width = s.width()
    s.tensor = s.builder.conv(s.tensor, s.channels, width, 3, strides=[2, 2])
    s.channels, s.side = width, (s.side + 1) // 2


def depthwise(s: State) -> None:
    s.tensor = s.builder.conv(s.tensor, s.channels, s.channels, 3, group=s.channels)


def multiplied_depthwise(s: State) -> None:
    s.tensor = s.builder.conv(s.tensor, s.channels, 2 * s.channels, 1, group=s.channels)
    s.channels *= 2
    conv(s)


def grouped(s: State) -> None:
    s.tensor = s.builder.conv(s.tensor, s.channels, 4, 1)
    s.tensor = s.builder.conv(s.tensor, 4, 6, 3, group=2)
    s.channels = 6


def conv_transpose(s: State) -> None:
    if s.side > 4:
        return conv(s)
    width = s.width()
    s.tensor = s.builder.conv_transpose(s.tensor, s.channels, width)
    s.channels, s.side = width, 2 * s.side
    return None


def batch_norm(s: State) -> None:
    s.tensor = s.builder.batch_norm(s.tensor, s.channels)


def relu(s: State) -> None:
    s.tensor = s.builder.node("Relu", s.tensor)


def clip(s: State) -> None:
    low, high = (s.builder.constant(np.asarray(v, s.builder.dtype)) for v in (-2, 5))
    s.tensor = s.builder.node("Clip", s.tensor, low, high)


def prelu(s: State) -> None:
    s.tensor = s.builder.node("PRelu", s.tensor, s.builder.constant(s.builder.values(s.channels, 1, 1)))


def smooth(s: State) -> None:
    s.tensor = s.builder.node(s.draw(st.sampled_from(["Sigmoid", "Tanh", "Softplus", "HardSwish"])), s.tensor)


def identity(s: State) -> None:
    s.tensor = s.builder.node(s.draw(st.sampled_from(["Identity", "Dropout"])), s.tensor)


def max_pool(s: State) -> None:
    if s.side >= 2:
        s.tensor, s.side = s.builder.max_pool(s.tensor), s.side // 2


def average_pool(s: State) -> None:
    s.tensor = s.builder.node(
        "AveragePool",
        s.tensor,
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=s.draw(st.integers(0, 1)),
    )


def pad(s: State) -> None:
    value = s.builder.constant(np.asarray(s.draw(st.integers(0, 1)), s.builder.dtype))
    s.tensor = s.builder.node("Pad", s.tensor, s.builder.ints(0, 0, 1, 0, 0, 0, 0, 1), value, mode="constant")
    s.tensor = s.builder.conv(s.tensor, s.channels, s.channels, 2, pads=[0, 0, 0, 0])


def channel_add(s: State) -> None:
    """A per-channel constant, as exporters without bias inputs write it."""
    addend = s.builder.constant(s.builder.values(s.channels, 1, 1))
    s.tensor = s.builder.node("Add", *s.draw(st.permutations([s.tensor, addend])))


def channel_mul(s: State) -> None:
    s.tensor = s.builder.node("Mul", s.tensor, s.builder.constant(s.builder.values(1, s.channels, 1, 1)))


def residual(s: State) -> None:
    """x + f(x), f of one or two convolutions; sometimes with a 1x1 convolution as shortcut."""
    start, channels = s.tensor, s.channels
    conv(s)
    relu(s)
    branch = s.builder.conv(s.tensor, s.channels, channels, 3)
    shortcut = s.builder.conv(start, channels, channels, 1) if s.draw(st.booleans()) else start
    s.tensor, s.channels = s.builder.node("Add", branch, shortcut), channels


def concat(s: State) -> None:
    """Channels of two or three branches side by side; one may be the input itself."""
    start, channels = s.tensor, s.channels
    parts, total = [], 0
    for _ in range(s.draw(st.integers(1, 2))):
        width = s.width()
        parts.append(s.builder.conv(start, channels, width, 1))
        total += width
    if s.draw(st.booleans()) and channels <= 6:
        parts.append(start)
        total += channels
    s.tensor, s.channels = s.builder.node("Concat", *parts, axis=1), total


def shared_conv(s: State) -> None:
    """One square kernel used twice."""
    weight = s.builder.constant(s.builder.values(s.channels, s.channels, 1, 1), s.builder.fresh("shared"))
    for _ in range(2):
        s.tensor = s.builder.conv(s.tensor, s.channels, s.channels, 1, weight=weight)


def relayout_conv(s: State) -> None:
    """A kernel stored channels-last, transposed before use."""
    width = s.width()
    stored = s.builder.constant(s.builder.values(3, 3, s.channels, width), s.builder.fresh("hwio"))
    weight = s.builder.node("Transpose", stored, perm=[3, 2, 0, 1])
    s.tensor, s.channels = s.builder.conv(s.tensor, s.channels, width, 3, weight=weight), width


def squeeze_excite(s: State) -> None:
    gate = s.builder.conv(s.builder.node("GlobalAveragePool", s.tensor), s.channels, 2, 1)
    gate = s.builder.node("Sigmoid", s.builder.conv(s.builder.node("Relu", gate), 2, s.channels, 1))
    s.tensor = s.builder.node("Mul", s.tensor, gate)


def channel_softmax(s: State) -> None:
    s.tensor = s.builder.node("Softmax", s.tensor, axis=1)


EXACT_STEPS: tuple[Step, ...] = (
    conv,
    conv,
    strided_conv,
    depthwise,
    multiplied_depthwise,
    grouped,
    conv_transpose,
    batch_norm,
    relu,
    relu,
    clip,
    prelu,
    identity,
    max_pool,
    pad,
    channel_add,
    channel_mul,
    residual,
    concat,
    shared_conv,
    relayout_conv,
)
"""Steps that keep small integers exact in float32."""
STEPS: tuple[Step, ...] = (*EXACT_STEPS, smooth, average_pool, squeeze_excite, channel_softmax)


def _keep_exact(s: State) -> None:
    """Clip to 31 after two convolutions in a row: integers stay far below 2**24."""
    kinds = [node.op_type for node in reversed(s.builder.nodes)]
    since = kinds[: kinds.index("Clip")] if "Clip" in kinds else kinds
    if since.count("Conv") + since.count("ConvTranspose") >= 2:
        low, high = (s.builder.constant(np.asarray(v, s.builder.dtype)) for v in (-31, 31))
        s.tensor = s.builder.node("Clip", s.tensor, low, high)


def _head(s: State) -> None:
    b, outputs = s.builder, 3
    kind = s.draw(st.sampled_from(["conv", "flatten", "reshape", "pool", "matmul"]))
    if kind == "conv":
        b.output(b.conv(s.tensor, s.channels, outputs, 1), [1, outputs, s.side, s.side], "y")
        return
    if kind == "pool" and not b.integers:
        y = b.node("Flatten", b.node("GlobalAveragePool", s.tensor))
        features = s.channels
    elif kind == "reshape":
        y, features = b.node("Reshape", s.tensor, b.ints(1, -1)), s.channels * s.side**2
    else:
        y, features = b.node("Flatten", s.tensor), s.channels * s.side**2
    hidden = s.width()
    y = b.node("Relu", b.gemm(y, features, hidden, trans_b=s.draw(st.integers(0, 1))))
    if kind == "matmul":
        y = b.node("Add", b.matmul(y, hidden, outputs), b.constant(b.values(outputs)))
    else:
        y = b.gemm(y, hidden, outputs)
    b.output(y, [1, outputs], "y")


@st.composite
def small_models(draw: st.DrawFn, *, integers: bool = False, max_steps: int = 6) -> onnx.ModelProto:
    """A random small model with input `x`; see the module's docstring."""
    channels, side = draw(st.integers(1, 3)), draw(st.integers(4, 6))
    builder = Builder(
        [1, channels, side, side],
        seed=draw(st.integers(0, 2**16)),
        integers=integers,
        named_nodes=draw(st.booleans()),
    )
    state = State(builder, builder.conv("x", channels, draw(st.integers(2, 6))), 0, side, draw)
    state.channels = builder.initializers[0].dims[0]
    for step in draw(st.lists(st.sampled_from(EXACT_STEPS if integers else STEPS), max_size=max_steps)):
        step(state)
        if integers:
            _keep_exact(state)
    _head(state)
    return builder.model()
