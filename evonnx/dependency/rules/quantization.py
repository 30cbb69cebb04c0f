"""QuantizeLinear and DequantizeLinear of activations.

    QuantizeLinear     y = saturate(round(x / scale) + zero_point)
    DequantizeLinear   y = (x - zero_point) * scale

Every axis of x <-> the same axis of y. A scale of one entry serves all channels; a scale and zero point along
a followed axis are channel vectors ("quantizer": they keep their values when a channel dies, since a scale of
zero divides by zero).

    zero where   QuantizeLinear: x is, if the zero point is 0
                 DequantizeLinear: x is, if the zero point is 0; and where what was quantised is, if x comes
                 straight from a QuantizeLinear with the same zero point

- pins: parameters computed at run time along the channels, blocked quantisation.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Flow
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope
from evonnx.network import Array


class QuantizationRule:
    """QuantizeLinear and DequantizeLinear."""

    operators = frozenset({"QuantizeLinear", "DequantizeLinear"})
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        shape = scope.shape(source)
        if source is None or scope.constant(source) is not None or not scope.tracked(source):
            return
        if shape is None:
            scope.pin_inputs(node, f"{node.op_type} of unknown rank")
            return
        if node.attributes.get_int("block_size", 0):
            scope.pin_inputs(node, f"{node.op_type} by blocks")
            return
        along = normalized_axis(node.attributes.get_int("axis", 1), len(shape))
        for axis, ids in scope.tracked(source).items():
            if axis == along:
                self._parameters(node, scope, source, axis)
            scope.carry(value, axis, ids, self._flow(node, scope, source, axis))

    def _parameters(self, node: ir.Node, scope: Scope, source: ir.Value, axis: int) -> None:
        ids = scope.tracked(source)[axis]
        for slot, parameter in enumerate(node.inputs[1:3], start=1):
            if parameter is None:
                continue
            shape = scope.shape(parameter)
            if shape is not None and (not shape or shape == (1,)):
                continue
            if scope.constant(parameter) is None:
                scope.pin(ids, node, f"the parameters of {node.op_type} are not constants")
            else:
                scope.vector(node, slot, 0, ids, "quantizer", source)

    def _flow(self, node: ir.Node, scope: Scope, source: ir.Value, axis: int) -> Flow | None:
        zero_point = self._zero_point(node, scope)
        if zero_point is None:
            return None
        if not np.any(zero_point):
            return scope.activation(source, axis)
        before = source.producer()
        if node.op_type == "QuantizeLinear" or before is None or before.op_type != "QuantizeLinear":
            return None
        same = self._zero_point(before, scope)
        original = before.inputs[0]
        if same is None or original is None or not np.array_equal(same, zero_point):
            return None
        return scope.activation(original, axis)

    def _zero_point(self, node: ir.Node, scope: Scope) -> Array | None:
        """0 where it is left out, None where it is computed."""
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return np.zeros(())
        return scope.constant(node.inputs[2])
