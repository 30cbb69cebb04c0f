"""Steps of random graphs on images (N, C, H, W): every operator family but those on tokens."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper
from strategies_growth import Step, Tip, activation, clamp


def conv(t: Tip) -> None:
    width = t.width()
    kernel, bias = t.pick(1, 3), t.flip()
    t.tensor, t.channels = t.builder.conv(t.tensor, t.channels, width, kernel, bias=bias), width


def strided_conv(t: Tip) -> None:
    if t.side < 4:
        return conv(t)
    width = t.width()
    t.tensor = t.builder.conv(t.tensor, t.channels, width, 3, strides=[2, 2])
    t.channels, t.side = width, (t.side + 1) // 2
    return None


def depthwise(t: Tip) -> None:
    times = t.pick(1, 1, 2) if t.channels <= 6 else 1
    t.tensor = t.builder.conv(t.tensor, t.channels, times * t.channels, 3, group=t.channels)
    t.channels *= times


def grouped(t: Tip) -> None:
    """Several groups of several channels; sometimes the same operand is added (a residual ResNeXt)."""
    groups, each, out = t.pick(2, 3), t.width(1, 3), t.width(1, 3)
    before = t.builder.conv(t.tensor, t.channels, groups * each, 1)
    before = activation(t, before)
    after = t.builder.conv(before, groups * each, groups * out, t.pick(1, 3), group=groups, bias=t.flip())
    if each == out and t.flip():
        after = t.node("Add", before, after)
    t.tensor, t.channels = after, groups * out


def grouped_as_it_is(t: Tip) -> None:
    """A grouped convolution of whatever the channels are."""
    groups = next((g for g in (2, 3) if t.channels % g == 0 and t.channels > g), None)
    if groups is not None:
        out = t.width(1, 3)
        t.tensor = t.builder.conv(t.tensor, t.channels, groups * out, 1, group=groups)
        t.channels = groups * out


def conv_transpose(t: Tip) -> None:
    if t.side > 4:
        return conv(t)
    group = t.pick(1, 2, t.channels) if t.channels % 2 == 0 else t.pick(1, t.channels)
    width = group * t.width(1, 4)
    t.tensor = t.builder.conv_transpose(t.tensor, t.channels, width, group=group, bias=t.flip())
    t.channels, t.side = width, 2 * t.side
    return None


def batch_norm(t: Tip) -> None:
    t.tensor = t.builder.batch_norm(t.tensor, t.channels)


def act(t: Tip) -> None:
    t.tensor = activation(t, t.tensor)


def prelu(t: Tip) -> None:
    t.on("PRelu", t.builder.constant(t.builder.values(t.channels, 1, 1)))


def identity(t: Tip) -> None:
    kind = t.pick("Identity", "Dropout", "Neg", "Cast")
    if kind == "Cast":
        to = onnx.TensorProto.INT32 if t.exact else onnx.TensorProto.DOUBLE
        t.on("Cast", to=to)
        t.on("Cast", to=onnx.TensorProto.FLOAT)
    else:
        t.on(kind)


def pool(t: Tip) -> None:
    if t.side >= 4:
        t.tensor, t.side = t.builder.max_pool(t.tensor), t.side // 2
    elif not t.exact:
        t.on("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=t.pick(0, 1))


def pad_space(t: Tip) -> None:
    value = t.builder.number(t.pick(0, 1))
    t.on("Pad", t.builder.ints(0, 0, 1, 0, 0, 0, 0, 1), value, mode="constant")
    t.tensor = t.builder.conv(t.tensor, t.channels, t.channels, 2, pads=[0, 0, 0, 0])


def pad_channels(t: Tip) -> None:
    """Channels of zeros (or of ones) before and after."""
    before, after = t.width(0, 2), t.width(0, 2)
    value = t.builder.number(t.pick(0, 0, 1))
    t.on("Pad", t.builder.ints(0, before, 0, 0, 0, after, 0, 0), value, mode="constant")
    t.channels += before + after


def per_channel(t: Tip) -> None:
    """A constant per channel (or one for all), as exporters without bias inputs write it."""
    shape = t.pick((t.channels, 1, 1), (1, t.channels, 1, 1), (1,), ())
    constant = t.builder.constant(t.builder.values(*shape))
    kind = t.pick("Add", "Mul", "Sub")
    t.tensor = t.node(kind, *t.draw(st.permutations([t.tensor, constant])))


def divide(t: Tip) -> None:
    """By positive numbers per channel, in integer mode by powers of 2 and rounded."""
    powers = 2.0 ** t.builder.rng.integers(0, 2, size=(t.channels, 1, 1))
    t.on("Div", t.builder.constant(powers.astype(np.float32)))
    if t.exact:
        t.on("Floor")


def residual(t: Tip) -> None:
    """x + f(x) with random steps in f, which a convolution brings back to x's channels."""
    inner = t.at(t.tensor)
    grow(inner, 2)
    branch = same_size(inner, t.channels, t.side)
    shortcut = t.builder.conv(t.tensor, t.channels, t.channels, 1) if t.pick(0, 0, 1) else t.tensor
    pair = (branch, shortcut) if t.flip() else (shortcut, branch)
    t.tensor = t.node(t.pick("Add", "Add", "Sum", "Max"), *pair)


