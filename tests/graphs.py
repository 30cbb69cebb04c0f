"""Named small ONNX graphs with seeded random weights: `GRAPHS[name]()` gives an `onnx.ModelProto`.

Channels are at most 16 and sides at most 12, so that every graph runs in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
from family_graphs import FAMILY_GRAPHS
from graph_builder import Builder
from head_graphs import HEAD_GRAPHS
from onnx import helper, numpy_helper

GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {}


def graph(function: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    GRAPHS[function.__name__] = function
    return function


def _lenet(flatten: str, **options) -> onnx.ModelProto:
    b = Builder([1, 1, 12, 12], **options)
    y = b.max_pool(b.node("Relu", b.conv("x", 1, 4, 5)))
    y = b.max_pool(b.node("Relu", b.conv(y, 4, 6, 3)))
    if flatten == "flatten":
        y = b.node("Flatten", y)
    else:
        y = b.node("Reshape", y, b.ints(*((0, -1) if flatten == "zero" else (1, -1))))
    y = b.node("Relu", b.gemm(y, 6 * 3 * 3, 10))
    b.output(b.gemm(y, 10, 5), [1, 5], "y")
    return b.model()


@graph
def lenet() -> onnx.ModelProto:
    return _lenet("flatten")


@graph
def lenet_reshape() -> onnx.ModelProto:
    """Flattened with Reshape to [1, -1]."""
    return _lenet("minus")


@graph
def lenet_reshape_zero() -> onnx.ModelProto:
    """Flattened with Reshape to [0, -1]."""
    return _lenet("zero")


@graph
def lenet_integers() -> onnx.ModelProto:
    """Small-integer weights: equality is bit for bit."""
    return _lenet("flatten", integers=True)


@graph
def conv_bn() -> onnx.ModelProto:
    b = Builder([1, 3, 8, 8])
    y = b.node("Relu", b.batch_norm(b.conv("x", 3, 6, bias=False), 6))
    y = b.node("Relu", b.batch_norm(b.conv(y, 6, 8, strides=[2, 2]), 8))
    y = b.node("Flatten", b.node("GlobalAveragePool", y))
    b.output(b.gemm(y, 8, 4), [1, 4], "y")
    return b.model()


def _residual(norm: bool, **options) -> onnx.ModelProto:
    """Two blocks: identity shortcut, then a strided one with a 1x1 shortcut."""
    b = Builder([1, 3, 8, 8], **options)

    def unit(x: str, inputs: int, outputs: int, kernel: int = 3, **attributes) -> str:
        y = b.conv(x, inputs, outputs, kernel, bias=not norm, **attributes)
        return b.batch_norm(y, outputs) if norm else y

    y = b.node("Relu", unit("x", 3, 6))
    branch = unit(b.node("Relu", unit(y, 6, 5)), 5, 6)
    y = b.node("Relu", b.node("Add", branch, y))
    branch = unit(b.node("Relu", unit(y, 6, 7, strides=[2, 2])), 7, 8)
    shortcut = unit(y, 6, 8, 1, strides=[2, 2])
    y = b.node("Relu", b.node("Add", branch, shortcut))
    y = b.node("Flatten", b.node("GlobalAveragePool", y))
    b.output(b.gemm(y, 8, 4), [1, 4], "y")
    return b.model()


@graph
def residual_bn() -> onnx.ModelProto:
    return _residual(norm=True)


@graph
def residual_folded() -> onnx.ModelProto:
    return _residual(norm=False)


@graph
def residual_integers() -> onnx.ModelProto:
    """Folded, with small-integer weights and no averaging, so that equality is bit for bit."""
    b = Builder([1, 2, 6, 6], integers=True)
    y = b.node("Relu", b.conv("x", 2, 4))
    branch = b.conv(b.node("Relu", b.conv(y, 4, 3)), 3, 4)
    y = b.node("Relu", b.node("Add", branch, y))
    b.output(b.gemm(b.node("Flatten", b.max_pool(y)), 36, 4), [1, 4], "y")
    return b.model()


@graph
def depthwise() -> onnx.ModelProto:
    """Depthwise-separable: 3x3 per channel, then 1x1."""
    b = Builder([1, 3, 8, 8])
    y = b.node("Relu", b.batch_norm(b.conv("x", 3, 6, bias=False), 6))
    y = b.node("Clip", b.conv(y, 6, 6, group=6), b.constant(np.float32(0)), b.constant(np.float32(6)))
    y = b.node("Relu", b.conv(y, 6, 8, 1))
    y = b.conv(b.conv(y, 8, 16, group=8), 16, 5, 1)
    b.output(b.node("GlobalAveragePool", y), [1, 5, 1, 1], "y")
    return b.model()


@graph
def grouped() -> onnx.ModelProto:
    b = Builder([1, 4, 6, 6])
    y = b.node("Relu", b.conv("x", 4, 8))
    y = b.node("Relu", b.conv(y, 8, 12, group=2))
    y = b.node("Relu", b.conv(y, 12, 8, group=4))
    b.output(b.conv(y, 8, 3, 1), [1, 3, 6, 6], "y")
    return b.model()


@graph
def concat_fire() -> onnx.ModelProto:
    """SqueezeNet's fire module twice: squeeze, two expands, Concat of channels."""
    b = Builder([1, 3, 8, 8])
    y, channels = b.node("Relu", b.conv("x", 3, 6)), 6
    for squeeze, left, right in ((3, 4, 5), (4, 5, 3)):
        s = b.node("Relu", b.conv(y, channels, squeeze, 1))
        e1 = b.node("Relu", b.conv(s, squeeze, left, 1))
        e3 = b.node("Relu", b.conv(s, squeeze, right, 3))
        y, channels = b.node("Concat", e1, e3, axis=1), left + right
    y = b.node("GlobalAveragePool", b.conv(y, channels, 4, 1))
    b.output(b.node("Softmax", b.node("Flatten", y), axis=1), [1, 4], "y")
    return b.model()


