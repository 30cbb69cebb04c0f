"""Shapes of all tensors of a graph from concrete input shapes, and values of the small ones that make shapes.

One walk in topological order: nodes whose inputs are known numbers are evaluated, element-wise ones are
broadcast here, ONNX's own inference does the rest one node at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.network.evaluation import evaluate, is_known
from evonnx.onnx_io import constant_tensor

Array = NDArray[np.generic]
Dim = int | str | None
Shape = tuple[Dim, ...]

_LARGEST_VALUE = 4096
"""Integers and flags up to this many elements are followed as values: they may become a shape."""
_LARGEST_FLOATS = 16
"""Floating-point values likewise: scales of a Resize, a ratio of two lengths."""
_UNARY = """
    Identity Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Tanh Erf Gelu Softplus Softsign
    Mish Exp Log Sqrt Abs Neg Floor Ceil Round Sign Reciprocal Sin Cos Clip Not Dropout Softmax LogSoftmax
    LRN BatchNormalization InstanceNormalization LayerNormalization GroupNormalization Swish CumSum Trilu"""
_BINARY = "Add Sub Mul Div Pow Mod And Or Xor Min Max Sum Mean"
_COMPARISONS = "Equal Less Greater LessOrEqual GreaterOrEqual"
_SAME_AS_FIRST = frozenset(_UNARY.split())
_BROADCAST = frozenset(_BINARY.split())
_COMPARE = frozenset(_COMPARISONS.split())


@dataclass
class _Known:
    """What is known so far, by tensor name."""

    opsets: Mapping[str, int]
    types: dict[str, ir.DataType] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)

    def enter(self, value: ir.Value, kind: ir.DataType | None, shape: Shape | None) -> None:
        """Note what is known of a value."""
        if value.name:
            if kind is not None:
                self.types[value.name] = kind
            if shape is not None:
                self.shapes[value.name] = shape

    def enter_array(self, value: ir.Value, array: Array) -> None:
        """Note a computed value."""
        assert value.name is not None
        self.enter(value, ir.DataType.from_numpy(array.dtype), array.shape)
        if _worth_following(array.dtype.kind, array.size):
            self.values[value.name] = array

    def shape(self, value: ir.Value | None) -> Shape | None:
        """A value's shape; None where the rank is not known."""
        return None if value is None else self.shapes.get(value.name or "")


