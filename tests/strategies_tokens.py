"""Steps of random graphs on tokens (N, T, D): matrices, attention of many kinds, the ways there and back."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from strategies_growth import Step, Tip, activation, clamp


def linear(t: Tip, tensor: str, inputs: int, outputs: int) -> str:
    """A matrix, mostly with a bias."""
    y = t.builder.matmul(tensor, inputs, outputs)
    return t.node("Add", y, t.builder.constant(t.builder.values(outputs))) if t.pick(1, 1, 0) else y


def project(t: Tip) -> None:
    width = t.width()
    t.tensor, t.channels = linear(t, t.tensor, t.channels, width), width


def mlp(t: Tip) -> None:
    """Two matrices, added to what they read, with a norm before or without."""
    hidden, y = t.width(), t.tensor
    if t.pick(0, 0, 0, 1):
        y = norm_of(t, y)
    if t.flip() and not t.exact:
        y = linear(t, y, t.channels, 2 * hidden)  # gated: SwiGLU
        one, other = t.split(y, [hidden, hidden], -1)
        y = t.node("Mul", t.node("Sigmoid", one), other)
    else:
        y = activation(t, linear(t, y, t.channels, hidden))
    y = linear(t, y, hidden, t.channels)
    t.tensor = t.node("Add", t.tensor, y)


def token_mixing(t: Tip) -> None:
    """A matrix over tokens, and one over channels after it (MLP-Mixer)."""
    hidden = t.width()
    y = t.node("Transpose", t.tensor, perm=[0, 2, 1])
    y = linear(t, activation(t, linear(t, y, t.tokens, hidden)), hidden, t.tokens)
    y = t.node("Transpose", y, perm=[0, 2, 1])
    t.tensor = t.node("Add", t.tensor, y) if t.flip() else y


def norm_of(t: Tip, tensor: str) -> str:
    """LayerNorm or RMS norm over channels, as an operator or written out."""
    b, n = t.builder, t.channels
    scale, shift = b.constant(b.values(n)), b.constant(b.values(n))
    if b.opset >= 17 and (t.exact or t.flip()):
        return t.settle(t.node("LayerNormalization", tensor, scale, shift, axis=-1, epsilon=0.5))
    if t.exact:
        return tensor
    if t.flip():
        tensor = t.node("Sub", tensor, t.reduce("ReduceMean", tensor, [-1]))
    mean = t.reduce("ReduceMean", t.node("Pow", tensor, b.number(2)), [-1])
    y = t.node("Div", tensor, t.node("Sqrt", t.node("Add", mean, b.number(0.1))))
    y = t.node("Mul", y, scale)
    return t.node("Add", y, shift) if t.flip() else y


def norm(t: Tip) -> None:
    t.tensor = norm_of(t, t.tensor)


def per_channel(t: Tip) -> None:
    b = t.builder
    shape = t.pick((t.channels,), (1, t.tokens, t.channels), (1, 1, t.channels), (t.tokens, 1))
    t.on(t.pick("Add", "Mul"), b.constant(b.values(*shape)))


def position(t: Tip) -> None:
    """A learnt embedding per token, once as it is and once sliced from a longer table."""
    b = t.builder
    if t.flip():
        table = b.constant(b.values(1, t.tokens, t.channels))
    else:
        table = t.slice(b.constant(b.values(1, t.tokens + 2, t.channels)), 0, t.tokens, 1)
    t.on("Add", table)


def class_token(t: Tip) -> None:
    """A token more in front; sometimes it alone goes on, sometimes it goes again."""
    b, n = t.builder, t.channels
    token = b.constant(b.values(1, 1, n))
    if t.batch_is_open or t.flip():
        size = b.node("Gather", b.node("Shape", t.tensor), b.ints(0), axis=0)
        rest = (b.ints(1), b.ints(n if t.flip() else 1))
        token = b.node("Expand", token, b.node("Concat", size, *rest, axis=0))
    elif t.batch > 1:
        token = b.node("Expand", token, b.ints(t.batch, 1, n))
    t.tensor, t.tokens = t.node("Concat", token, t.tensor, axis=1), t.tokens + 1
    if t.flip():
        t.tensor, t.tokens = t.slice(t.tensor, 1, 2**40, 1), t.tokens - 1


def recurrent(t: Tip) -> None:
    """An LSTM over tokens: what reaches it stays."""
    b, hidden = t.builder, 3
    y = t.node("Transpose", t.tensor, perm=[1, 0, 2])
    w, r = b.constant(b.values(1, 4 * hidden, t.channels)), b.constant(b.values(1, 4 * hidden, hidden))
    y = t.settle(t.node("LSTM", y, w, r, hidden_size=hidden))
    b.bounds[y] = 8.0
    y = t.node("Transpose", t.node("Squeeze", y, b.ints(1)), perm=[1, 0, 2])
    t.tensor, t.channels = y, hidden


def act(t: Tip) -> None:
    t.tensor = activation(t, t.tensor)


def take(t: Tip) -> None:
    """Some channels, or channels joined with those of a matrix."""
    b, n = t.builder, t.channels
    if t.flip():
        indices = t.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=5))
        t.on("Gather", b.ints(*indices), axis=t.pick(2, -1))
        t.channels = len(indices)
    else:
        width = t.width(1, 3)
        t.tensor = t.node("Concat", t.tensor, linear(t, t.tensor, n, width), axis=-1)
        t.channels = n + width


# --- attention


class _Attention:
    """One attention, drawn part by part."""

    def __init__(self, t: Tip) -> None:
        self.t, self.b = t, t.builder
        self.heads, self.repeats = t.pick(1, 2, 2, 3), 1
        self.dims, self.value_dims = t.pick(2, 4), t.width(1, 3)
        self.kind = t.pick("fused", "fused", "fused split", "separate", "separate", "grouped query", "shared")
        if self.kind.startswith("fused"):
            self.value_dims = self.dims
        if self.kind == "grouped query":
            self.repeats = 2
        self.rotary = t.pick(0, 0, 1)

    def apply(self) -> None:
        t = self.t
        source = norm_of(t, t.tensor) if t.pick(0, 0, 0, 1) else t.tensor
        q, k, v = self.projections(source)
        if self.rotary:
            q, k = self.rotated(q), self.rotated(k)
        made = self.cross_covariance(q, k, v) if t.pick(0, 0, 0, 0, 1) else self.attended(q, k, v)
        width = self.heads * self.value_dims
        if t.pick(0, 0, 0, 1):
            factor = self.b.constant(self.b.values(self.heads, 1, 1))
            made = t.node("Mul", made, factor)
        y = t.node("Transpose", made, perm=[0, 2, 1, 3])
        y = t.reshape(y, [t.batch, t.tokens, width], source_axes=[0, 1])
        if t.flip():
            y = linear(t, y, width, t.channels)
            t.tensor = t.node("Add", t.tensor, y)
        else:
            out = t.width()
            t.tensor, t.channels = linear(t, y, width, out), out

    # q, k, v: (N, h, T, d)

    def projections(self, source: str) -> tuple[str, str, str]:
        t, h, d = self.t, self.heads, self.dims
        if self.kind == "fused":
            y = linear(t, source, t.channels, 3 * h * d)
            if t.flip():
                y = t.reshape(y, [t.batch, t.tokens, 3, h, d], source_axes=[0, 1])
                y = t.node("Transpose", y, perm=[2, 0, 3, 1, 4])
            else:
                y = t.reshape(y, [t.batch, t.tokens, h, 3, d], source_axes=[0, 1])
                y = t.node("Transpose", y, perm=[3, 0, 2, 1, 4])
            if t.flip():
                at = (self.b.constant(np.asarray(i, np.int64)) for i in range(3))
                q, k, v = (t.node("Gather", y, index, axis=0) for index in at)
            else:
                parts = t.split(y, [1, 1, 1], 0)
                q, k, v = (t.node("Squeeze", part, self.b.ints(0)) for part in parts)
            return q, k, v
        if self.kind == "fused split":
            y = linear(t, source, t.channels, 3 * h * d)
            q, k, v = (self.in_heads(part, h, d) for part in t.split(y, [h * d] * 3, -1))
            return q, k, v
        if self.kind == "shared":  # queries are keys
            q = self.projected(source, h, d)
            return q, q, self.projected(source, h, self.value_dims)
        q = self.projected(source, h * self.repeats, d)
        k, v = self.projected(source, h, d), self.projected(source, h, self.value_dims)
        if self.kind == "grouped query":
            k, v = self.repeated(k, d), self.repeated(v, self.value_dims)
            self.heads *= self.repeats
        return q, k, v

    def projected(self, source: str, heads: int, dims: int) -> str:
        return self.in_heads(linear(self.t, source, self.t.channels, heads * dims), heads, dims)

    def in_heads(self, y: str, heads: int, dims: int) -> str:
        y = self.t.reshape(y, [self.t.batch, self.t.tokens, heads, dims], source_axes=[0, 1])
        return self.t.node("Transpose", y, perm=[0, 2, 1, 3])

    def repeated(self, y: str, dims: int) -> str:
        """Every head of keys serves several of queries."""
        t, h, r = self.t, self.heads, self.repeats
        y = t.node("Unsqueeze", y, self.b.ints(2))
        y = t.node("Expand", y, self.b.ints(1, 1 if t.flip() else h, r, 1, 1))
        return t.reshape(y, [t.batch, h * r, t.tokens, dims], source_axes=[0, None, 3, 4])

    def rotated(self, y: str) -> str:
        """Rotary embedding: y * cos + (-second half, first half) * sin."""
        t, b, half = self.t, self.b, self.dims // 2
        if t.flip():
            one, other = t.slice(y, 0, half, 3), t.slice(y, half, 2**40, 3)
        else:
            one, other = t.split(y, [half, half], 3)
        turned = t.node("Concat", t.node("Neg", other), one, axis=-1)
        shape = t.pick((t.tokens, self.dims), (1, 1, t.tokens, self.dims))
        cos, sin = b.constant(b.values(*shape)), b.constant(b.values(*shape))
        return t.node("Add", t.node("Mul", y, cos), t.node("Mul", turned, sin))

    def scaled(self, y: str) -> str:
        """By a constant, or the square root of the head's width found at run time."""
        t, b = self.t, self.b
        kind = t.pick("none", "constant", "shape")
        if kind == "none" or t.exact:
            return y
        if kind == "constant":
            return t.node(*t.pick(("Mul", y, b.number(0.5)), ("Div", y, b.number(2.0))))
        size = b.node("Gather", b.node("Shape", y), b.constant(np.asarray(-1, np.int64)), axis=0)
        size = b.node("Sqrt", b.node("Cast", size, to=onnx.TensorProto.FLOAT))
        return t.node("Div", y, size) if t.flip() else t.node("Mul", y, b.node("Div", b.number(1), size))

    def attended(self, q: str, k: str, v: str) -> str:
        t, b = self.t, self.b
        q, k, v = (clamp(t, one, 3) if t.exact else one for one in (q, k, v))
        if t.flip():
            q = self.scaled(q)
        if t.pick(0, 0, 1):
            scores = t.node("Einsum", q, k, equation=t.pick("bhid,bhjd->bhij", "nhqc,nhkc->nhqk"), terms=8)
        else:
            scores = t.node("MatMul", q, t.node("Transpose", k, perm=[0, 1, 3, 2]), terms=8)
        scores = self.scaled(scores)
        if t.pick(0, 0, 1):
            shape = t.pick((self.heads, t.tokens, t.tokens), (self.heads, 1, 1), (t.tokens, t.tokens))
            scores = t.node("Add", scores, b.constant(b.values(*shape)))
        soft = t.flip()
        weights = t.settle(t.node("Softmax", scores, axis=-1)) if soft else clamp(t, scores, 3)
        if t.pick(0, 0, 1):
            return t.node("Einsum", weights, v, equation="bhij,bhjd->bhid", terms=40)
        return t.node("MatMul", weights, v, terms=40)

    def cross_covariance(self, q: str, k: str, v: str) -> str:
        """Attention among the channels of a head: (d, T) times (T, d)."""
        t = self.t
        if self.value_dims != self.dims:
            return self.attended(q, k, v)
        q, k, v = (t.node("Transpose", clamp(t, one, 3), perm=[0, 1, 3, 2]) for one in (q, k, v))
        scores = t.node("MatMul", q, t.node("Transpose", k, perm=[0, 1, 3, 2]), terms=40)
        weights = t.settle(t.node("Softmax", scores, axis=-1)) if t.flip() else clamp(t, scores, 3)
        return t.node("Transpose", t.node("MatMul", weights, v, terms=4), perm=[0, 1, 3, 2])


