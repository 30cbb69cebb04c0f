"""BatchNormalization and InstanceNormalization: per-channel affine maps of x axis 1.

    y[n, c] = scale[c] * (x[n, c] - mean[c]) / sqrt(variance[c] + eps) + shift[c]

x axis 1 <-> y axis 1 <-> axis 0 of every parameter. InstanceNormalization takes mean and variance from x
itself, channel by channel. The result is zero where shift = 0 and either scale = 0 or x = mean.

- pins: parameters that are not constants, training mode, `spatial = 0`, followed axes other than 0 and 1.
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.coupling import AllOf, AnyOf, Constant, Flow
from evonnx.dependency.scope import Scope


class NormalizationRule:
    """BatchNormalization (inference) and InstanceNormalization."""

    operators = frozenset({"BatchNormalization", "InstanceNormalization"})
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        tracked = scope.tracked(source)
        if source is None or not tracked:
            return
        roles = ("scale", "shift", "mean", "variance")[: len(node.inputs) - 1]
        constants = all(scope.constant(parameter) is not None for parameter in node.inputs[1:])
        training = node.attributes.get_int("training_mode", 0) or any(
            output.uses() for output in node.outputs[1:]
        )
        if not constants or training or not node.attributes.get_int("spatial", 1) or set(tracked) - {0, 1}:
            scope.pin_inputs(
                node, f"{node.op_type} in training mode, or with parameters or axes that are not followed"
            )
            return
        if 0 in tracked:
            scope.carry(value, 0, tracked[0])
        if 1 in tracked:
            ids = tracked[1]
            for slot, role in enumerate(roles, start=1):
                scope.vector(node, slot, 0, ids, role, source)
            scope.carry(value, 1, ids, self._flow(node, scope, source))
        scope.continue_layer(source, value, zero_preserving=True)

    def _flow(self, node: ir.Node, scope: Scope, source: ir.Value) -> Flow:
        names = [str(parameter.name) for parameter in node.inputs[1:] if parameter is not None]
        centred: Flow = scope.activation(source, 1)
        if len(names) > 2:
            centred = AllOf((centred, Constant(names[2], 0)))
        return AllOf((Constant(names[1], 0), AnyOf((Constant(names[0], 0), centred))))
