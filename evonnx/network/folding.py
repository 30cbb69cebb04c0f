"""Constant subgraphs: evaluated with ONNX's reference operators, and folded where they feed parameters.

Only operators whose result size can be told beforehand are evaluated, and only up to a limit, so that a file
cannot make us allocate more than a small multiple of what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.network.operands import WEIGHT_PORTS, trace
from evonnx.onnx_io import constant_tensor

Array = NDArray[np.generic]

_FREE_ELEMENTS = 1 << 20
"""Results up to this size are always evaluated; larger ones only up to twice their inputs."""


def _broadcast(arrays: Sequence[Array]) -> int:
    return math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))


def _total(arrays: Sequence[Array]) -> int:
    return sum(array.size for array in arrays)


def _gathered(arrays: Sequence[Array]) -> int:
    data, indices = arrays[0], arrays[1]
    return data.size * max(1, indices.size)


def _matrix_product(arrays: Sequence[Array]) -> int:
    a, b = arrays[0], arrays[1]
    return a.size // max(1, a.shape[-1]) * max(1, b.size) if a.ndim else 0


def _expanded(arrays: Sequence[Array]) -> int:
    target = tuple(int(dim) for dim in arrays[1].reshape(-1))
    return math.prod(np.broadcast_shapes(arrays[0].shape, target))


def _filled(arrays: Sequence[Array]) -> int:
    return math.prod(int(dim) for dim in arrays[0].reshape(-1))


def _counted(arrays: Sequence[Array]) -> int:
    start, limit, delta = (float(array.reshape(-1)[0]) for array in arrays)
    return max(0, math.ceil((limit - start) / delta))


_ELEMENTWISE = """
    Add Sub Mul Div Pow Min Max Mod Where Equal Less Greater LessOrEqual GreaterOrEqual And Or Not Neg Abs
    Sqrt Exp Log Reciprocal Floor Ceil Round Sign Erf Tanh Sigmoid Relu"""
_NEVER_LARGER = """
    Cast Identity Clip Reshape Transpose Squeeze Unsqueeze Flatten Slice Concat Split Shape Size ReduceSum
    ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare"""
_NEVER_FLOAT = frozenset(
    ("Shape", "Size", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not")
)
_RESULT_SIZE: Mapping[str, Callable[[Sequence[Array]], int]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _broadcast),
    **dict.fromkeys(_NEVER_LARGER.split(), _total),
    "Gather": _gathered,
    "MatMul": _matrix_product,
    "Expand": _expanded,
    "ConstantOfShape": _filled,
    "Range": _counted,
}
"""Elements of the result, or a bound on them, from the inputs."""


def evaluate(
    node: ir.Node, inputs: Sequence[Array | None], opsets: Mapping[str, int]
) -> tuple[Array, ...] | None:
    """The outputs of one node for constant inputs.

    None where the operator is not one of those known here, its result would be large, or the reference
    implementation refuses it.
    """
    size = _RESULT_SIZE.get(node.op_type)
    present = [array for array in inputs if array is not None]
    if size is None or node.domain not in ("", "ai.onnx"):
        return None
    try:
        if size(present) > max(_FREE_ELEMENTS, 2 * _total(present)):
            return None
        return _run(node, inputs, opsets)
    except Exception:  # a shape, type or value that does not fit: the node simply stays as it is
        return None


def _run(node: ir.Node, inputs: Sequence[Array | None], opsets: Mapping[str, int]) -> tuple[Array, ...]:
    # Imported here: it takes 0.2 s and most models have nothing to evaluate.
    from onnx import ValueInfoProto, helper
    from onnx.reference import ReferenceEvaluator

    names = [f"i{index}" if array is not None else "" for index, array in enumerate(inputs)]
    outputs = [f"o{index}" for index in range(len(node.outputs))]
    proto = ir.to_proto(node)
    proto.input[:], proto.output[:] = names, outputs
    proto.domain = ""
    taken, made = ([ValueInfoProto(name=name) for name in side if name] for side in (names, outputs))
    opset = opsets.get("", opsets.get("ai.onnx", 1))
    graph = helper.make_graph([proto], "node", taken, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    results = ReferenceEvaluator(model).run(None, feeds)
    return tuple(np.asarray(result) for result in results)


def fold_constants(model: ir.Model, *, integers: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Constant subgraphs that feed floating-point operands become initializers, in a clone.

    Left alone: relayouts of a constant on their way to a weight (masks map back through those), integers
    unless asked for (shapes stay as the user wrote them) and graph outputs. A folded operand keeps its name;
    constants that nothing reads any more go.

    Returns:
        The model itself and no notes where there is nothing to fold; else a clone and what was folded.
    """
    found = _foldable(model, integers)
    if not found:
        return model, ()
    folded = model.clone()
    arrays = _foldable(folded, integers)
    producers = _with_ancestors(arrays, _constant_nodes(folded.graph))
    for value, array in arrays.items():
        _replace_by_initializer(folded, value, array)
    _remove_unread(folded.graph, producers)
    names = [repr(value.name) for value in found]
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    nodes = len(model.graph) - len(folded.graph)
    return folded, (f"{nodes} node(s) with constant results were computed beforehand: {shown}.",)


