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

from evonnx.dependency.coupling import Flow, Place
from evonnx.dependency.grids import Component
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope
from evonnx.network import Array


class QuantizationRule:
    """QuantizeLinear and DequantizeLinear."""

    operators = frozenset({"QuantizeLinear", "DequantizeLinear"})
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        shape = scope.shape(source)
        if source is None or scope.constant(source) is not None or not scope.components(source):
            return
        if shape is None:
            scope.pin_inputs(node, f"{node.op_type} of unknown rank")
            return
        if node.attributes.get_int("block_size", 0):
            scope.pin_inputs(node, f"{node.op_type} by blocks")
            return
        along = normalized_axis(node.attributes.get_int("axis", 1), len(shape))
        for component in scope.components(source):
            if along in component.axes and self._varies(node, scope):
                self._parameters(node, scope, source, component)
            place = component.axes if len(component.axes) > 1 else component.axes[0]
            scope.carry_grid(value, component, self._flow(node, scope, source, place))

    def _varies(self, node: ir.Node, scope: Scope) -> bool:
        """Whether parameters differ along an axis."""
        shapes = [scope.shape(parameter) for parameter in node.inputs[1:3] if parameter is not None]
        return any(shape not in ((), (1,)) for shape in shapes)

    def _parameters(self, node: ir.Node, scope: Scope, source: ir.Value, component: Component) -> None:
        if len(component.axes) > 1:
            scope.pin(component.everything(), node, f"{node.op_type} of heads or groups by channel")
            return
        for slot, parameter in enumerate(node.inputs[1:3], start=1):
            if parameter is None:
                continue
            if scope.constant(parameter) is None:
                scope.pin(component.ids, node, f"the parameters of {node.op_type} are not constants")
            elif scope.shape(parameter) not in ((), (1,)):
                scope.vector(node, slot, 0, component.ids, "quantizer", source)

    def _flow(self, node: ir.Node, scope: Scope, source: ir.Value, place: Place) -> Flow | None:
        zero_point = self._zero_point(node, scope)
        if zero_point is None:
            return None
        if not np.any(zero_point):
            return scope.activation(source, place)
        before = source.producer()
        if node.op_type == "QuantizeLinear" or before is None or before.op_type != "QuantizeLinear":
            return None
        same = self._zero_point(before, scope)
        original = before.inputs[0]
        if same is None or original is None or not np.array_equal(same, zero_point):
            return None
        return scope.activation(original, place)

    def _zero_point(self, node: ir.Node, scope: Scope) -> Array | None:
        """0 where it is left out, None where it is computed."""
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return np.zeros(())
        return scope.constant(node.inputs[2])