@graph
def inception_pool() -> onnx.ModelProto:
    """Concat whose branches are a convolution and a pooled copy of the input."""
    b = Builder([1, 2, 8, 8])
    y = b.node("Relu", b.conv("x", 2, 5))
    pooled = b.node("AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    y = b.node("Concat", b.conv(y, 5, 4, 1), pooled, y, axis=1)
    b.output(b.conv(b.node("Relu", y), 14, 3), [1, 3, 8, 8], "y")
    return b.model()


@graph
def matmul_mlp() -> onnx.ModelProto:
    b = Builder(["batch", 7])
    y = b.node("Relu", b.node("Add", b.matmul("x", 7, 9), b.constant(b.values(9), "add1.bias")))
    y = b.node("Relu", b.node("Add", b.constant(b.values(1, 8), "add2.bias"), b.matmul(y, 9, 8)))
    b.output(b.matmul(y, 8, 3), ["batch", 3], "y")
    return b.model()


@graph
def matmul_left() -> onnx.ModelProto:
    """Constant on the left: W @ x, channels on the last but one axis."""
    b = Builder([1, 6, 5])
    y = b.node("Relu", b.node("MatMul", b.constant(b.values(8, 6), "left1.weight"), "x"))
    b.output(b.node("MatMul", b.constant(b.values(4, 8), "left2.weight"), y), [1, 4, 5], "y")
    return b.model()


@graph
def matmul_batched() -> onnx.ModelProto:
    """A 3-D constant: its leading dimension becomes taps."""
    b = Builder([2, 5, 6])
    y = b.node("Relu", b.node("MatMul", "x", b.constant(b.values(2, 6, 8), "batched.weight")))
    b.output(b.matmul(y, 8, 3), [2, 5, 3], "y")
    return b.model()


@graph
def gemm_trans_b() -> onnx.ModelProto:
    """Gemm with transB 1 and 0, and alpha and beta."""
    b = Builder(["batch", 6])
    y = b.node("Relu", b.gemm("x", 6, 10, trans_b=1))
    y = b.node("Relu", b.gemm(y, 10, 8, trans_b=0, alpha=0.5, beta=2.0))
    b.output(b.gemm(y, 8, 3, trans_b=0, bias=False), ["batch", 3], "y")
    return b.model()


@graph
def gemm_trans_a() -> onnx.ModelProto:
    """Gemm whose constant is A, with and without transA; channels on axis 0."""
    b = Builder([6, 4])
    y = b.node("Relu", b.node("Gemm", b.constant(b.values(8, 6), "a1.weight"), "x"))
    y = b.node("Gemm", b.constant(b.values(8, 3), "a2.weight"), y, transA=1)
    b.output(y, [3, 4], "y")
    return b.model()


@graph
def conv1d() -> onnx.ModelProto:
    b = Builder([1, 2, 12])
    y = b.node("Relu", b.batch_norm(b.conv("x", 2, 6, 3, dims=1), 6))
    y = b.node("MaxPool", b.node("Relu", b.conv(y, 6, 8, 5, dims=1)), kernel_shape=[2], strides=[2])
    b.output(b.gemm(b.node("Flatten", y), 48, 4), [1, 4], "y")
    return b.model()


@graph
def conv3d() -> onnx.ModelProto:
    b = Builder([1, 1, 4, 6, 6])
    y = b.node("Relu", b.conv("x", 1, 4, 3, dims=3))
    y = b.node("Relu", b.conv(y, 4, 6, (1, 3, 3), dims=3))
    b.output(b.gemm(b.node("Flatten", b.node("GlobalAveragePool", y)), 6, 3), [1, 3], "y")
    return b.model()


@graph
def conv_transpose() -> onnx.ModelProto:
    b = Builder([1, 3, 4, 4])
    y = b.node("Relu", b.conv("x", 3, 6))
    y = b.node("Relu", b.conv_transpose(y, 6, 8))
    y = b.node("Relu", b.conv_transpose(y, 8, 4, group=2))
    b.output(b.conv(y, 4, 2, 1), [1, 2, 16, 16], "y")
    return b.model()


@graph
def shared_weights() -> onnx.ModelProto:
    """One kernel read by two convolutions in sequence."""
    b = Builder([1, 4, 6, 6])
    shared = b.constant(b.values(4, 4, 3, 3), "shared.weight")
    y = b.node("Relu", b.conv("x", 4, 4, weight=shared))
    y = b.node("Relu", b.conv(y, 4, 4, weight=shared))
    b.output(b.conv(y, 4, 3, 1), [1, 3, 6, 6], "y")
    return b.model()


@graph
def siamese() -> onnx.ModelProto:
    """One kernel on two inputs, compared by a difference."""
    b = Builder([1, 2, 6, 6])
    b.inputs.append(helper.make_tensor_value_info("x2", onnx.TensorProto.FLOAT, [1, 2, 6, 6]))
    shared = b.constant(b.values(5, 2, 3, 3), "shared.weight")
    left, right = (b.node("Relu", b.conv(x, 2, 5, weight=shared)) for x in ("x", "x2"))
    b.output(b.conv(b.node("Sub", left, right), 5, 3, 1), [1, 3, 6, 6], "y")
    return b.model()


@graph
def constant_nodes() -> onnx.ModelProto:
    """Weights in Constant nodes instead of initializers."""
    model = _lenet("flatten")
    nodes = [
        helper.make_node("Constant", [], [t.name], name=f"make_{t.name}", value=t)
        for t in model.graph.initializer
    ]
    body = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend([*nodes, *body])
    onnx.checker.check_model(model, full_check=True)
    return model


@graph
def relayouts() -> onnx.ModelProto:
    """Weights through Reshape, Transpose, Unsqueeze, Squeeze, Flatten and Identity of an initializer."""
    b = Builder([1, 3, 6, 6])
    flat = b.constant(b.values(6, 3 * 9), "flat.weight")
    y = b.node("Relu", b.conv("x", 3, 6, weight=b.node("Reshape", flat, b.ints(6, 3, 3, -1))))
    hwio = b.constant(b.values(3, 3, 6, 8), "hwio.weight")
    y = b.node("Relu", b.conv(y, 6, 8, weight=b.node("Transpose", hwio, perm=[3, 2, 0, 1])))
    thin = b.constant(b.values(8, 8), "thin.weight")
    wide = b.node("Unsqueeze", b.node("Identity", thin), b.ints(2, 3))
    y = b.node("Flatten", b.node("GlobalAveragePool", b.conv(y, 8, 8, 1, weight=wide)))
    fat = b.constant(b.values(2, 4, 5), "fat.weight")
    y = b.node("Relu", b.node("MatMul", y, b.node("Flatten", fat, axis=2)))
    boxed = b.constant(b.values(1, 3, 5), "boxed.weight")
    b.output(b.node("Gemm", y, b.node("Squeeze", boxed, b.ints(0)), transB=1), [1, 3], "y")
    return b.model()


@graph
def folded_constants() -> onnx.ModelProto:
    """A weight that is the product of two constants, one also read elsewhere, and a bias through Identity."""
    b = Builder([1, 3, 6, 6])
    scale = b.constant(b.values(6, 1, 1, 1), "scale")
    weight = b.node("Mul", b.constant(b.values(6, 3, 3, 3), "raw.weight"), scale)
    bias = b.node("Identity", b.constant(b.values(6), "raw.bias"))
    y = b.node("Conv", "x", weight, bias, pads=[1, 1, 1, 1])
    y = b.node("Mul", y, b.node("Reshape", scale, b.ints(1, 6, 1, 1)))
    b.output(b.conv(b.node("Relu", y), 6, 2, 1), [1, 2, 6, 6], "y")
    return b.model()


@graph
def fp16() -> onnx.ModelProto:
    return _lenet("flatten", dtype=np.float16)


@graph
def double() -> onnx.ModelProto:
    b = Builder(["batch", 6], dtype=np.float64)
    y = b.node("Relu", b.gemm("x", 6, 10))
    b.output(b.gemm(y, 10, 3), ["batch", 3], "y")
    return b.model()


@graph
def bfloat16() -> onnx.ModelProto:
    """bfloat16 weights and arithmetic; onnxruntime on CPU may lack kernels, reading must work."""
    b = Builder(["batch", 6], dtype=ml_dtypes.bfloat16)
    y = b.node("Relu", b.gemm("x", 6, 10))
    b.output(b.gemm(y, 10, 3), ["batch", 3], "y")
    return b.model()


@graph
def fp16_cast() -> onnx.ModelProto:
    """Stored as float16, computed in float32 behind a Cast."""
    b = Builder([1, 3, 6, 6])
    half = b.constant(b.values(6, 3, 3, 3).astype(np.float16), "half.weight")
    y = b.node("Relu", b.conv("x", 3, 6, weight=b.node("Cast", half, to=onnx.TensorProto.FLOAT)))
    b.output(b.conv(y, 6, 2, 1), [1, 2, 6, 6], "y")
    return b.model()


@graph
def dynamic_batch() -> onnx.ModelProto:
    b = Builder(["N", 3, 8, 8])
    y = b.max_pool(b.node("Relu", b.batch_norm(b.conv("x", 3, 6), 6)))
    b.output(b.gemm(b.node("Flatten", y), 96, 4), ["N", 4], "y")
    return b.model()


@graph
def dynamic_size() -> onnx.ModelProto:
    """Dynamic height and width with GlobalAveragePool."""
    b = Builder(["N", 3, "H", "W"])
    y = b.node("Relu", b.conv("x", 3, 6, strides=[2, 2]))
    y = b.node("Relu", b.conv(y, 6, 8))
    b.output(b.gemm(b.node("Flatten", b.node("GlobalAveragePool", y)), 8, 4), ["N", 4], "y")
    return b.model()


@graph
def unnamed_nodes() -> onnx.ModelProto:
    return _lenet("flatten", named_nodes=False)


@graph
def initializers_as_inputs() -> onnx.ModelProto:
    """IR version 3: every initializer is listed as a graph input; opset 8."""
    return _lenet("minus", ir_version=3, opset=8, initializers_as_inputs=True)


@graph
def activations() -> onnx.ModelProto:
    """Sigmoid, Dropout, LeakyRelu, PRelu, Clip, HardSwish, Tanh, Softplus between convolutions."""
    b = Builder([1, 3, 6, 6])
    y = b.node("Sigmoid", b.conv("x", 3, 6))
    y = b.node("LeakyRelu", b.conv(b.node("Dropout", y), 6, 5), alpha=0.1)
    y = b.node("PRelu", b.conv(y, 5, 6), b.constant(b.values(6, 1, 1), "slope"))
    y = b.node("Clip", b.conv(y, 6, 4), b.constant(np.float32(-1)), b.constant(np.float32(1)))
    y = b.node("Tanh", b.conv(b.node("HardSwish", y), 4, 5))
    y = b.node("Softplus", b.conv(y, 5, 6))
    b.output(b.conv(y, 6, 3, 1), [1, 3, 6, 6], "y")
    return b.model()


@graph
def cntk_style() -> onnx.ModelProto:
    """No bias inputs: an Add of a (C, 1, 1) constant after each convolution; a reshaped MatMul weight."""
    b = Builder([1, 1, 8, 8], opset=8, ir_version=3, initializers_as_inputs=True)
    y = b.node(
        "Conv", "x", b.constant(b.values(4, 1, 5, 5), "w1"), auto_pad="SAME_UPPER", kernel_shape=[5, 5]
    )
    y = b.max_pool(b.node("Relu", b.node("Add", y, b.constant(b.values(4, 1, 1), "b1"))))
    y = b.node("Conv", y, b.constant(b.values(6, 4, 3, 3), "w2"), auto_pad="SAME_UPPER", kernel_shape=[3, 3])
    y = b.max_pool(b.node("Relu", b.node("Add", y, b.constant(b.values(6, 1, 1), "b2"))))
    weight = b.node("Reshape", b.constant(b.values(6, 2, 2, 5), "w3"), b.ints(24, 5))
    y = b.node("MatMul", b.node("Reshape", y, b.ints(1, 24)), weight)
    b.output(b.node("Add", y, b.constant(b.values(1, 5), "b3")), [1, 5], "y")
    return b.model()


@graph
def two_outputs() -> onnx.ModelProto:
    """A trunk with two heads, and a hidden tensor that is itself an output."""
    b = Builder([1, 3, 6, 6])
    y = b.node("Relu", b.conv("x", 3, 6))
    hidden = b.node("Relu", b.conv(y, 6, 4))
    b.output(b.conv(hidden, 4, 2, 1), [1, 2, 6, 6], "scores")
    b.output(b.gemm(b.node("Flatten", b.node("GlobalAveragePool", y)), 6, 3), [1, 3], "label")
    b.output(hidden, [1, 4, 6, 6], "features")
    return b.model()


@graph
def average_pool_pad() -> onnx.ModelProto:
    """AveragePool with padding, counted and not."""
    b = Builder([1, 3, 6, 6])
    y = b.node("Relu", b.conv("x", 3, 6))
    y = b.node("AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    y = b.node("AveragePool", b.conv(y, 6, 4), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    b.output(b.conv(y, 4, 3, 1), [1, 3, 3, 3], "y")
    return b.model()


def _with_mixer(mix: Callable[[Builder, str], str]) -> onnx.ModelProto:
    """An operator that mixes channels between two convolutions: it must pin."""
    b = Builder([1, 3, 4, 4])
    y = b.node("Relu", b.conv("x", 3, 6))
    y = mix(b, y)
    b.output(b.conv(y, 6, 3, 1), [1, 3, 4, 4], "y")
    return b.model()


@graph
def lrn() -> onnx.ModelProto:
    return _with_mixer(lambda b, y: b.node("LRN", y, size=3, alpha=0.1, beta=0.75, bias=1.0))


@graph
def softmax_middle() -> onnx.ModelProto:
    return _with_mixer(lambda b, y: b.node("Softmax", y, axis=1))


@graph
def layer_norm() -> onnx.ModelProto:
    """LayerNormalization over channels in an MLP."""
    b = Builder([2, 6])
    y = b.node("Relu", b.gemm("x", 6, 8))
    y = b.node(
        "LayerNormalization", y, b.constant(b.values(8), "ln.scale"), b.constant(b.values(8), "ln.bias")
    )
    b.output(b.gemm(y, 8, 3), [2, 3], "y")
    return b.model()


@graph
def reduce_channels() -> onnx.ModelProto:
    """A mean over channels added back to every channel."""
    b = Builder([1, 3, 4, 4])
    y = b.node("Relu", b.conv("x", 3, 6))
    y = b.node("Add", y, b.node("ReduceMean", y, axes=[1], keepdims=1))
    b.output(b.conv(y, 6, 3, 1), [1, 3, 4, 4], "y")
    return b.model()


@graph
def squeeze_excite() -> onnx.ModelProto:
    """A gate per channel from the pooled input: Mul of an activation by a (1, C, 1, 1) one."""
    b = Builder([1, 3, 6, 6])
    y = b.node("Relu", b.conv("x", 3, 8))
    gate = b.node("Relu", b.conv(b.node("GlobalAveragePool", y), 8, 4, 1))
    y = b.node("Mul", y, b.node("Sigmoid", b.conv(gate, 4, 8, 1)))
    b.output(b.conv(y, 8, 3), [1, 3, 6, 6], "y")
    return b.model()


@graph
def per_channel_mul() -> onnx.ModelProto:
    """Scale and shift as Mul and Add of constants, scalars among them."""
    b = Builder([1, 3, 6, 6])
    y = b.node("Mul", b.conv("x", 3, 6, bias=False), b.constant(b.values(1, 6, 1, 1), "factor"))
    y = b.node("Add", y, b.constant(b.values(6, 1, 1), "addend"))
    y = b.node("Mul", b.node("Relu", y), b.constant(np.float32(0.5), "half"))
    b.output(b.conv(y, 6, 3), [1, 3, 6, 6], "y")
    return b.model()


@graph
def pad_node() -> onnx.ModelProto:
    """Pad with 0, then with a constant that is not 0, before unpadded convolutions."""
    b = Builder([1, 3, 6, 6])
    y = b.node("Pad", b.node("Relu", b.conv("x", 3, 6)), b.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="constant")
    y = b.node("Relu", b.conv(y, 6, 5, pads=[0, 0, 0, 0]))
    y = b.node("Pad", y, b.ints(0, 0, 1, 1, 0, 0, 1, 1), b.constant(np.float32(0.5)), mode="constant")
    b.output(b.conv(y, 5, 3, pads=[0, 0, 0, 0]), [1, 3, 6, 6], "y")
    return b.model()


@graph
def resize_add() -> onnx.ModelProto:
    """A feature pyramid's step: a small map is resized and added to a larger one."""
    b = Builder([1, 3, 8, 8])
    y = b.node("Relu", b.conv("x", 3, 6))
    small = b.node("Relu", b.conv(b.max_pool(y), 6, 6))
    scales = b.constant(np.asarray([1, 1, 2, 2], np.float32), "scales")
    y = b.node("Add", y, b.node("Resize", small, "", scales, mode="nearest"))
    b.output(b.conv(y, 6, 3), [1, 3, 8, 8], "y")
    return b.model()


@graph
def detection_head() -> onnx.ModelProto:
    """Transpose to channels-last and Reshape to (N, anchors, values), as detectors do."""
    b = Builder([1, 3, 4, 4])
    y = b.node("Relu", b.conv("x", 3, 6))
    y = b.node("Transpose", b.conv(y, 6, 4), perm=[0, 2, 3, 1])
    b.output(b.node("Sigmoid", b.node("Reshape", y, b.ints(1, -1, 2))), [1, 32, 2], "y")
    return b.model()


@graph
def control_flow() -> onnx.ModelProto:
    """An If whose branches hold weights, one of them the main graph's own."""
    b = Builder([1, 3, 4, 4])
    y = b.node("Relu", b.conv("x", 3, 6))
    b.constant(b.values(2, 6, 1, 1), "outer.weight")
    inner = numpy_helper.from_array(b.values(2, 6, 1, 1), "inner.weight")
    info = helper.make_tensor_value_info
    branches = []
    for name, weight, local in (("yes", "outer.weight", []), ("no", "inner.weight", [inner])):
        node = helper.make_node("Conv", [y, weight], [f"{name}_out"], name=f"{name}_conv")
        shape = [1, 2, 4, 4]
        outputs = [info(f"{name}_out", onnx.TensorProto.FLOAT, shape)]
        branches.append(helper.make_graph([node], name, [], outputs, local))
    flag = b.constant(np.asarray(True), "flag")
    y = b.node("If", flag, then_branch=branches[0], else_branch=branches[1])
    b.output(y, [1, 2, 4, 4], "y")
    return b.model()


@graph
def tied_embedding() -> onnx.ModelProto:
    """One matrix that is an embedding table and, transposed, the output layer: not prunable."""
    b = Builder([2, 6])
    table = b.constant(b.values(10, 6), "table")
    rows = b.node("Gather", table, b.node("ArgMax", "x", axis=1, keepdims=0))
    y = b.node("Relu", b.gemm(b.node("Add", "x", rows), 6, 6))
    b.output(b.node("MatMul", y, b.node("Transpose", table, perm=[1, 0])), [2, 10], "y")
    return b.model()


@graph
def quantized_weight() -> onnx.ModelProto:
    """An int8 weight behind DequantizeLinear, one scale for all of it."""
    b = Builder([1, 3, 4, 4])
    stored = b.constant(b.rng.integers(-100, 100, size=(6, 3, 3, 3)).astype(np.int8), "stored.weight")
    weight = b.node("DequantizeLinear", stored, b.constant(np.float32(0.01), "scale"))
    y = b.node("Relu", b.conv("x", 3, 6, weight=weight))
    b.output(b.conv(y, 6, 2, 1), [1, 2, 4, 4], "y")
    return b.model()


@graph
def lstm() -> onnx.ModelProto:
    """A recurrent layer between two MatMuls: its weights are left alone."""
    b = Builder([3, 1, 4])
    y = b.node("Relu", b.matmul("x", 4, 6))
    weights = (b.constant(b.values(1, 20, 6), "lstm.w"), b.constant(b.values(1, 20, 5), "lstm.r"))
    y = b.node("Squeeze", b.node("LSTM", y, *weights, hidden_size=5), b.ints(1))
    b.output(b.matmul(y, 5, 2), [3, 1, 2], "y")
    return b.model()


GRAPHS.update(FAMILY_GRAPHS)
GRAPHS.update(HEAD_GRAPHS)