def same_size(t: Tip, channels: int, side: int) -> str:
    """Bring a branch to a number of channels and a side."""
    while t.side > side:
        t.tensor = t.builder.conv(t.tensor, t.channels, channels, 2, strides=[1, 1], pads=[0, 0, 0, 0])
        t.side, t.channels = t.side - 1, channels
    if t.side < side:
        times = (side + 0.1) / t.side  # rounded down to the side
        scales = t.builder.constant(np.asarray([1, 1, times, times], np.float32))
        rest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        t.on("Resize", "", scales, mode="nearest", **rest)
        t.side = side
    if t.channels != channels or t.flip():
        t.tensor, t.channels = t.builder.conv(t.tensor, t.channels, channels, t.pick(1, 3)), channels
    return t.tensor


def option_a(t: Tip) -> None:
    """A block of a CIFAR ResNet: the shortcut is subsampled and widened with zeros."""
    if t.side % 2 or t.side < 4:
        return residual(t)
    low, high = t.width(0, 2), t.width(0, 2)
    wide, half = t.channels + low + high, t.side // 2
    hidden = t.width()
    branch = activation(t, t.builder.conv(t.tensor, t.channels, hidden, 3, strides=[2, 2]))
    branch = t.builder.conv(branch, hidden, wide)
    b = t.builder
    short = b.node("Slice", t.tensor, b.ints(0, 0), b.ints(2**40, 2**40), b.ints(2, 3), b.ints(2, 2))
    short = b.node("Pad", short, b.ints(0, low, 0, 0, 0, high, 0, 0))
    t.tensor, t.channels, t.side = t.node("Add", branch, short), wide, half
    return None


def concat(t: Tip) -> None:
    """Channels of two or three branches side by side; one may be the input itself."""
    parts, total = [], 0
    for _ in range(t.pick(1, 1, 2)):
        inner = t.at(t.tensor)
        grow(inner, 1)
        width = inner.channels if inner.side == t.side and t.flip() else t.width(1, 4)
        parts.append(
            inner.tensor
            if inner.side == t.side and width == inner.channels
            else same_size(inner, width, t.side)
        )
        total += width
    if t.flip():
        parts.insert(t.pick(0, len(parts)), t.tensor)
        total += t.channels
    t.tensor, t.channels = t.node("Concat", *parts, axis=t.pick(1, -3)), total
    if total > 10:
        conv(t)


