"""A table of ONNX nodes with random operands: one case for every form that the torch adapter claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@dataclass
class Case:
    """A node: `data` operands are graph inputs, `constants` initializers (None: absent), in that order."""

    op: str
    data: Sequence[np.ndarray]
    constants: Sequence[Any] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    note: str = ""

    @property
    def label(self) -> str:
        return f"{self.op}{self.opset}-{self.note or self.attributes}"[:70]


def case(
    op: str, data: Any, *constants: Any, opset: int = 17, outputs: int = 1, note: str = "", **attributes: Any
) -> Case:
    data = tuple(map(np.asarray, data if isinstance(data, tuple) else (data,)))
    return Case(op, data, constants, attributes, opset, outputs, note)


IMAGE, ODD, LINE, CUBE = normal(2, 4, 8, 8), normal(2, 3, 7, 9), normal(2, 3, 11), normal(1, 2, 4, 5, 6)
POSITIVE = np.abs(normal(2, 3, 4)) + 0.1
WHOLE = RNG.integers(-5, 6, (3, 4))
SIGNED_INFINITIES = np.array([1, np.inf, -np.inf], dtype=np.float32)
SPREAD = np.linspace(-300, 300, 24).reshape(2, 3, 4).astype(np.float32)
NO_KEYS = "a query without keys"
CAUSAL = np.tril(np.ones((5, 5), dtype=bool))
BLIND = np.tril(np.ones((5, 5), dtype=bool), -1)  # the first query may see no key
PLACES = np.array([[[[0, 3], [9, 14]], [[17, 18], [28, 31]]]])
REGIONS = np.array([[0.5, 1, 6, 7], [-2, 2, 3, 9]], dtype=np.float32)
UNARY = (
    "Abs",
    "Asinh",
    "Atan",
    "Ceil",
    "Celu",
    "Cos",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Neg",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Shrink",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
)
CASES = [
    *(case(op, normal(2, 3, 4) * 3) for op in UNARY),
    *(case(op, POSITIVE) for op in ("Log", "Reciprocal", "Sqrt", "Cosh", "Tan")),
    *(case(op, np.tanh(normal(3, 4))) for op in ("Acos", "Asin", "Atanh")),
    case("Acosh", POSITIVE + 1),
    case("Swish", normal(3, 4), opset=24, alpha=1.5),
    case("IsNaN", np.where(WHOLE > 2, np.nan, WHOLE).astype(np.float32)),
    case("IsInf", SIGNED_INFINITIES),
    case("IsInf", SIGNED_INFINITIES, detect_negative=0),
    *(case(op, (WHOLE, WHOLE[:1]), opset=18) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    case("BitwiseNot", WHOLE, opset=18),
    case("CastLike", normal(3, 4), WHOLE, opset=19),
    case("Mod", (WHOLE, np.full((4,), -3)), note="the divisor's sign"),
    case(
        "Clip", (normal(3, 4), np.array(-0.5, np.float32), np.array(0.3, np.float32)), note="bounds are data"
    ),
    *(case(op, (normal(2, 3, 4), normal(3, 1))) for op in ("Add", "Sub", "Mul", "Div", "PRelu")),
    *(
        case(op, (normal(3, 4), normal(4)))
        for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Max", "Min", "Sum", "Mean")
    ),
    *(case(op, (WHOLE > 0, WHOLE < 3)) for op in ("And", "Or", "Xor")),
    case("Not", WHOLE > 0),
    case("Equal", (WHOLE, WHOLE.T.reshape(3, 4))),
    case("Where", (WHOLE > 0, normal(3, 4), normal(4))),
    case("Div", (WHOLE, np.full((4,), 3)), note="integers truncate"),
    case("Mod", (WHOLE, np.full((4,), 3))),
    case("Mod", (normal(3), normal(3)), fmod=1),
    case("Pow", normal(3, 4), np.float32(2)),
    case("Pow", (POSITIVE, normal(4))),
    case("Pow", POSITIVE, np.float32(0.5), note="root"),
    case("Mish", normal(3, 4), opset=18),
    case("Gelu", normal(3, 4), opset=20),
    case("Gelu", normal(3, 4), opset=20, approximate="tanh"),
    case("Elu", normal(3, 4), alpha=0.3),
    case("HardSigmoid", normal(3, 4) * 4, alpha=0.3, beta=0.4),
    case("Clip", normal(3, 4), opset=8, min=-0.5, max=0.5),
    case("Clip", normal(3, 4), np.float32(-0.5), np.float32(0.5)),
    case("Clip", normal(3, 4), None, np.float32(0.5), note="no minimum"),
    case("Cast", normal(3, 4) * 3, to=TensorProto.INT64),
    case("Cast", WHOLE, to=TensorProto.FLOAT),
    case("Cast", WHOLE, to=TensorProto.BOOL),
    case("Dropout", normal(3, 4), opset=8, ratio=0.5),
    case("Dropout", normal(3, 4), np.float32(0.5)),
    case("Softmax", normal(2, 3, 4), opset=11, axis=1),
    case("Softmax", normal(2, 3, 1, 1), opset=11),
    case("Softmax", normal(2, 3, 4), axis=1),
    case("Softmax", normal(2, 3, 4)),
    case("LogSoftmax", normal(2, 3, 4), opset=12, axis=2),
    case("LogSoftmax", normal(2, 3, 4)),
    # convolution
    case("Conv", IMAGE, normal(6, 4, 3, 3), normal(6), pads=[1, 1, 1, 1]),
    case("Conv", IMAGE, normal(6, 4, 3, 3), pads=[0, 1, 2, 3], strides=[2, 1]),
    case("Conv", IMAGE, normal(6, 2, 3, 3), group=2, dilations=[2, 2]),
    case("Conv", ODD, normal(6, 3, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", ODD, normal(6, 3, 4, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", ODD, normal(6, 3, 4, 3), auto_pad="VALID"),
    case("Conv", LINE, normal(4, 3, 5), pads=[2, 1]),
    case("Conv", CUBE, normal(3, 2, 2, 3, 3), normal(3), pads=[0, 1, 1, 0, 1, 1]),
    case(
        "ConvTranspose",
        IMAGE,
        normal(4, 3, 3, 3),
        normal(3),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 1],
    ),
    case("ConvTranspose", IMAGE, normal(4, 3, 3, 3), normal(6), group=2, strides=[2, 2]),
    case("ConvTranspose", IMAGE, normal(4, 3, 3, 3), normal(3), pads=[0, 1, 2, 1], strides=[2, 2]),
    case("ConvTranspose", IMAGE, normal(4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", IMAGE, normal(4, 3, 3, 3), strides=[2, 2], output_shape=[16, 17]),
    case("ConvTranspose", LINE, normal(3, 2, 4), strides=[3], dilations=[2]),
    # linear
    case("Gemm", normal(3, 4), normal(5, 4), normal(5), transB=1),
    case("Gemm", normal(3, 4), normal(4, 5), normal(3, 1), alpha=0.5, beta=2.0),
    case("Gemm", normal(4, 3), normal(4, 5), transA=1),
    case("MatMul", normal(2, 3, 4), normal(4, 5)),
    case("Einsum", (normal(2, 3, 4), normal(2, 5, 4)), equation="bij,bkj->bik"),
    case("Einsum", (normal(2, 4, 3, 5), normal(2, 4, 6, 5)), equation="bhid, bhjd -> bhij"),
    case("Einsum", (normal(2, 3, 4), normal(4, 5)), equation="...i,ij->...j"),
    case("Einsum", (normal(2, 3), normal(3), normal(2)), equation="ij,j,i->i", note="three operands"),
    # attention
    *(
        case("Attention", (normal(2, 4, 5, 6), normal(2, 2, 5, 6), normal(2, 2, 5, 3)), opset=23, **extra)
        for extra in ({}, {"is_causal": 1}, {"scale": 0.3, "softcap": 2.0})
    ),
    case("Attention", (normal(2, 4, 5, 6), normal(2, 4, 5, 6), normal(2, 4, 5, 3), CAUSAL), opset=23),
    case(
        "Attention",
        (normal(2, 4, 5, 6), normal(2, 4, 5, 6), normal(2, 4, 5, 3), BLIND),
        opset=23,
        note=NO_KEYS,
    ),
    case(
        "Attention",
        (normal(2, 5, 8), normal(2, 3, 4), normal(2, 3, 4), normal(1, 1, 5, 3)),
        opset=23,
        q_num_heads=4,
        kv_num_heads=2,
    ),
    case(
        "Attention",
        (normal(1, 2, 2, 4), normal(1, 2, 2, 4), normal(1, 2, 2, 4)),
        None,
        normal(1, 2, 3, 4),
        normal(1, 2, 3, 4),
        opset=23,
        outputs=3,
        is_causal=1,
        note="with a past",
    ),
    case("RotaryEmbedding", normal(2, 3, 5, 8), normal(2, 5, 4), normal(2, 5, 4), opset=23),
    case(
        "RotaryEmbedding",
        normal(2, 5, 24),
        normal(9, 4),
        normal(9, 4),
        np.array([[0, 1, 2, 3, 8], [4, 3, 2, 1, 0]]),
        opset=23,
        num_heads=3,
        interleaved=1,
    ),
    case(
        "RotaryEmbedding",
        normal(2, 3, 5, 8),
        normal(2, 5, 2),
        normal(2, 5, 2),
        opset=23,
        rotary_embedding_dim=4,
    ),
    # quantisation
    case("QuantizeLinear", SPREAD, np.float32(2), np.uint8(100), note="uint8"),
    case("QuantizeLinear", SPREAD, np.float32(1.5), np.int8(-3), note="int8"),
    case("QuantizeLinear", SPREAD, np.float32(2), note="no zero point"),
    case("QuantizeLinear", SPREAD, POSITIVE[0, :, 0], np.array([1, 2, 3], np.int8), axis=1),
    case("QuantizeLinear", SPREAD, np.float32(0.01), np.int16(7), opset=21, note="int16"),
    case("QuantizeLinear", SPREAD, POSITIVE[:, :, :2] * 9, opset=21, axis=2, block_size=2, output_dtype=3),
    case("DequantizeLinear", RNG.integers(-9, 9, (4, 6)).astype(np.int8), POSITIVE[0, 0], axis=0),
    case(
        "DequantizeLinear",
        RNG.integers(0, 9, (4, 6)).astype(np.uint8),
        normal(4, 2),
        np.full((4, 2), 3, np.uint8),
        opset=21,
        axis=1,
        block_size=3,
    ),
    case("DequantizeLinear", RNG.integers(-900, 900, (4,)).astype(np.int32), np.float32(0.01), note="bias"),
    # pooling
    case("MaxPool", ODD, kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", ODD, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", ODD, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    case("MaxPool", ODD, kernel_shape=[3, 3], pads=[1, 1, 1, 1], dilations=[2, 2]),
    case("MaxPool", ODD, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", LINE, kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("MaxPool", CUBE, kernel_shape=[2, 2, 2], strides=[2, 2, 2], ceil_mode=1),
    case("AveragePool", ODD, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", ODD, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", ODD, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0]),
    case("AveragePool", ODD, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, opset=19),
    case(
        "AveragePool",
        ODD,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        ceil_mode=1,
        count_include_pad=1,
        opset=19,
    ),
    case("AveragePool", LINE, kernel_shape=[4], strides=[2], auto_pad="SAME_LOWER"),
    case("GlobalAveragePool", ODD),
    case("GlobalMaxPool", CUBE),
    case(
        "MaxPool", ODD, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], outputs=2, note="with places"
    ),
    case("MaxPool", CUBE, kernel_shape=[2, 2, 2], outputs=2, note="with places"),
    case("MaxUnpool", (normal(1, 2, 2, 2), PLACES), kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxUnpool", (normal(1, 2, 2, 2), PLACES), ints(1, 2, 5, 5), kernel_shape=[2, 2], strides=[2, 2]),
    # normalisation
    case("BatchNormalization", IMAGE, normal(4), normal(4), normal(4), np.abs(normal(4)) + 0.5, opset=8),
    case(
        "BatchNormalization",
        normal(5, 4),
        normal(4),
        normal(4),
        normal(4),
        np.abs(normal(4)) + 0.5,
        epsilon=0.1,
    ),
    case("InstanceNormalization", IMAGE, normal(4), normal(4)),
    case("LayerNormalization", normal(2, 3, 4), normal(4), normal(4)),
    case("LayerNormalization", normal(2, 3, 4), normal(3, 4), axis=1),
    case("GroupNormalization", IMAGE, normal(4), normal(4), opset=21, num_groups=2),
    case("GroupNormalization", IMAGE, normal(2), normal(2), opset=18, num_groups=2),
    case("RMSNormalization", normal(2, 3, 4), normal(4), opset=23),
    case("RMSNormalization", normal(2, 3, 4), normal(3, 4), opset=23, axis=1, epsilon=0.1),
    case("LayerNormalization", normal(2, 3, 4), normal(4), axis=-1, epsilon=0.1),
    case("LRN", normal(1, 8, 3, 3), size=5, alpha=0.1, beta=0.7, bias=2.0),
    case("LpNormalization", normal(3, 4), axis=1),
    case("MeanVarianceNormalization", IMAGE),
    # reductions
    *(
        case(f"Reduce{kind}", POSITIVE, axes=[1], keepdims=0)
        for kind in ("Mean", "Max", "Min", "L1", "L2", "Prod")
    ),
    *(case(f"Reduce{kind}", POSITIVE) for kind in ("Mean", "SumSquare", "LogSum", "LogSumExp", "Prod")),
    case("ReduceMean", normal(2, 3, 4), ints(-1), opset=18),
    case("ReduceMax", normal(2, 3, 4), ints(0, 2), opset=18, keepdims=0),
    case("ReduceSum", normal(2, 3, 4), ints(1), keepdims=0),
    case("ReduceSum", normal(2, 3, 4), ints(), noop_with_empty_axes=1),
    case("ReduceL2", normal(2, 3, 4), ints(-1), opset=18),
    case("ReduceL1", WHOLE, ints(0), opset=18, note="integers"),
    case("ReduceMean", normal(2, 3, 4), ints(), opset=18, noop_with_empty_axes=1),
    case("ReduceMax", WHOLE > 0, ints(1), opset=20, note="boolean"),
    case("CumSum", WHOLE, np.int64(-1), note="integers"),
    case("ArgMax", normal(3, 4), axis=1, keepdims=0),
    case("ArgMin", WHOLE.astype(np.float32), axis=1, select_last_index=1),
    case("TopK", normal(3, 6), ints(2), outputs=2),
    case("TopK", normal(6, 3), ints(2), outputs=2, axis=0, largest=0),
    case("CumSum", normal(3, 4), np.int64(1), exclusive=1, reverse=1),
    # shapes
    case("Shape", normal(2, 3, 4), opset=15, start=1),
    case("Size", normal(2, 3, 4)),
    case("Reshape", normal(2, 3, 4), ints(0, -1)),
    case("Reshape", normal(0, 3), ints(0, 3), allowzero=1),
    case("Flatten", normal(2, 3, 4), axis=2),
    case("Flatten", normal(2, 3, 4), axis=0),
    case("Transpose", normal(2, 3, 4)),
    case("Squeeze", normal(1, 3, 1), opset=11, axes=[0]),
    case("Squeeze", normal(1, 3, 1)),
    case("Squeeze", normal(1, 3, 1), ints(-1)),
    case("Unsqueeze", normal(3, 4), opset=11, axes=[0, 3]),
    case("Unsqueeze", normal(3, 4), ints(-1, 0)),
    case("Concat", (normal(2, 3), normal(2, 4)), axis=-1),
    case("Split", normal(2, 6), opset=11, outputs=2, axis=1, split=[2, 4]),
    case("Split", normal(2, 6), ints(1, 5), outputs=2, axis=1),
    case("Split", normal(7, 2), opset=18, outputs=3, num_outputs=3),
    case("Expand", normal(3, 1), ints(2, 1, 4)),
    case("Tile", normal(2, 3), ints(2, 1)),
    case("DepthToSpace", normal(1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", normal(1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", normal(1, 2, 4, 6), blocksize=2),
    case("Trilu", normal(4, 4), np.int64(1), upper=0),
    case("Trilu", WHOLE > 0, np.int64(-1), note="boolean"),
    case("Trilu", normal(2, 4, 5)),
    case("Expand", normal(2, 3, 4), ints(4), note="shape of fewer axes"),
    case("Tile", normal(2, 3, 1), ints(1, 2, 3)),
    case("ConstantOfShape", (), ints(2, 3), value=numpy_helper.from_array(np.array([2], np.int32))),
    case("Range", (), np.int64(7), np.int64(-3), np.int64(-3)),
    case("Range", (), np.float32(0), np.float32(1), np.float32(0.3), note="floats"),
    case("Split", normal(2, 7, 3), opset=18, outputs=2, axis=1, num_outputs=2),
    # indexing
    case("Slice", normal(2, 9), ints(-2), ints(-8), ints(-1), ints(-3)),
    case("Slice", normal(5, 6), ints(3, 0), ints(1, 6), note="empty"),
    case("GatherND", normal(3, 4, 5), np.array([[0, -1], [2, 1]])),
    case("GatherND", (normal(2, 3, 4), np.array([[[1], [0]], [[-1], [2]]])), batch_dims=1),
    case("GatherElements", (normal(3, 4, 2), np.array([[[0, 1], [1, -1]]]))),
    *(
        case("ScatterND", (normal(4, 5), np.array([[1], [-1]]), normal(2, 5)), opset=18, **extra)
        for extra in ({}, {"reduction": "add"}, {"reduction": "max"}, {"reduction": "mul"})
    ),
    case("ScatterND", (normal(2, 3, 4), np.array([[[0, 1], [1, 2]]]), normal(1, 2, 4)), note="tuples"),
    case("ScatterElements", (normal(3, 4), np.array([[0, -1, 1, 2]]), normal(1, 4)), opset=18),
    case(
        "ScatterElements",
        (normal(3, 4), np.array([[0, -1], [1, 1]]), normal(2, 2)),
        opset=18,
        axis=1,
        reduction="add",
    ),
    case("NonZero", (), WHOLE > 0),
    case("Slice", normal(5, 6), opset=9, starts=[1, -3], ends=[4, 100], axes=[0, 1]),
    case("Slice", normal(5, 6), ints(4), ints(-(2**40)), ints(0), ints(-2)),
    case("Slice", normal(5, 6), ints(-1), ints(0), ints(1), ints(-1), note="backwards, end open"),
    case("Gather", normal(5, 6), np.array([[0, -1], [2, 3]]), axis=1),
    case("Gather", normal(5, 6), np.int64(-2), axis=0),
    case("Gather", (normal(5, 6), ints(3, -1, 0)), axis=0, note="indices are data"),
    case("GatherElements", (normal(3, 4), np.array([[0, -1], [2, 1]])), axis=1),
    case("Pad", normal(2, 3, 4), opset=9, pads=[0, 1, 2, 0, 0, 1], value=3.0),
    case("Pad", normal(2, 3, 4), ints(0, -1, 1, 0, 0, 2), np.float32(1)),
    case("Pad", normal(2, 3, 4), ints(0, 0, 3, 0, 0, 2), mode="reflect"),
    case("Pad", normal(2, 3, 4), ints(1, 0, 2, 0, 2, 1), mode="edge"),
    case("Pad", normal(2, 3, 4), ints(1, 2), np.float32(0), ints(2), opset=18),
    case("Pad", normal(2, 3, 8), ints(0, 0, -2, 0, 0, 3), mode="edge", note="cut and repeated"),
    case("Pad", normal(2, 3, 8), ints(1, 2, 1, 0), None, ints(0, -1), opset=19, mode="wrap"),
    case("Pad", WHOLE, ints(0, 1, 1, 0), np.int64(3), note="integers"),
    case("Pad", WHOLE > 0, ints(0, 1, 1, 0), note="boolean"),
    case("OneHot", RNG.integers(0, 4, (3, 2)), np.int64(4), np.array([0.5, 2.0], dtype=np.float32), axis=1),
    case(
        "DequantizeLinear", RNG.integers(-9, 9, (3, 4)).astype(np.int8), np.abs(normal(4)), opset=13, axis=1
    ),
    # interpolation
    case("Upsample", IMAGE, opset=7, scales=[1.0, 1.0, 2.0, 3.0]),
    case("Upsample", IMAGE, np.array([1, 1, 2, 2], dtype=np.float32), opset=9, mode="linear"),
    case("Resize", IMAGE, np.array([1, 1, 2, 0.5], dtype=np.float32), opset=10),
    *(
        case(
            "Resize",
            ODD,
            None,
            np.array([1, 1, *scale], dtype=np.float32),
            opset=13,
            mode=mode,
            coordinate_transformation_mode=coordinates,
        )
        for mode in ("nearest", "linear")
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for scale in ((2.0, 2.0), (1.7, 0.6))
    ),
    *(
        case(
            "Resize",
            ODD,
            None,
            None,
            ints(2, 3, 10, 20),
            opset=13,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode=nearest,
        )
        for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    case("Resize", ODD, None, np.array([1, 1, 2, 1.5], dtype=np.float32), opset=13, mode="cubic"),
    case("Resize", ODD, None, None, ints(10, 5), opset=18, mode="linear", axes=[2, 3]),
    case(
        "Resize", ODD, None, None, ints(20, 20), opset=18, axes=[2, 3], keep_aspect_ratio_policy="not_larger"
    ),
    case(
        "Resize",
        ODD,
        None,
        np.array([1, 1, 0.6, 0.7], dtype=np.float32),
        opset=13,
        mode="cubic",
        exclude_outside=1,
        cubic_coeff_a=-0.5,
    ),
    *(
        case(
            "Resize",
            ODD,
            np.array([0, 0, 0.2, 0.3, 1, 1, 0.9, 1.2], dtype=np.float32),
            None,
            ints(2, 3, 4, 5),
            opset=13,
            mode=mode,
            coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=2.0,
        )
        for mode in ("linear", "nearest")
    ),
    *(
        case("GridSample", (IMAGE, np.tanh(normal(2, 5, 6, 2)) * 1.2), opset=20, **extra)
        for extra in (
            {},
            {"mode": "nearest", "padding_mode": "border"},
            {"mode": "cubic", "align_corners": 1},
            {"padding_mode": "reflection"},
        )
    ),
    *(
        case("RoiAlign", IMAGE, REGIONS, ints(1, 0), output_height=3, output_width=2, **extra)
        for extra in (
            {},
            {"sampling_ratio": 2, "spatial_scale": 0.5},
            {"coordinate_transformation_mode": "output_half_pixel"},
        )
    ),
    case("RoiAlign", (IMAGE, REGIONS), ints(1, 0), sampling_ratio=2, note="regions are data"),
    case("RoiAlign", IMAGE, REGIONS, ints(1, 0), opset=10, output_height=2, output_width=2),
    case("Col2Im", normal(2, 12, 12), ints(4, 5), ints(2, 2), opset=18),
    case(
        "Col2Im",
        normal(1, 18, 9),
        ints(5, 6),
        ints(3, 3),
        opset=18,
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        note="strides and pads",
    ),
    # recurrent
    *(
        case(
            "LSTM",
            normal(5, 2, 3),
            normal(n, 16, 3),
            normal(n, 16, 4),
            normal(n, 32),
            None,
            normal(n, 2, 4),
            normal(n, 2, 4),
            outputs=3,
            hidden_size=4,
            direction=direction,
        )
        for n, direction in ((1, "forward"), (1, "reverse"), (2, "bidirectional"))
    ),
    case("LSTM", normal(5, 2, 3), normal(1, 16, 3), normal(1, 16, 4), outputs=3, hidden_size=4, note="bare"),
    *(
        case(
            "RNN",
            normal(5, 2, 3),
            normal(n, 4, 3),
            normal(n, 4, 4),
            normal(n, 8),
            outputs=2,
            hidden_size=4,
            direction=direction,
            activations=[activation] * n,
        )
        for n, direction, activation in ((1, "forward", "Tanh"), (2, "bidirectional", "Relu"))
    ),
    case(
        "GRU",
        normal(5, 2, 3),
        normal(2, 12, 3),
        normal(2, 12, 4),
        normal(2, 24),
        outputs=2,
        hidden_size=4,
        direction="bidirectional",
        linear_before_reset=1,
    ),
]


def model_of(one: Case) -> Any:
    names = [f"x{i}" for i in range(len(one.data))]
    types = {
        np.dtype(np.float32): TensorProto.FLOAT,
        np.dtype(np.int64): TensorProto.INT64,
        np.dtype(bool): TensorProto.BOOL,
        np.dtype(np.int8): TensorProto.INT8,
        np.dtype(np.uint8): TensorProto.UINT8,
        np.dtype(np.int32): TensorProto.INT32,
    }
    operands = names + ["" if c is None else f"c{i}" for i, c in enumerate(one.constants)]
    outputs = [f"y{i}" for i in range(one.outputs)]
    node = helper.make_node(one.op, operands, outputs, name="the_node", **one.attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, types[d.dtype], d.shape)
            for n, d in zip(names, one.data, strict=True)
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [
            numpy_helper.from_array(np.asarray(c), f"c{i}")
            for i, c in enumerate(one.constants)
            if c is not None
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", one.opset)], ir_version=8)
