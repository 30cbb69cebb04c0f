"""Random small graphs from all operator families: a few steps on an image or on tokens, then a head."""

from __future__ import annotations

import onnx
from hypothesis import strategies as st
from strategies_growth import BoundedBuilder, Tip, activation
from strategies_images import IMAGE_STEPS, grow
from strategies_tokens import class_token, grow_tokens, linear, to_tokens, token_block, windows

_STEPS = (*IMAGE_STEPS, *[token_block] * 4, windows, windows)


def _image_head(t: Tip) -> None:
    b, outputs = t.builder, 3
    kind = t.pick("conv", "flatten", "pool", "mean")
    if kind == "conv":
        y = b.conv(t.tensor, t.channels, outputs, 1)
        b.output(y, _shape(t, outputs, t.side, t.side), "y")
        return
    if kind == "flatten":
        features = t.channels * t.side**2
        y = t.node("Flatten", t.tensor) if t.flip() else t.reshape(t.tensor, [t.batch, features])
    elif kind == "pool":
        y, features = t.settle(t.node("Flatten", t.node("GlobalAveragePool", t.tensor))), t.channels
    else:
        y, features = t.settle(t.reduce("ReduceMean", t.tensor, [2, 3], keep=False)), t.channels
    hidden = t.width()
    y = activation(t, b.gemm(y, features, hidden, trans_b=t.pick(0, 1)))
    b.output(b.gemm(y, hidden, outputs), _shape(t, outputs), "y")


def _token_head(t: Tip) -> None:
    b, outputs = t.builder, 3
    kind = t.pick("tokens", "mean", "first")
    if kind == "tokens":
        b.output(linear(t, t.tensor, t.channels, outputs), _shape(t, t.tokens, outputs), "y")
        return
    if kind == "mean":
        y = t.settle(t.reduce("ReduceMean", t.tensor, [1], keep=False))
    else:
        y = t.node("Squeeze", t.slice(t.tensor, 0, 1, 1), b.ints(1))
    b.output(b.gemm(y, t.channels, outputs), _shape(t, outputs), "y")


def _shape(t: Tip, *rest: int) -> list[int | str]:
    return ["N" if t.batch_is_open else t.batch, *rest]


@st.composite
def family_models(draw: st.DrawFn, *, integers: bool = False, max_steps: int = 4) -> onnx.ModelProto:
    """A random small model with input `x`; see the module's docstring."""
    channels, side = draw(st.integers(1, 3)), draw(st.sampled_from([4, 4, 5]))
    batch, is_open = draw(st.sampled_from([(1, False), (2, False), (1, True)]))
    opset = draw(st.sampled_from([17, 17, 13, 18, 21]))
    builder = BoundedBuilder(
        ["N" if is_open else batch, channels, side, side],
        seed=draw(st.integers(0, 2**16)),
        integers=integers,
        opset=opset,
        ir_version=10 if opset > 18 else 8,
        named_nodes=draw(st.booleans()),
    )
    width = draw(st.integers(2, 6))
    t = Tip(builder, builder.conv("x", channels, width), batch, width, side, draw, is_open)
    grow(t, max_steps, _STEPS)
    if draw(st.sampled_from([0, 0, 0, 1])):
        builder.output(t.tensor, _shape(t, t.channels, t.side, t.side))
    if draw(st.sampled_from([0, 1])):
        to_tokens(t)
        if draw(st.booleans()):
            class_token(t)
        grow_tokens(t, 2)
        _token_head(t)
    else:
        _image_head(t)
    model = builder.model()
    model.doc_string = " ".join(["integers" if integers else "floats", *t.steps])
    return model