def split_branches(t: Tip) -> None:
    """CSP: part of the channels goes through a branch, and all are joined again."""
    if t.channels < 2:
        return conv(t)
    first = t.channels // 2 if t.flip() else t.draw(st.integers(1, t.channels - 1))
    one, other = t.split(t.tensor, [first, t.channels - first], 1)
    inner = t.at(one, channels=first)
    grow(inner, 1)
    branch = same_size(inner, first, t.side)
    parts = [branch, other] if t.flip() else [other, branch]
    if t.flip():
        parts.append(one)
    t.tensor = t.node("Concat", *parts, axis=1)
    t.channels += first * (len(parts) - 2)
    return None


def res2net(t: Tip) -> None:
    """y_i = conv(x_i + y_(i-1)) over parts of the channels, joined."""
    scale, width = t.pick(2, 3), t.width(1, 3)
    y = t.builder.conv(t.tensor, t.channels, scale * width, 1)
    sources = (
        t.split(y, [width] * scale, 1)
        if t.flip()
        else [t.slice(y, i * width, (i + 1) * width, 1) for i in range(scale)]
    )
    made = [sources[0]]
    for part in sources[1:]:
        made.append(activation(t, t.builder.conv(t.node("Add", part, made[-1]), width, width, 3)))
    t.tensor, t.channels = t.node("Concat", *made, axis=1), scale * width


def take_channels(t: Tip) -> None:
    """Some channels, in another order, possibly twice."""
    b, n = t.builder, t.channels
    kind = t.pick("gather", "slice", "reverse", "step", "swap")
    if kind == "gather":
        indices = t.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=6))
        t.on("Gather", b.ints(*indices), axis=1)
        t.channels = len(indices)
    elif kind == "slice":
        start = t.draw(st.integers(0, n - 1))
        end = t.draw(st.integers(start + 1, n))
        t.tensor, t.channels = (
            t.slice(t.tensor, start, t.pick(end, end - n) if end < n else end, 1),
            end - start,
        )
    elif kind == "reverse":
        t.tensor = t.slice(t.tensor, -1, -(2**40), 1, -1)
    elif kind == "step" and n > 1:
        t.tensor, t.channels = t.slice(t.tensor, 0, 2**40, 1, 2), (n + 1) // 2
    elif n > 1:
        cut = t.draw(st.integers(1, n - 1))
        parts = [t.slice(t.tensor, cut, 2**40, 1), t.slice(t.tensor, 0, cut, 1)]
        t.tensor = t.node("Concat", *parts, axis=1)


def shuffle(t: Tip) -> None:
    """A channel shuffle, channels first or last."""
    groups, each = t.pick(2, 3), t.width(1, 3)
    n, s = groups * each, t.side
    if t.channels != n:
        t.tensor, t.channels = t.builder.conv(t.tensor, t.channels, n, 1), n
    if t.flip():
        y = t.reshape(t.tensor, [t.batch, groups, each, s, s], source_axes=[0, None, None, 2, 3])
        y = t.node("Transpose", y, perm=[0, 2, 1, 3, 4])
        t.tensor = t.reshape(y, [t.batch, n, s, s], source_axes=[0, None, 3, 4])
    else:
        y = t.node("Transpose", t.tensor, perm=[0, 2, 3, 1])
        y = t.reshape(y, [t.batch, s, s, groups, each], source_axes=[0, 1, 2])
        y = t.node("Transpose", y, perm=[0, 1, 2, 4, 3])
        y = t.reshape(y, [t.batch, s, s, n], source_axes=[0, 1, 2])
        t.tensor = t.node("Transpose", y, perm=[0, 3, 1, 2])
    if t.flip():
        out = t.width(1, 2)
        t.tensor, t.channels = t.builder.conv(t.tensor, n, groups * out, 1, group=groups), groups * out


