"""Every operator form the torch adapter claims, one node at a time, against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch_support import reference

torch = pytest.importorskip("torch")

from evonnx.errors import AdapterError  # noqa: E402
from evonnx_torch.module import OnnxModule  # noqa: E402

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
    data = data if isinstance(data, tuple) else (data,)
    return Case(op, data, constants, attributes, opset, outputs, note)


IMAGE, ODD, LINE, CUBE = normal(2, 4, 8, 8), normal(2, 3, 7, 9), normal(2, 3, 11), normal(1, 2, 4, 5, 6)
POSITIVE = np.abs(normal(2, 3, 4)) + 0.1
WHOLE = RNG.integers(-5, 6, (3, 4))
UNARY = (
    "Abs",
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
    "Sign",
    "Sin",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
)
CASES = [
    *(case(op, normal(2, 3, 4) * 3) for op in UNARY),
    *(case(op, POSITIVE) for op in ("Log", "Reciprocal", "Sqrt")),
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
    # indexing
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


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.label)
def test_operator_agrees_with_onnxruntime(one: Case) -> None:
    model = model_of(one)
    feed = {f"x{i}": array for i, array in enumerate(one.data)}
    want = reference(model, feed)
    module = OnnxModule(ir.from_proto(model))
    for training in (False, True):
        if training and one.op in ("Dropout", "BatchNormalization"):
            continue
        module.train(training)
        with torch.no_grad():
            got = module(module.tensors(feed))
        for name, array in want.items():
            mine = got[name].numpy()
            assert mine.shape == array.shape
            np.testing.assert_allclose(mine, array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (case("Hardmax", normal(2, 3)), "operator Hardmax"),
        (
            case(
                "LSTM",
                normal(5, 2, 3),
                normal(1, 16, 3),
                normal(1, 16, 4),
                None,
                ints(3, 5).astype(np.int32),
                hidden_size=4,
            ),
            "sequence_lens",
        ),
        (case("Reshape", (normal(6), ints(2, 3))), "depends on the data"),
        (case("MaxPool", normal(1, 1, 4, 4), kernel_shape=[2, 2], outputs=2), "optional output"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.op,
)
def test_what_cannot_be_run_is_refused_with_the_node(one: Case, reason: str) -> None:
    def run() -> None:
        module = OnnxModule(ir.from_proto(model_of(one)))
        module(module.tensors({f"x{i}": array for i, array in enumerate(one.data)}))

    with pytest.raises(AdapterError, match=reason) as caught:
        run()
    assert "the_node" in str(caught.value)
