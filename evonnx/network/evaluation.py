"""One node with known inputs, evaluated: what constant folding and shape computation are made of.

Only operators whose result size can be told beforehand are evaluated, and only up to a limit, so that a file
cannot make us allocate more than a small multiple of what it holds. Common operators are a line of numpy;
the rest runs in onnxruntime, or in ONNX's reference implementation where onnxruntime has no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.generic]
Operands = Sequence[Any]
"""Inputs as arrays; None for those that are absent."""

FREE_ELEMENTS = 1 << 20
"""Results up to this size are always evaluated; larger ones only up to twice their inputs."""


def evaluate(
    node: ir.Node,
    inputs: Sequence[Array | None],
    opsets: Mapping[str, int],
    limit: int = FREE_ELEMENTS,
) -> tuple[Array, ...] | None:
    """The outputs of one node for known inputs.

    Args:
        node: the node; only its operator and attributes count.
        inputs: by position; None where the node has no such input.
        opsets: of the model.
        limit: largest number of elements of a result that is more than twice its inputs.

    Returns:
        None where the operator is not one of those known here, its result would be large, or it does not fit
        its inputs.
    """
    if not is_known(node):
        return None
    try:
        with np.errstate(all="ignore"):
            size = _RESULT_SIZE[node.op_type](node, inputs)
            if size > max(limit, 2 * _total(node, inputs)):
                return None
            compute = _NUMPY.get(node.op_type)
            if compute is not None:
                return (np.asarray(compute(node, inputs)),)
        return _run(node, inputs, opsets)
    except Exception:  # a shape, type or value that does not fit: the node simply stays as it is
        return None


def is_known(node: ir.Node) -> bool:
    """Whether `evaluate` knows the operator; random numbers, quantisation and control flow it does not."""
    return node.op_type in _RESULT_SIZE and node.domain in ("", "ai.onnx")


# ------------------------------------------------------------------------------------------ sizes of results


def _broadcast(node: ir.Node, inputs: Operands) -> int:
    return math.prod(np.broadcast_shapes(*(array.shape for array in inputs if array is not None)))


def _total(node: ir.Node, inputs: Operands) -> int:
    return sum(array.size for array in inputs if array is not None)


def _gathered(node: ir.Node, inputs: Operands) -> int:
    data, indices = inputs[0], inputs[1]
    return int(data.size // max(1, data.shape[_axis(node, 0, data.ndim)]) * indices.size)


def _gathered_tuples(node: ir.Node, inputs: Operands) -> int:
    data, indices = inputs[0], inputs[1]
    batch = node.attributes.get_int("batch_dims", 0) or 0
    rest = math.prod(data.shape[batch + indices.shape[-1] :])
    return int(math.prod(indices.shape[:-1]) * rest)


def _matrix_product(node: ir.Node, inputs: Operands) -> int:
    a, b = inputs[0], inputs[1]
    return int(a.size // max(1, a.shape[-1]) * max(1, b.size)) if a.ndim else 0


def _gemm(node: ir.Node, inputs: Operands) -> int:
    a, b = inputs[0], inputs[1]
    rows = a.shape[1 if node.attributes.get_int("transA", 0) else 0]
    return int(rows * b.shape[0 if node.attributes.get_int("transB", 0) else 1])


def _einsum(node: ir.Node, inputs: Operands) -> int:
    terms, _, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    lengths = {
        label: length
        for term, array in zip(terms.split(","), inputs, strict=True)
        for label, length in zip(term, array.shape, strict=True)
    }
    return math.prod(lengths[label] for label in result or lengths)


def _expanded(node: ir.Node, inputs: Operands) -> int:
    target = tuple(int(dim) for dim in inputs[1].reshape(-1))
    return math.prod(np.broadcast_shapes(inputs[0].shape, target))


def _filled(node: ir.Node, inputs: Operands) -> int:
    return math.prod(int(dim) for dim in inputs[0].reshape(-1))


def _counted(node: ir.Node, inputs: Operands) -> int:
    start, limit, delta = (float(array.reshape(-1)[0]) for array in inputs)
    return max(0, math.ceil((limit - start) / delta))


def _tiled(node: ir.Node, inputs: Operands) -> int:
    return int(inputs[0].size * math.prod(int(times) for times in inputs[1].reshape(-1)))


def _padded(node: ir.Node, inputs: Operands) -> int:
    shape = inputs[0].shape
    pads = inputs[1].reshape(-1) if len(inputs) > 1 else node.attributes["pads"].as_ints()
    if len(inputs) > 3 and inputs[3] is not None:
        return int(inputs[0].size * (1 + sum(abs(int(pad)) for pad in pads)) ** inputs[3].size)
    rank = len(shape)
    return math.prod(dim + abs(int(pads[i])) + abs(int(pads[i + rank])) for i, dim in enumerate(shape))


def _resized(node: ir.Node, inputs: Operands) -> int:
    if len(inputs) > 3 and inputs[3] is not None:
        named = math.prod(int(dim) for dim in inputs[3].reshape(-1))
        return int(named if inputs[3].size == inputs[0].ndim else named * inputs[0].size)
    scales = inputs[-1].reshape(-1) if len(inputs) > 1 else node.attributes["scales"].as_floats()
    bound: int = math.ceil(inputs[0].size * math.prod(max(1.0, float(scale)) for scale in scales))
    return bound


def _one_hot(node: ir.Node, inputs: Operands) -> int:
    return int(inputs[0].size * inputs[1].reshape(-1)[0])


def _positions(node: ir.Node, inputs: Operands) -> int:
    return int(inputs[0].size * max(1, inputs[0].ndim))


_ELEMENTWISE = """
    Add Sub Mul Div Pow Min Max Mod Where Equal Less Greater LessOrEqual GreaterOrEqual And Or Xor Not Neg Abs
    Sqrt Exp Log Reciprocal Floor Ceil Round Sign Erf Tanh Sigmoid Relu Sin Cos Tan Asin Acos Atan Sinh Cosh
    LeakyRelu PRelu Elu Selu Gelu HardSigmoid HardSwish Softplus Softsign Mish Sum Mean IsNaN IsInf"""
_NEVER_LARGER = """
    Cast CastLike Identity Clip Reshape Transpose Squeeze Unsqueeze Flatten Slice Concat Split Shape Size
    ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum
    ReduceLogSumExp ArgMax ArgMin TopK CumSum Trilu EyeLike Softmax LogSoftmax LpNormalization Compress
    BatchNormalization InstanceNormalization LayerNormalization GroupNormalization RMSNormalization
    MeanVarianceNormalization ScatterND ScatterElements GatherElements DepthToSpace SpaceToDepth Dropout"""
_RESULT_SIZE: Mapping[str, Callable[[ir.Node, Operands], int]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _broadcast),
    **dict.fromkeys(_NEVER_LARGER.split(), _total),
    "Gather": _gathered,
    "GatherND": _gathered_tuples,
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Expand": _expanded,
    "ConstantOfShape": _filled,
    "Range": _counted,
    "Tile": _tiled,
    "Pad": _padded,
    "Resize": _resized,
    "Upsample": _resized,
    "OneHot": _one_hot,
    "NonZero": _positions,
}
"""Elements of the result, or a bound on them, from the inputs."""


# -------------------------------------------------------------------------------------------------- in numpy


def _axis(node: ir.Node, default: int, rank: int) -> int:
    axis = node.attributes.get_int("axis", default)
    axis = default if axis is None else axis
    return axis + rank if axis < 0 else axis


def _ints(node: ir.Node, inputs: Operands, name: str, slot: int = 1) -> tuple[int, ...] | None:
    """Integers from an attribute (older opsets) or an input; None where there are none."""
    if name in node.attributes:
        return tuple(node.attributes[name].as_ints())
    given = inputs[slot] if len(inputs) > slot else None
    return None if given is None else tuple(int(i) for i in given.reshape(-1))


def _cast(node: ir.Node, inputs: Operands) -> Any:
    return inputs[0].astype(ir.DataType(node.attributes["to"].as_int()).numpy())


def _shape(node: ir.Node, inputs: Operands) -> Any:
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
    return np.array(inputs[0].shape, dtype=np.int64)[start:end]


def _gather(node: ir.Node, inputs: Operands) -> Any:
    return np.take(inputs[0], inputs[1], axis=_axis(node, 0, inputs[0].ndim))


def _squeeze(node: ir.Node, inputs: Operands) -> Any:
    return np.squeeze(inputs[0], _ints(node, inputs, "axes"))


def _unsqueeze(node: ir.Node, inputs: Operands) -> Any:
    axes = _ints(node, inputs, "axes")
    assert axes is not None
    return np.expand_dims(inputs[0], axes)


def _flatten(node: ir.Node, inputs: Operands) -> Any:
    axis = _axis(node, 1, inputs[0].ndim)
    return inputs[0].reshape(math.prod(inputs[0].shape[:axis]), -1)


def _reshape(node: ir.Node, inputs: Operands) -> Any:
    target = _ints(node, inputs, "shape")
    assert target is not None
    if not node.attributes.get_int("allowzero", 0):
        target = tuple(inputs[0].shape[i] if dim == 0 else dim for i, dim in enumerate(target))
    return inputs[0].reshape(target)


def _transpose(node: ir.Node, inputs: Operands) -> Any:
    return inputs[0].transpose(node.attributes.get_ints("perm", None))


def _concat(node: ir.Node, inputs: Operands) -> Any:
    return np.concatenate(list(inputs), axis=_axis(node, 0, inputs[0].ndim))


def _slice(node: ir.Node, inputs: Operands) -> Any:
    starts, ends = _ints(node, inputs, "starts", 1), _ints(node, inputs, "ends", 2)
    assert starts is not None
    assert ends is not None
    axes = _ints(node, inputs, "axes", 3) or tuple(range(len(starts)))
    steps = _ints(node, inputs, "steps", 4) or (1,) * len(starts)
    places = [slice(None)] * inputs[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        length = inputs[0].shape[axis]
        # Before the first element: a slice cannot say so with a number.
        places[axis] = slice(start, None if step < 0 and end < -length else end, step)
    return inputs[0][tuple(places)]


def _divide(node: ir.Node, inputs: Operands) -> Any:
    one, other = inputs
    if one.dtype.kind not in "iu":
        return np.divide(one, other)
    if not np.all(other):
        raise ZeroDivisionError
    # Integers are divided towards zero.
    return (np.sign(one) * np.sign(other) * (np.abs(one) // np.abs(other))).astype(one.dtype)


def _modulo(node: ir.Node, inputs: Operands) -> Any:
    # The sign of the divisor, as numpy has it, unless C's fmod is asked for.
    return (np.fmod if node.attributes.get_int("fmod", 0) else np.mod)(inputs[0], inputs[1])


def _power(node: ir.Node, inputs: Operands) -> Any:
    return np.power(inputs[0], inputs[1]).astype(inputs[0].dtype)


def _fill(node: ir.Node, inputs: Operands) -> Any:
    value = node.attributes.get("value")
    filler = np.zeros(1, np.float32) if value is None else value.as_tensor().numpy()
    return np.full([int(dim) for dim in inputs[0].reshape(-1)], filler.reshape(-1)[0], dtype=filler.dtype)


def _range(node: ir.Node, inputs: Operands) -> Any:
    start, _, delta = (array.reshape(-1)[0] for array in inputs)
    return start + np.arange(_counted(node, inputs), dtype=inputs[0].dtype) * delta


def _expand(node: ir.Node, inputs: Operands) -> Any:
    target = tuple(int(dim) for dim in inputs[1].reshape(-1))
    return np.broadcast_to(inputs[0], np.broadcast_shapes(inputs[0].shape, target))


def _tile(node: ir.Node, inputs: Operands) -> Any:
    return np.tile(inputs[0], [int(times) for times in inputs[1].reshape(-1)])


def _trilu(node: ir.Node, inputs: Operands) -> Any:
    k = int(inputs[1].item()) if len(inputs) > 1 and inputs[1] is not None else 0
    return (np.triu if node.attributes.get_int("upper", 1) else np.tril)(inputs[0], k)


def _reduced(function: Callable[..., Any]) -> Callable[[ir.Node, Operands], Any]:
    def compute(node: ir.Node, inputs: Operands) -> Any:
        axes = _ints(node, inputs, "axes")
        if not axes:
            if node.attributes.get_int("noop_with_empty_axes", 0):
                return inputs[0]
            axes = None
        keep = bool(node.attributes.get_int("keepdims", 1))
        return function(inputs[0], axis=axes, keepdims=keep).astype(inputs[0].dtype)

    return compute


def _unary(function: Callable[[Any], Any]) -> Callable[[ir.Node, Operands], Any]:
    return lambda node, inputs: function(inputs[0])


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[ir.Node, Operands], Any]:
    return lambda node, inputs: function(inputs[0], inputs[1])


_NUMPY: Mapping[str, Callable[[ir.Node, Operands], Any]] = {
    "Identity": _unary(lambda array: array),
    "Cast": _cast,
    "CastLike": _binary(lambda array, like: array.astype(like.dtype)),
    "Shape": _shape,
    "Size": _unary(lambda array: np.int64(array.size)),
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _divide,
    "Pow": _power,
    "Mod": _modulo,
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Sqrt": _unary(np.sqrt),
    "Exp": _unary(np.exp),
    "Log": _unary(np.log),
    "Sin": _unary(np.sin),
    "Cos": _unary(np.cos),
    "Tanh": _unary(np.tanh),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Sign": _unary(np.sign),
    "Reciprocal": _unary(lambda array: (1 / array).astype(array.dtype)),
    "Relu": _unary(lambda array: np.maximum(array, array.dtype.type(0))),
    "Not": _unary(np.logical_not),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Equal": _binary(np.equal),
    "Less": _binary(np.less),
    "Greater": _binary(np.greater),
    "LessOrEqual": _binary(np.less_equal),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Where": lambda node, inputs: np.where(*inputs),
    "MatMul": _binary(np.matmul),
    "ConstantOfShape": _fill,
    "Range": _range,
    "Expand": _expand,
    "Tile": _tile,
    "Trilu": _trilu,
    "ReduceSum": _reduced(np.sum),
    "ReduceMean": _reduced(np.mean),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
}
"""Operators of one output whose ONNX definition numpy has; old opsets' attributes are read too."""


# ---------------------------------------------------------------------------------------- by other libraries


def _run(node: ir.Node, inputs: Sequence[Array | None], opsets: Mapping[str, int]) -> tuple[Array, ...]:
    """One node as a model of its own, in onnxruntime, else in ONNX's reference implementation."""
    # Imported here: they take 0.2 s each and most models have nothing to evaluate.
    import onnxruntime
    from onnx import ValueInfoProto, helper

    names = [f"i{index}" if array is not None else "" for index, array in enumerate(inputs)]
    outputs = [f"o{index}" if value.name else "" for index, value in enumerate(node.outputs)]
    proto = ir.to_proto(node)
    proto.input[:], proto.output[:] = names, outputs
    proto.domain = ""
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    taken = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    made = [ValueInfoProto(name=name) for name in outputs if name]
    opset = opsets.get("", opsets.get("ai.onnx", 1))
    graph = helper.make_graph([proto], "node", taken, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        results = session.run(None, feeds)
    except Exception:  # training modes and some types have no kernel there
        from onnx.reference import ReferenceEvaluator

        results = ReferenceEvaluator(model).run(None, feeds)
    found = iter(results)
    return tuple(np.asarray(next(found)) if name else np.zeros(0) for name in outputs)