def squeeze_excite(t: Tip) -> None:
    b, c = t.builder, t.channels
    gate = t.node("GlobalAveragePool", t.tensor) if t.flip() else t.reduce("ReduceMean", t.tensor, [2, 3])
    gate = t.settle(gate)
    hidden = t.width(1, 4)
    if t.flip():
        gate = b.conv(activation(t, b.conv(gate, c, hidden, 1)), hidden, c, 1)
    else:
        gate = t.node("Flatten", gate) if t.flip() else t.reshape(gate, [t.batch, c], source_axes=[0, 1])
        gate = b.gemm(activation(t, b.gemm(gate, c, hidden)), hidden, c, trans_b=t.pick(0, 1))
        if t.flip():
            gate = t.reshape(gate, [t.batch, c, 1, 1], source_axes=[0, 1])
        else:
            gate = t.node("Unsqueeze", gate, b.ints(2, 3))
    gate = t.settle(t.node(t.pick("Sigmoid", "HardSigmoid"), clamp(t, gate)))
    if t.flip():
        shape = b.node("Shape", t.tensor)
        gate = t.node("Expand", gate, shape)
    t.tensor = t.node("Mul", *((t.tensor, gate) if t.flip() else (gate, t.tensor)))


def spatial_gate(t: Tip) -> None:
    """CBAM's second half: statistics over channels gate all of them."""
    kinds = ["ReduceSum"] if t.exact else ["ReduceMean", "ReduceSum", "ReduceMean", "ReduceMax"]
    kind = t.pick(*kinds)
    mean = t.reduce(kind, t.tensor, [1])
    gate = t.settle(t.node("Sigmoid", clamp(t, t.builder.conv(mean, 1, 1, 3))))
    t.tensor = t.node("Mul", t.tensor, gate)


def resize(t: Tip) -> None:
    if t.side > 4:
        return pool(t)
    b = t.builder
    rest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
    if not t.exact and t.flip():
        rest = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if t.flip() or t.batch_is_open:
        t.on("Resize", "", b.constant(np.asarray([1, 1, 2, 2], np.float32)), **rest)
    else:
        t.on("Resize", "", "", b.ints(t.batch, t.channels, 2 * t.side, 2 * t.side), **rest)
    t.side *= 2
    return None


def depth_to_space(t: Tip) -> None:
    """Out of channels into space, and sometimes back."""
    width = t.width(1, 3)
    if t.side > 4:
        return space_to_depth(t)
    y = t.builder.conv(t.tensor, t.channels, 4 * width, 1)
    t.tensor = t.node("DepthToSpace", y, blocksize=2, mode=t.pick("DCR", "CRD"))
    t.channels, t.side = width, 2 * t.side
    return None


def space_to_depth(t: Tip) -> None:
    if t.side % 2 or t.side < 4 or t.channels > 4:
        return conv(t)
    t.on("SpaceToDepth", blocksize=2)
    t.channels, t.side = 4 * t.channels, t.side // 2
    return None


def lrn(t: Tip) -> None:
    t.on("LRN", size=t.pick(1, 3), alpha=0.1, beta=0.75, bias=1.0)
    t.tensor = t.settle(t.tensor)


def instance_norm(t: Tip) -> None:
    b = t.builder
    scale, shift = b.constant(b.values(t.channels)), b.constant(b.values(t.channels))
    t.tensor = t.settle(t.node("InstanceNormalization", t.tensor, scale, shift, epsilon=0.5))