def infer(model: ir.Model, inputs: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """Shape by tensor name for the main graph; None where a dimension is unknown, no entry without a rank.

    Args:
        model: the graph.
        inputs: concrete shapes of the graph's inputs.
    """
    known = _Known(model.opset_imports)
    for value in model.graph.inputs:
        given = inputs.get(value.name or "")
        known.enter(value, value.dtype, None if given is None else tuple(given))
    _walk(model.graph, known)
    return known.shapes


def _walk(graph: ir.Graph, known: _Known) -> None:
    for value in graph.initializers.values():
        _enter_constant(value, known)
    for node in graph:
        if node.op_type == "Constant":
            _enter_constant(node.outputs[0], known)
        elif node.op_type == "If":
            _choose(node, known)
        elif not _compute(node, known) and node.domain in ("", "ai.onnx"):
            _infer_node(node, known)


def _enter_constant(value: ir.Value, known: _Known) -> None:
    tensor = constant_tensor(value)
    if tensor is None or value.name is None:
        return
    known.enter(value, tensor.dtype, tuple(int(dim) for dim in tensor.shape.numpy()))
    kind = "f" if tensor.dtype.is_floating_point() else "i"
    if tensor.dtype != ir.DataType.STRING and _worth_following(kind, tensor.size):
        known.values[value.name] = tensor.numpy()


def _worth_following(kind: str, size: int) -> bool:
    return size <= (_LARGEST_VALUE if kind in "iub" else _LARGEST_FLOATS)


def _choose(node: ir.Node, known: _Known) -> None:
    """An If: the branch that is taken, or what both branches agree on."""
    condition = known.values.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
    taken = ["then_branch", "else_branch"]
    if condition is not None and condition.size == 1:
        taken = taken[:1] if bool(condition.item()) else taken[1:]
    branches = [node.attributes[name].as_graph() for name in taken]
    for branch in branches:
        _walk(branch, known)
    for position, value in enumerate(node.outputs):
        made = [branch.outputs[position] for branch in branches]
        shapes = [known.shape(one) for one in made]
        agreed = shapes[0] if all(shape == shapes[0] for shape in shapes) else None
        known.enter(value, known.types.get(str(made[0].name)), agreed)
        if len(made) == 1 and made[0].name in known.values and value.name:
            known.values[value.name] = known.values[made[0].name]


def _compute(node: ir.Node, known: _Known) -> bool:
    """Evaluate a node whose inputs are known numbers, or the Shape of a known shape; False where not."""
    if not is_known(node) or not node.inputs:
        return False
    if node.op_type in ("Shape", "Size"):
        shape = known.shape(node.inputs[0])
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return False
        # Only its shape is asked for: a view of one number that repeats costs no memory.
        inputs: list[Array | None] = [np.broadcast_to(np.float32(0), [int(str(dim)) for dim in shape])]
    else:
        inputs = []
        for value in node.inputs:
            if value is not None and value.name not in known.values:
                return False
            inputs.append(None if value is None else known.values[str(value.name)])
    results = evaluate(node, inputs, known.opsets, _LARGEST_VALUE)
    if results is None:
        return False
    for value, array in zip(node.outputs, results, strict=False):
        if value.name:
            known.enter_array(value, array)
    return True


def _infer_node(node: ir.Node, known: _Known) -> None:
    shapes = [known.shape(value) for value in node.inputs]
    first = node.inputs[0] if node.inputs else None
    kind = None if first is None else known.types.get(first.name or "")
    present = [shape for value, shape in zip(node.inputs, shapes, strict=True) if value is not None]
    if node.op_type in _SAME_AS_FIRST and len(node.outputs) == 1:
        known.enter(node.outputs[0], kind, shapes[0])
    elif node.op_type in _BROADCAST or node.op_type in _COMPARE:
        known.enter(
            node.outputs[0], ir.DataType.BOOL if node.op_type in _COMPARE else kind, broadcast(present)
        )
    else:
        _ask_onnx(node, known)


def broadcast(shapes: Sequence[Shape | None]) -> Shape | None:
    """The shape that element-wise operators give; None where a rank is unknown or sizes disagree."""
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    rank = max((len(shape) for shape in known), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in known]
    result: list[Dim] = []
    for dims in zip(*padded, strict=True):
        sizes = {dim for dim in dims if dim != 1}
        numbers = sizes - {None}
        if len(numbers) > 1:
            return None
        result.append(numbers.pop() if numbers else None if sizes else 1)
    return tuple(result)


def _ask_onnx(node: ir.Node, known: _Known) -> None:
    """ONNX's inference of one node, given its inputs' shapes and known values."""
    from onnx import numpy_helper, shape_inference

    schema = _schema(node.op_type, known.opsets.get("", known.opsets.get("ai.onnx", 1)))
    if schema is None:
        return
    types: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for slot, value in enumerate(node.inputs):
        if value is None or not value.name or value.name not in known.types:
            continue
        types[value.name] = _type_proto(known.types[value.name], known.shape(value))
        if (slot or node.op_type == "ConstantOfShape") and value.name in known.values:
            data[value.name] = numpy_helper.from_array(known.values[value.name], value.name)
    try:
        found = shape_inference.infer_node_outputs(schema, ir.serde.serialize_node(node), types, data)
    except Exception:  # sizes that do not fit, or an operator whose inference needs more than one node
        return
    for value in node.outputs:
        made = found.get(value.name or "")
        if made is not None and made.HasField("tensor_type"):
            known.enter(value, ir.DataType(made.tensor_type.elem_type), _shape_of(made.tensor_type))


@cache
def _schema(op_type: str, opset: int) -> Any:
    from onnx import defs

    try:
        return defs.get_schema(op_type, opset, "")
    except defs.SchemaError:
        return None


def _type_proto(kind: ir.DataType, shape: Shape | None) -> Any:
    from onnx import helper

    return helper.make_tensor_type_proto(kind.value, shape)


def _shape_of(tensor: Any) -> Shape | None:
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
        for dim in tensor.shape.dim
    )
