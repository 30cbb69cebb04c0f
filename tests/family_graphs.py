"""Named small graphs of the simple operator families; `graphs.py` takes them up.

Each is a convolution, operators of one family, and a convolution that reads the result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from graph_builder import Builder
from onnx import numpy_helper

FAMILY_GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {}

Between = Callable[[Builder, str], str]
"""Adds nodes that turn an activation of shape (1, 6, 4, 4) into another."""


def between(
    *, into: int = 6, side: int = 4, start: int = 4, batch: int | str = 1, **options
) -> Callable[[Between], Callable[[], onnx.ModelProto]]:
    """`into` channels and sides of `side` come out of what stands between the two convolutions."""

    def register(function: Between) -> Callable[[], onnx.ModelProto]:
        def make() -> onnx.ModelProto:
            b = Builder([batch, 3, start, start], **options)
            y = function(b, b.node("Relu", b.conv("x", 3, 6)))
            b.output(b.conv(y, into, 3, 1), [batch, 3, side, side], "y")
            return b.model()

        FAMILY_GRAPHS[function.__name__] = make
        return make

    return register


def _number(b: Builder, value: float) -> str:
    return b.constant(np.asarray(value, dtype=b.dtype))


# --- padding of channels


def _option_a(b: Builder, y: str, pad: Callable[[str], str]) -> str:
    """A block of a CIFAR ResNet: the shortcut is subsampled and widened with zeros."""
    branch = b.conv(b.node("Relu", b.conv(y, 6, 5)), 5, 10, strides=[2, 2])
    starts, ends, axes, steps = b.ints(0, 0), b.ints(2**40, 2**40), b.ints(2, 3), b.ints(2, 2)
    return b.node("Relu", b.node("Add", branch, pad(b.node("Slice", y, starts, ends, axes, steps))))


@between(into=10, side=2, integers=True)
def option_a_integers(b: Builder, y: str) -> str:
    return _option_a(b, y, lambda x: b.node("Pad", x, b.ints(0, 1, 0, 0, 0, 3, 0, 0)))


@between(into=10, side=2, integers=True, opset=10)
def option_a_attribute_integers(b: Builder, y: str) -> str:
    return _option_a(b, y, lambda x: b.node("Pad", x, pads=[0, 2, 0, 0, 0, 2, 0, 0]))


@between(into=10, side=2, integers=True, opset=18)
def option_a_axes_integers(b: Builder, y: str) -> str:
    return _option_a(b, y, lambda x: b.node("Pad", x, b.ints(0, 4), "", b.ints(-3)))


@between(into=10, side=2, integers=True)
def option_a_computed_integers(b: Builder, y: str) -> str:
    """The pads are computed from constants, as PyTorch exports them."""

    def pad(x: str) -> str:
        pads = b.node("Reshape", b.ints(0, 0, 0, 0, 2, 2, 0, 0), b.ints(-1, 2))
        pads = b.node("Slice", pads, b.ints(-1), b.ints(-(2**62)), b.ints(0), b.ints(-1))
        pads = b.node("Reshape", b.node("Transpose", pads, perm=[1, 0]), b.ints(-1))
        return b.node("Pad", x, b.node("Cast", pads, to=onnx.TensorProto.INT64), _number(b, 0))

    return _option_a(b, y, pad)


@between(into=8)
def pad_channels_with_ones(b: Builder, y: str) -> str:
    return b.node("Pad", y, b.ints(0, 1, 0, 0, 0, 1, 0, 0), _number(b, 1))


@between(into=8)
def pad_channels_reflected(b: Builder, y: str) -> str:
    return b.node("Pad", y, b.ints(0, 1, 0, 0, 0, 1, 0, 0), mode="reflect")


# --- blocks


def _pixel_shuffle(b: Builder, y: str, mode: str) -> str:
    y = b.node("DepthToSpace", b.conv(y, 6, 12), blocksize=2, mode=mode)
    return b.node("SpaceToDepth", b.node("Relu", b.conv(y, 3, 5)), blocksize=2)


@between(into=20, integers=True)
def depth_to_space_integers(b: Builder, y: str) -> str:
    return _pixel_shuffle(b, y, "DCR")


@between(into=20, integers=True)
def depth_to_space_crd_integers(b: Builder, y: str) -> str:
    return _pixel_shuffle(b, y, "CRD")


@between(into=4, side=5, opset=18, integers=True)
def col2im_integers(b: Builder, y: str) -> str:
    y = b.node("Reshape", b.conv(y, 6, 16), b.ints(1, 16, 16))
    return b.node("Col2Im", y, b.ints(5, 5), b.ints(2, 2))


# --- windows over channels


@between()
def lrn_of_one(b: Builder, y: str) -> str:
    return b.node("LRN", y, size=1, alpha=0.1, beta=0.75, bias=1.0)


# --- quotients and powers


@between()
def divided_by_deviation(b: Builder, y: str) -> str:
    """A normalisation per channel, written out: the divisor is positive."""
    centred = b.node("Sub", y, b.node("ReduceMean", y, axes=[2, 3]))
    variance = b.node("ReduceMean", b.node("Mul", centred, centred), axes=[2, 3])
    return b.node("Div", centred, b.node("Sqrt", b.node("Add", variance, _number(b, 1e-3))))


@between()
def divided_by_one_number(b: Builder, y: str) -> str:
    """One divisor for all channels, and one that is clipped."""
    y = b.node("Div", y, b.node("Softplus", b.conv(y, 6, 1)))
    return b.node("Div", y, b.node("Clip", b.node("ReduceL2", y, axes=[2]), _number(b, 0.01)))


@between()
def reciprocal_of_positive(b: Builder, y: str) -> str:
    y = b.node("Mul", y, b.node("Reciprocal", b.node("Add", b.node("Abs", b.conv(y, 6, 6)), _number(b, 1))))
    return b.node("Log", b.node("Max", y, _number(b, 0.5)))


@between()
def powers(b: Builder, y: str) -> str:
    y = b.node("Pow", y, b.constant(np.linspace(1, 2, 6).astype(np.float32).reshape(6, 1, 1), "exponents"))
    positive = b.node("Exp", b.node("Tanh", y))
    return b.node(
        "Add", b.node("Pow", positive, _number(b, -0.5)), b.node("Pow", _number(b, 2), b.node("Tanh", y))
    )


@between(integers=True)
def remainders_integers(b: Builder, y: str) -> str:
    y = b.node("Mod", y, b.constant(np.arange(3, 9, dtype=np.float32).reshape(6, 1, 1), "divisors"), fmod=1)
    return b.node("Max", b.node("Min", y, _number(b, 5)), _number(b, -1))


# --- choices and logic


@between(integers=True)
def where_integers(b: Builder, y: str) -> str:
    """Conditions from channels, for all channels alike, and per channel."""
    other = b.conv(y, 6, 6)
    y = b.node("Where", b.node("Greater", y, other), y, other)
    y = b.node("Where", b.constant(b.rng.random((4, 4)) < 0.5, "mask"), y, _number(b, 0))
    chosen = b.constant(np.asarray([1, 0, 1, 1, 0, 1], bool).reshape(6, 1, 1), "chosen")
    return b.node("Where", chosen, y, b.constant(b.values(6, 1, 1), "instead"))


@between(integers=True)
def logic_integers(b: Builder, y: str) -> str:
    other = b.conv(y, 6, 6)
    both = b.node("And", b.node("Greater", y, _number(b, 0)), b.node("Not", b.node("Less", other, y)))
    either = b.node("Or", both, b.node("Equal", y, other))
    return b.node("Cast", either, to=onnx.TensorProto.FLOAT)


# --- spreading


@between(into=12, integers=True)
def expanded_integers(b: Builder, y: str) -> str:
    """Pooled channels spread over space, by constant numbers."""
    pooled = b.conv(b.node("GlobalMaxPool", y), 6, 6, 1)
    return b.node("Concat", y, b.node("Expand", pooled, b.ints(1, 6, 4, 4)), axis=1)


@between(integers=True)
def expanded_as_integers(b: Builder, y: str) -> str:
    """`gate.expand_as(y)`: of one number per channel, then of one per place."""
    y = b.node("Mul", y, b.node("Expand", b.conv(b.node("GlobalMaxPool", y), 6, 6, 1), b.node("Shape", y)))
    return b.node("Mul", y, b.node("Expand", b.conv(y, 6, 1, 1), b.node("Shape", y)))


@between(integers=True)
def copies_integers(b: Builder, y: str) -> str:
    """One map repeated for every channel, by constant numbers."""
    y = b.node("Add", y, b.node("Expand", b.conv(y, 6, 1, 1), b.ints(6, 4, 4)))
    return b.node("Mul", y, b.node("Tile", b.conv(y, 6, 1, 1), b.ints(1, 6, 1, 1)))


@between(into=12, integers=True)
def tiled_integers(b: Builder, y: str) -> str:
    pooled = b.conv(b.node("GlobalMaxPool", y), 6, 6, 1)
    return b.node("Add", b.node("Tile", y, b.ints(1, 2, 1, 1)), b.node("Tile", pooled, b.ints(1, 2, 4, 4)))


@between(into=12, integers=True)
def zeros_like_integers(b: Builder, y: str) -> str:
    zeros = b.node("ConstantOfShape", b.node("Shape", y))
    return b.node("Concat", b.node("Sub", zeros, y), zeros, axis=1)


@between(into=12, integers=True, batch="N")
def expanded_at_run_time_integers(b: Builder, y: str) -> str:
    """`pooled.expand(-1, -1, h, w)` with h and w of y, as TorchScript writes it."""
    pooled = b.conv(b.node("GlobalMaxPool", y), 6, 6, 1)
    shape = b.node("Shape", y)
    space = [
        b.node("Unsqueeze", b.node("Gather", shape, b.constant(np.asarray(axis))), b.ints(0))
        for axis in (2, 3)
    ]
    target = b.node("Reshape", b.node("Concat", b.ints(-1), b.ints(-1), *space, axis=0), b.ints(-1))
    ones = b.node(
        "ConstantOfShape", b.node("Shape", target), value=numpy_helper.from_array(np.ones(1, np.int64))
    )
    marks = b.node("Equal", target, b.node("Mul", ones, b.ints(-1)))
    return b.node("Concat", y, b.node("Expand", pooled, b.node("Where", marks, ones, target)), axis=1)


@between(integers=True)
def class_token_integers(b: Builder, y: str) -> str:
    """A constant spread over the batch, beside what it is joined to."""
    y = b.node("Transpose", b.node("Reshape", y, b.ints(1, 6, 16)), perm=[0, 2, 1])
    token = b.constant(b.values(1, 1, 6), "token")
    y = b.node("Concat", b.node("Expand", token, b.ints(1, 2, 6)), y, axis=1)
    y = b.node("Slice", y, b.ints(1), b.ints(17), b.ints(1))
    return b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1]), b.ints(1, 6, 4, 4))


@between(into=9, integers=True)
def joined_constants_integers(b: Builder, y: str) -> str:
    """A shortcut widened by joining zeros, and a map of coordinates beside the channels."""
    zeros = b.constant(np.zeros((1, 2, 4, 4), np.float32), "zeros")
    y = b.node("Add", b.node("Concat", zeros, y, axis=1), b.conv(y, 6, 8))
    return b.node("Concat", y, b.constant(b.values(1, 1, 4, 4), "coordinates"), axis=1)


# --- sampling


@between()
def resized_like(b: Builder, y: str) -> str:
    """`interpolate(small, size=y.shape[2:])`, sizes as PyTorch exports them."""
    small = b.conv(b.max_pool(y), 6, 6)
    space = b.node("Slice", b.node("Shape", y), b.ints(2), b.ints(4), b.ints(0))
    front = b.node("Slice", b.node("Shape", small), b.ints(0), b.ints(2), b.ints(0))
    sizes = b.node("Concat", front, b.node("Cast", space, to=onnx.TensorProto.INT64), axis=0)
    return b.node("Add", y, b.node("Resize", small, "", "", sizes, mode="linear"))


@between()
def image_pooling(b: Builder, y: str) -> str:
    """DeepLab: pooled, convolved, resized by constant sizes."""
    pooled = b.node("Relu", b.conv(b.node("GlobalAveragePool", y), 6, 6, 1))
    return b.node("Add", y, b.node("Resize", pooled, "", "", b.ints(1, 6, 4, 4), mode="linear"))


@between(side=8, opset=9)
def upsampled(b: Builder, y: str) -> str:
    return b.node("Upsample", y, b.constant(np.asarray([1, 1, 2, 2], np.float32)), mode="nearest")


@between(side=8, opset=7)
def upsampled_by_attribute(b: Builder, y: str) -> str:
    return b.node("Upsample", y, scales=[1.0, 1.0, 2.0, 2.0], mode="linear")


@between(opset=13)
def cropped_and_resized(b: Builder, y: str) -> str:
    region = b.constant(np.asarray([0, 0, 0.2, 0.3, 1, 1, 0.9, 1.2], np.float32))
    return b.node(
        "Resize",
        y,
        region,
        "",
        b.ints(1, 6, 4, 4),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=2.0,
    )


@between(side=8, opset=18)
def resized_along_axes(b: Builder, y: str) -> str:
    return b.node("Resize", y, "", "", b.ints(8, 8), mode="nearest", axes=[2, 3])


@between(opset=16)
def grid_sampled(b: Builder, y: str) -> str:
    grid = b.node("Transpose", b.node("Tanh", b.conv(y, 6, 2)), perm=[0, 2, 3, 1])
    return b.node("GridSample", y, grid)


@between(opset=16)
def regions_aligned(b: Builder, y: str) -> str:
    rois = b.constant(np.asarray([[0, 0, 3, 3]], np.float32), "rois")
    index = b.constant(np.zeros(1, np.int64), "batch_index")
    return b.node("RoiAlign", y, rois, index, output_height=4, output_width=4)


# --- along one axis


@between()
def along_space(b: Builder, y: str) -> str:
    """Softmax, CumSum, Trilu, ArgMax, TopK and MeanVarianceNormalization over space."""
    y = b.node("Add", y, b.node("Softmax", y, axis=-1))
    y = b.node("CumSum", b.node("Trilu", y), b.constant(np.asarray(-2, np.int64)))
    best = b.node("Cast", b.node("ArgMax", y, axis=3), to=onnx.TensorProto.FLOAT)
    b.node("TopK", y, b.ints(4), axis=2, outputs=2)
    largest, places = b.last_outputs()
    y = b.node("Add", b.node("Add", largest, best), b.node("Cast", places, to=onnx.TensorProto.FLOAT))
    first = b.node("Cast", b.node("ArgMin", y, axis=3, keepdims=0), to=onnx.TensorProto.FLOAT)
    y = b.node("Add", y, b.node("Unsqueeze", first, b.ints(3)))
    return b.node("MeanVarianceNormalization", y, axes=[0, 2, 3])


@between(opset=18)
def reductions(b: Builder, y: str) -> str:
    """Axes as an input, negative, without keepdims, none at all."""
    y = b.node("Add", y, b.node("ReduceMax", y, b.ints(-1, -2)))
    y = b.node("Add", y, b.node("Unsqueeze", b.node("ReduceSumSquare", y, b.ints(2), keepdims=0), b.ints(2)))
    y = b.node("Mul", y, b.node("ReduceMean", y, noop_with_empty_axes=1))
    return b.node("Add", y, b.node("ReduceLogSumExp", y, b.ints(-1)))


@between(integers=True)
def channels_last_integers(b: Builder, y: str) -> str:
    """Reduced from the front: the channels move down."""
    y = b.node("ReduceSum", b.node("Transpose", y, perm=[0, 2, 3, 1]), b.ints(0, 1), keepdims=0)
    y = b.node("Expand", b.node("Unsqueeze", y, b.ints(0, 1)), b.ints(1, 4, 4, 6))
    return b.node("Transpose", y, perm=[0, 3, 1, 2])


# --- quantised activations


def _quantized(b: Builder, y: str, scale: np.ndarray, zero_point: np.ndarray, **attributes) -> str:
    parameters = b.constant(scale.astype(np.float32)), b.constant(zero_point.astype(np.uint8))
    y = b.node("QuantizeLinear", y, *parameters, **attributes)
    return b.node("DequantizeLinear", y, *parameters, **attributes)


@between(integers=True)
def quantized_activations_integers(b: Builder, y: str) -> str:
    """Per tensor, with and without a zero point."""
    y = _quantized(b, y, np.asarray(1), np.asarray(7))
    return _quantized(b, b.node("Relu", b.conv(y, 6, 6)), np.asarray(2), np.asarray(0))


@between(integers=True)
def quantized_per_channel_integers(b: Builder, y: str) -> str:
    return _quantized(b, y, np.asarray([1, 2, 4, 1, 2, 4]), np.asarray([0, 3, 7, 0, 0, 9]), axis=1)


# --- functions of one activation


@between(opset=20)
def functions(b: Builder, y: str) -> str:
    y = b.node("Gelu", b.node("Mish", b.node("Selu", y)), approximate="tanh")
    y = b.node("Clip", y, b.node("ReduceMin", "x", keepdims=0), b.node("ReduceMax", "x", keepdims=0))
    return b.node("CastLike", b.node("Shrink", b.node("Sin", y), lambd=0.1), y)


# --- what pins everything


@between()
def gathered_elements(b: Builder, y: str) -> str:
    places = b.constant(b.rng.integers(0, 4, (1, 6, 4, 4)), "places")
    return b.node("GatherElements", y, places, axis=3)


@between()
def pool_with_indices(b: Builder, y: str) -> str:
    b.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2], outputs=2)
    return b.node("MaxUnpool", *b.last_outputs(), kernel_shape=[2, 2], strides=[2, 2])