def group_norm(t: Tip) -> None:
    """The operator, or as PyTorch exports it."""
    b, s = t.builder, t.side
    groups, each = t.pick(1, 2, 3), t.width(1, 3)
    n = groups * each
    if t.channels != n:
        t.tensor, t.channels = b.conv(t.tensor, t.channels, n, 1), n
    if b.opset >= 21 and t.flip():
        scale, shift = b.constant(b.values(n)), b.constant(b.values(n))
        t.on("GroupNormalization", scale, shift, num_groups=groups, epsilon=0.5)
        t.tensor = t.settle(t.tensor)
        return
    y = t.reshape(t.tensor, [t.batch, groups, each * s * s])
    ones, zeros = b.constant(np.ones(groups, np.float32)), b.constant(np.zeros(groups, np.float32))
    y = t.settle(t.node("InstanceNormalization", y, ones, zeros, epsilon=0.5))
    y = t.reshape(y, [t.batch, n, s, s]) if t.flip() else t.node("Reshape", y, b.node("Shape", t.tensor))
    y = t.node("Mul", y, b.constant(b.values(n, 1, 1)))
    t.tensor = t.node("Add", y, b.constant(b.values(n, 1, 1)))


def channels_last(t: Tip) -> None:
    """A matrix on the last axis between two Transposes (ConvNeXt), with a norm that mixes or without."""
    b, width = t.builder, t.width()
    y, n = t.node("Transpose", t.tensor, perm=[0, 2, 3, 1]), t.channels
    if b.opset >= 17 and t.pick(0, 0, 0, 1):
        scale, shift = b.constant(b.values(n)), b.constant(b.values(n))
        y = t.settle(t.node("LayerNormalization", y, scale, shift, axis=-1, epsilon=0.5))
    y = b.matmul(y, n, width)
    if t.flip():
        y = t.node("Add", y, b.constant(b.values(width)))
    y = activation(t, y)
    if t.flip():
        y, width = b.matmul(y, width, n), n
        y = t.node("Mul", y, b.constant(b.values(n)))
    y = t.node("Transpose", y, perm=[0, 3, 1, 2])
    t.tensor = t.node("Add", t.tensor, y) if width == n and t.flip() else y
    t.channels = width


def flat_and_back(t: Tip) -> None:
    """Space as one axis (a Conv1d works on it), or one axis more and less."""
    b, s = t.builder, t.side
    kind = t.pick("flat", "unsqueeze", "flatten")
    if kind == "flat":
        y = t.reshape(t.tensor, [t.batch, t.channels, s * s], source_axes=[0, 1])
        width = t.width()
        y = b.conv(y, t.channels, width, 1, dims=1)
        t.channels = width
        t.tensor = t.reshape(activation(t, y), [t.batch, width, s, s], source_axes=[0, 1])
    elif kind == "unsqueeze":
        axis = t.pick(0, 1, 2, -1)
        y = activation(t, t.node("Unsqueeze", t.tensor, b.ints(axis)))
        t.tensor = t.node("Squeeze", y, b.ints(axis))
    else:
        y = activation(t, t.node("Flatten", t.tensor))
        t.tensor = t.reshape(y, [t.batch, t.channels, s, s])


def repeated(t: Tip) -> None:
    """Channels repeated side by side, or added to copies of one."""
    b = t.builder
    if t.flip() and t.channels <= 5:
        t.on("Tile", b.ints(1, 2, 1, 1))
        t.channels *= 2
        return
    one = t.builder.conv(t.tensor, t.channels, 1, 1)
    if t.flip():
        one = t.node("Tile", one, b.ints(1, t.channels, 1, 1))
    elif t.flip():
        one = t.node("Expand", one, b.node("Shape", t.tensor))
    elif t.flip():
        one = t.node("Expand", one, b.ints(1, t.channels, 1, 1))
    t.tensor = t.node(t.pick("Mul", "Add"), t.tensor, one)


def where(t: Tip) -> None:
    b = t.builder
    limit = b.number(1) if t.flip() else b.constant(b.values(t.channels, 1, 1))
    condition = t.node(t.pick("Greater", "Less"), t.tensor, limit)
    other = t.pick("zero", "conv", "self")
    if other == "zero":
        branch = b.number(t.pick(0, 0, 2))
    elif other == "conv":
        branch = b.conv(t.tensor, t.channels, t.channels, 1)
    else:
        branch = t.node("Neg", t.tensor)
    t.tensor = t.node("Where", condition, *((t.tensor, branch) if t.flip() else (branch, t.tensor)))