def _foldable(model: ir.Model, integers: bool) -> dict[ir.Value, Array]:
    """Values to fold with their arrays, in graph order."""
    constant = _constant_nodes(model.graph)
    wanted = {
        output
        for node in constant
        for output in node.outputs
        if _is_operand(output, constant) and (integers or _is_float(output))
    }
    needed = _with_ancestors(wanted, constant)
    arrays: dict[ir.Value, Array] = {}
    for node in constant:
        if node in needed:
            inputs = [_array_of(value, arrays) for value in node.inputs]
            if all(a is not None or v is None for a, v in zip(inputs, node.inputs, strict=True)):
                results = evaluate(node, inputs, model.opset_imports) or ()
                arrays.update(zip(node.outputs, results, strict=False))
    return {value: array for value, array in arrays.items() if value in wanted}


def _constant_nodes(graph: ir.Graph) -> dict[ir.Node, None]:
    """Nodes all of whose inputs are constant, directly or through other such nodes, in graph order."""
    constant: dict[ir.Node, None] = {}
    for node in graph:
        known = (
            value is None or constant_tensor(value) is not None or value.producer() in constant
            for value in node.inputs
        )
        if node.op_type in _RESULT_SIZE and node.inputs and all(known):
            constant[node] = None
    return constant


def _is_operand(value: ir.Value, constant: Mapping[ir.Node, None]) -> bool:
    """Whether a run-time node reads the value, other than as a weight that can be traced to its constant."""
    readers = [(node, index) for node, index in value.uses() if node not in constant]
    if not readers or value.is_graph_output():
        return False
    as_weight = any(index in WEIGHT_PORTS.get(node.op_type, ()) for node, index in readers)
    return not (as_weight and trace(value) is not None)


def _with_ancestors(values: Iterable[ir.Value], constant: Mapping[ir.Node, None]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    stack = [value.producer() for value in values]
    while stack:
        node = stack.pop()
        if node is not None and node in constant and node not in found:
            found.add(node)
            stack.extend(value.producer() for value in node.inputs if value is not None)
    return found


def _array_of(value: ir.Value | None, arrays: Mapping[ir.Value, Array]) -> Array | None:
    if value is None or value in arrays:
        return None if value is None else arrays[value]
    tensor = constant_tensor(value)
    return None if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.numpy()


def _is_float(value: ir.Value | None) -> bool:
    """Whether a constant value is floating-point, from its operator, without computing it."""
    tensor = constant_tensor(value)
    if tensor is not None:
        return tensor.dtype.is_floating_point()
    node = value.producer() if value is not None else None
    if node is None or node.op_type in _NEVER_FLOAT:
        return False
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int()).is_floating_point()
    if node.op_type == "ConstantOfShape":
        filled_with = node.attributes.get("value")
        return filled_with is None or filled_with.as_tensor().dtype.is_floating_point()
    return _is_float(node.inputs[1 if node.op_type == "Where" else 0])


def _replace_by_initializer(model: ir.Model, value: ir.Value, array: Array) -> None:
    name = value.name
    assert name is not None
    tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
    fresh = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    value.replace_all_uses_with(fresh)
    value.name = f"{name}_before_folding"
    model.graph.register_initializer(fresh)
    if model.ir_version < 4:
        model.graph.inputs.append(fresh)  # before IR version 4 every initializer must be listed as an input


def _remove_unread(graph: ir.Graph, producers: set[ir.Node]) -> None:
    """Remove folded nodes, and the constants that only they read."""
    for node in reversed(tuple(graph)):
        if node not in producers or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        sources = [value for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        for value in sources:
            if not value.uses() and not value.is_graph_output():
                _remove_constant(graph, value)


def _remove_constant(graph: ir.Graph, value: ir.Value) -> None:
    node = value.producer()
    if node is not None and node.op_type == "Constant":
        graph.remove(node, safe=True)
    elif value.is_initializer() and value.name is not None:
        del graph.initializers[value.name]
        if value in graph.inputs:
            graph.inputs.remove(value)
