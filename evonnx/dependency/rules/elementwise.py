"""Element-wise functions of one activation, and PRelu.

Every axis of x <-> the same axis of y. f(0) = 0 makes a function zero-preserving (argument "forward").
A dead channel carries zeros in the masked model, and zero times infinity is not zero: functions that are not
finite at 0 (Log, Reciprocal) need an argument that is positive for every input.

    PRelu     y = x where x >= 0, else slope * x: slope of one entry, or per channel ("slope" vector)
    Clip      zero-preserving where min <= 0 <= max, both constants
    CastLike  the second input lends its type only

- pins: PRelu whose slope is not a constant, functions that may not be finite at zero, bounds computed from
  channels, a second output (Dropout's mask) that is read.
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.scope import Scope
from evonnx.dependency.signs import Sign, sign_of

_KEEPS_ZERO = frozenset(
    [
        "Abs",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Cast",
        "CastLike",
        "Ceil",
        "Celu",
        "Clip",
        "Dropout",
        "Elu",
        "Erf",
        "Floor",
        "Gelu",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Mish",
        "Neg",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sign",
        "Sin",
        "Sinh",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
        "com.microsoft::Gelu",
        "com.microsoft::QuickGelu",
    ]
)
_FINITE_AT_ZERO = frozenset(
    [
        "Acos",
        "BitCast",
        "BitwiseNot",
        "Cos",
        "Cosh",
        "Exp",
        "HardSigmoid",
        "IsInf",
        "IsNaN",
        "Not",
        "Sigmoid",
        "Softplus",
    ]
)
_INFINITE_AT_ZERO = frozenset({"Log", "Reciprocal", "Acosh"})


class ElementwiseRule:
    """Unary element-wise operators and activations."""

    operators = _KEEPS_ZERO | _FINITE_AT_ZERO | _INFINITE_AT_ZERO | {"PRelu"}
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        if source is None or not scope.components(source):
            scope.pin_inputs(node, f"{node.op_type} computes its parameters from these channels")
            return
        if node.op_type in _INFINITE_AT_ZERO and not self._stays_finite(node, scope):
            scope.pin_inputs(node, f"{node.op_type} is not finite at zero, the value of a removed channel")
            return
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            scope.pin_inputs(node, f"the second output of {node.op_type} is read")
        for parameter in node.inputs[1:]:
            if node.op_type != "CastLike" and parameter is not None and scope.constant(parameter) is None:
                scope.pin_value(parameter, node, f"it is a parameter of {node.op_type}")
        if node.op_type == "PRelu":
            self._slope(node, scope, source)
        scope.pass_through(source, value, zero_preserving=self._keeps_zero(node, scope))

    def _stays_finite(self, node: ir.Node, scope: Scope) -> bool:
        positive = sign_of(node.inputs[0], scope.constant) is Sign.POSITIVE
        return positive and node.op_type != "Acosh"

    def _keeps_zero(self, node: ir.Node, scope: Scope) -> bool:
        if node.op_type == "Clip":
            low, high = self._bound(node, scope, 1, "min"), self._bound(node, scope, 2, "max")
            return low is not None and high is not None and low <= 0 <= high
        if node.op_type == "Shrink":
            return node.attributes.get_float("lambd", 0.5) >= 0
        if node.op_type == "ThresholdedRelu":
            return node.attributes.get_float("alpha", 1.0) >= 0
        keeps = node.op_type in _KEEPS_ZERO or node.op_type == "PRelu"
        return keeps or node.domain == "com.microsoft"

    def _bound(self, node: ir.Node, scope: Scope, slot: int, attribute: str) -> float | None:
        """A bound of Clip; infinite where it has none, None where it is computed at run time."""
        missing = float("-inf") if slot == 1 else float("inf")
        if len(node.inputs) > slot and node.inputs[slot] is not None:
            array = scope.constant(node.inputs[slot])
            return None if array is None or array.size != 1 else float(array.reshape(()).astype(float))
        return node.attributes.get_float(attribute, missing)

    def _slope(self, node: ir.Node, scope: Scope, source: ir.Value) -> None:
        slope = scope.constant(node.inputs[1])
        shape = scope.shape(source)
        if slope is None or shape is None:
            scope.pin_inputs(node, "the slope of PRelu is not a constant")
            return
        offset = len(shape) - slope.ndim
        for grid in scope.grids(source):
            scope.pin(grid.everything(), node, "PRelu of channels in rows (heads, groups)")
        for axis, ids in scope.tracked(source).items():
            at = axis - offset
            if at >= 0 and slope.shape[at] != 1:
                scope.vector(node, 1, at, ids, "slope", source)