def softmax_or_statistics(t: Tip) -> None:
    """What mixes channels: Softmax over them, their mean square (RMS norm), a maximum."""
    b, kind = t.builder, t.pick("softmax", "rms", "centre", "max")
    if kind == "softmax":
        t.tensor = t.settle(t.node("Softmax", t.tensor, axis=1))
    elif kind == "rms" and not t.exact:
        square = t.node("Mul", t.tensor, t.tensor) if t.flip() else t.node("Pow", t.tensor, b.number(2))
        mean = t.reduce("ReduceMean", square, [1])
        root = t.node("Sqrt", t.node("Add", mean, b.number(0.1)))
        if t.flip():
            t.on("Div", root)
        else:
            t.on("Mul", t.node("Reciprocal", root))
        t.on("Mul", b.constant(b.values(t.channels, 1, 1)))
    elif kind == "centre":
        total = t.reduce("ReduceSum" if t.exact else "ReduceMean", t.tensor, [1])
        t.on("Sub", total)
    else:
        t.on("Sub", t.reduce("ReduceMax", t.tensor, [1]))


def condition(t: Tip) -> None:
    """An If whose branches read the channels: they stay."""
    b, name = t.builder, t.builder.fresh("branch")
    bodies = []
    for kind in ("Relu", "Neg"):
        made = f"{name}_{kind}"
        node = helper.make_node(kind, [t.tensor], [made])
        value = helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, None)
        bodies.append(helper.make_graph([node], made, [], [value]))
    bound = b.bounds.get(t.tensor, 0.0)
    t.tensor = b.node("If", b.constant(np.asarray(t.flip())), then_branch=bodies[0], else_branch=bodies[1])
    b.bounds[t.tensor] = bound


def relayout_conv(t: Tip) -> None:
    """A kernel stored channels-last, transposed before use."""
    width = t.width()
    stored = t.builder.constant(t.builder.values(3, 3, t.channels, width), t.builder.fresh("hwio"))
    weight = t.node("Transpose", stored, perm=[3, 2, 0, 1])
    t.tensor, t.channels = t.builder.conv(t.tensor, t.channels, width, 3, weight=weight), width


def shared_conv(t: Tip) -> None:
    """One square kernel used twice."""
    weight = t.builder.constant(t.builder.values(t.channels, t.channels, 1, 1), t.builder.fresh("shared"))
    for _ in range(2):
        t.tensor = activation(t, t.builder.conv(t.tensor, t.channels, t.channels, 1, weight=weight))


IMAGE_STEPS: tuple[Step, ...] = (
    conv,
    conv,
    strided_conv,
    depthwise,
    grouped,
    grouped_as_it_is,
    conv_transpose,
    batch_norm,
    act,
    prelu,
    identity,
    pool,
    pad_space,
    pad_channels,
    per_channel,
    divide,
    residual,
    residual,
    option_a,
    concat,
    concat,
    split_branches,
    res2net,
    take_channels,
    shuffle,
    squeeze_excite,
    spatial_gate,
    resize,
    depth_to_space,
    space_to_depth,
    lrn,
    instance_norm,
    group_norm,
    channels_last,
    flat_and_back,
    repeated,
    where,
    softmax_or_statistics,
    condition,
    relayout_conv,
    shared_conv,
)
_BRANCHING = (residual, concat, split_branches, option_a)


def grow(t: Tip, most: int, steps: tuple[Step, ...] = IMAGE_STEPS) -> None:
    """Up to `most` random steps; branches in branches end."""
    allowed = [step for step in steps if t.depth < 2 or step not in _BRANCHING]
    for step in t.draw(st.lists(st.sampled_from(allowed), max_size=most)):
        t.steps.append(step.__name__)
        step(t)
        if t.channels > 12:
            conv(t)
