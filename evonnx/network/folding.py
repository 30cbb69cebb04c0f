"""Constant subgraphs: evaluated, and folded where they feed parameters or count channels.

Standardised kernels, tables of relative positions, rotary angles and resized embeddings are constants to the
model that runs; exporters write them as the computations that made them. DequantizeLinear is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.network.evaluation import FREE_ELEMENTS, evaluate, is_known
from evonnx.network.operands import WEIGHT_PORTS, trace
from evonnx.onnx_io import constant_tensor, constant_values

Array = NDArray[np.generic]

_COUNT_PORTS: Mapping[str, tuple[int, ...]] = {
    "Pad": (1, 3),
    "Expand": (1,),
    "Tile": (1,),
    "Reshape": (1,),
    "Split": (1,),
    "Slice": (1, 2, 3, 4),
    "Gather": (1,),
    "Resize": (3,),
}
"""Inputs whose integers may count channels: to change with them they must be written down."""
_NEVER_FLOAT = frozenset(
    [
        "Shape",
        "Size",
        "Equal",
        "Less",
        "Greater",
        "LessOrEqual",
        "GreaterOrEqual",
        "And",
        "Or",
        "Xor",
        "Not",
        "IsNaN",
        "IsInf",
        "ArgMax",
        "ArgMin",
        "NonZero",
    ]
)


def fold_constants(model: ir.Model, *, in_place: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Constant subgraphs that feed floating-point operands, or inputs that may count channels, become
    initializers, in a clone unless `in_place`.

    Left alone: relayouts of a constant on their way to a weight (masks map back through those), integers that
    count nothing (they stay as the user wrote them) and graph outputs. A folded operand keeps its name;
    constants that nothing reads any more go.

    Returns:
        The model itself and no notes where there is nothing to fold; else the folded one and what was folded.
    """
    found = _foldable(model)
    if not found:
        return model, ()
    names, before = [repr(value.name) for value in found], len(model.graph)
    folded = model if in_place else model.clone()
    arrays = found if in_place else _counterparts(model.graph, folded.graph, found)
    producers = _with_ancestors(arrays, _constant_nodes(folded.graph))
    for value, array in arrays.items():
        _replace_by_initializer(folded, value, array)
    _remove_unread(folded.graph, producers)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    nodes = before - len(folded.graph)
    return folded, (f"{nodes} node(s) with constant results were computed beforehand: {shown}.",)


def _counterparts(
    graph: ir.Graph, clone: ir.Graph, arrays: Mapping[ir.Value, Array]
) -> dict[ir.Value, Array]:
    """The same arrays by the values of a clone."""
    return {
        copy: arrays[value]
        for node, twin in zip(graph, clone, strict=True)
        for value, copy in zip(node.outputs, twin.outputs, strict=True)
        if value in arrays
    }


def _foldable(model: ir.Model) -> dict[ir.Value, Array]:
    """Values to fold with their arrays, in graph order."""
    constant = _constant_nodes(model.graph)
    wanted = {
        output
        for node in constant
        for output in node.outputs
        if _is_operand(output, constant) and (_counts(output) or _is_float(output))
    }
    needed = _with_ancestors(wanted, constant)
    arrays: dict[ir.Value, Array] = {}
    limit = max(FREE_ELEMENTS, sum(tensor.size for _, _, tensor in constant_values(model)) // 4)
    for node in constant:
        if node in needed:
            inputs = [_array_of(value, arrays) for value in node.inputs]
            if all(a is not None or v is None for a, v in zip(inputs, node.inputs, strict=True)):
                results = evaluate(node, inputs, model.opset_imports, limit) or ()
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
        if is_known(node) and node.inputs and all(known):
            constant[node] = None
    return constant


def _is_operand(value: ir.Value, constant: Mapping[ir.Node, None]) -> bool:
    """Whether a run-time node reads the value, other than as a weight that can be traced to its constant."""
    readers = [(node, index) for node, index in value.uses() if node not in constant]
    if not readers or value.is_graph_output():
        return False
    as_weight = any(index in WEIGHT_PORTS.get(node.op_type, ()) for node, index in readers)
    return not (as_weight and trace(value) is not None)


def _counts(value: ir.Value) -> bool:
    return any(index in _COUNT_PORTS.get(node.op_type, ()) for node, index in value.uses())


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