def attention(t: Tip) -> None:
    _Attention(t).apply()


def pooled_attention(t: Tip) -> None:
    """One learnt query over all tokens; without heads."""
    b, d = t.builder, t.width(2, 4)
    k, v = linear(t, t.tensor, t.channels, d), linear(t, t.tensor, t.channels, d)
    q = linear(t, t.tensor, t.channels, d)
    q, k, v = (clamp(t, one, 3) for one in (q, k, v))
    if t.flip():
        scores = t.node("Einsum", q, k, equation="nid,njd->nij", terms=4)
    else:
        scores = t.node("MatMul", q, t.node("Transpose", k, perm=[0, 2, 1]), terms=4)
    weights = t.settle(b.node("Softmax", scores, axis=-1))
    t.tensor, t.channels = t.node("MatMul", weights, v, terms=40), d


TOKEN_STEPS: tuple[Step, ...] = (
    project,
    mlp,
    mlp,
    token_mixing,
    norm,
    per_channel,
    position,
    recurrent,
    act,
    take,
    attention,
    attention,
    attention,
    attention,
    pooled_attention,
)


def grow_tokens(t: Tip, most: int) -> None:
    """Up to `most` random steps."""
    for step in t.draw(st.lists(st.sampled_from(TOKEN_STEPS), min_size=1, max_size=most)):
        t.steps.append(step.__name__)
        step(t)
        if t.channels > 12:
            project(t)


# --- from images and back


def to_tokens(t: Tip) -> None:
    """(N, C, H, W) -> (N, H * W, C), in either order."""
    s, n = t.side, t.channels
    t.tokens = s * s
    if t.flip():
        y = t.reshape(t.tensor, [t.batch, n, s * s], source_axes=[0, 1])
        t.tensor = t.node("Transpose", y, perm=[0, 2, 1])
    else:
        y = t.node("Transpose", t.tensor, perm=[0, 2, 3, 1])
        t.tensor = t.reshape(y, [t.batch, s * s, n], source_axes=[0, None, 3])


def to_image(t: Tip) -> None:
    s, n = t.side, t.channels
    if t.flip():
        y = t.node("Transpose", t.tensor, perm=[0, 2, 1])
        t.tensor = t.reshape(y, [t.batch, n, s, s], source_axes=[0, 1])
    else:
        y = t.reshape(t.tensor, [t.batch, s, s, n], source_axes=[0, None, None, 2])
        t.tensor = t.node("Transpose", y, perm=[0, 3, 1, 2])


def token_block(t: Tip) -> None:
    """Tokens for a few steps, then an image again."""
    to_tokens(t)
    grow_tokens(t, 2)
    to_image(t)


def windows(t: Tip) -> None:
    """Attention in windows of 2 x 2, shifted by one (Swin)."""
    s, n, b = t.side, t.channels, t.builder
    if s % 2 or t.batch_is_open:
        return token_block(t)
    half, size = s // 2, t.batch * (s // 2) ** 2
    y = t.node("Transpose", t.tensor, perm=[0, 2, 3, 1])
    shifted = t.flip()
    if shifted:
        y = t.node("Concat", t.slice(y, 1, 2**40, 1), t.slice(y, 0, 1, 1), axis=1)
    y = b.node("Reshape", y, b.ints(t.batch, half, 2, half, 2, n))
    y = t.node("Transpose", y, perm=[0, 1, 3, 2, 4, 5])
    y = b.node("Reshape", y, b.ints(*t.pick((size, 4, n), (-1, 4, n))))
    inner = t.at(y)
    inner.batch, inner.tokens = size, 4
    attention(inner)
    n = inner.channels
    y = b.node("Reshape", inner.tensor, b.ints(t.batch, half, half, 2, 2, n))
    y = t.node("Transpose", y, perm=[0, 1, 3, 2, 4, 5])
    y = b.node("Reshape", y, b.ints(*t.pick((t.batch, s, s, n), (-1, s, s, n), (t.batch, s, s, -1))))
    if shifted:
        y = t.node("Concat", t.slice(y, s - 1, 2**40, 1), t.slice(y, 0, s - 1, 1), axis=1)
    t.tensor, t.channels = t.node("Transpose", y, perm=[0, 3, 1, 2]), n
    return None
