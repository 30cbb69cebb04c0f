"""Conv and ConvTranspose.

    Conv            y[n, o] = bias[o] + sum_i W[o, i] * x[n, g * I + i]      group g = o // (O / groups)
    ConvTranspose   the same with W stored (groups * I, O / groups)

x axis 1 <-> inputs, y axis 1 <-> outputs (new wires), bias axis 0 <-> outputs. The batch axis passes through.

- groups = 1: inputs and outputs are independent.
- depthwise (one input per group): output o = g * m + j can only go together with input g and all m outputs
  of it: one class, different wires; the group attribute counts the inputs.
- other groupings: every group must keep equally many inputs and equally many outputs, or goes whole.
- pins: a weight that is not a constant or not prunable, followed spatial axes, ConvTranspose in groups whose
  outputs share their scales of quantisation.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Contraction
from evonnx.dependency.scope import Scope
from evonnx.network import Weight


class ConvolutionRule:
    """Conv and ConvTranspose of any spatial rank."""

    operators = frozenset({"Conv", "ConvTranspose"})
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        found = scope.weight(node, 1)
        if source is None or found is None:
            scope.pin_inputs(node, f"{node.op_type} whose kernel is not a prunable constant")
            return
        weight, use = found
        for axis, ids in scope.tracked(source).items():
            if axis > 1:
                scope.pin(ids, node, f"{node.op_type} slides over an axis that carries channels")
            elif axis == 0:
                scope.carry(value, 0, ids)
        inputs = scope.require(source, 1, weight.groups * weight.inputs_per_group, node)
        outputs = scope.fresh(weight.outputs)
        if weight.uses[use].relayouts != weight.uses[0].relayouts:
            scope.pin(inputs, node, f"{weight.name!r} is read in two different layouts")
            scope.pin(outputs, node, f"{weight.name!r} is read in two different layouts")
        self._groups(node, scope, weight, inputs, outputs)
        scope.weight_axes(weight, outputs, inputs.reshape(weight.groups, weight.inputs_per_group))
        scope.read(weight.name, node, source, 1)

        biased = len(node.inputs) > 2 and node.inputs[2] is not None
        bias = scope.bias(node, 2, 0, outputs) if biased else None
        known = bias is not None or not biased
        flow = Contraction(weight.name, scope.activation(source, 1), bias) if known else None
        scope.carry(value, 1, outputs, flow)
        scope.begin_layer(value, weight.name)

    def _groups(
        self, node: ir.Node, scope: Scope, weight: Weight, inputs: np.ndarray, outputs: np.ndarray
    ) -> None:
        if weight.groups == 1:
            return
        if node.op_type == "ConvTranspose" and weight.scales_along is not None:
            for ids in (inputs, outputs):
                scope.pin(ids, node, "groups share the scales that integers are dequantised with")
        elif weight.inputs_per_group == 1:
            scope.bind(outputs, np.repeat(inputs, weight.outputs // weight.groups))
            scope.count(node, "group", None, inputs)
        else:
            lines = scope.line_ids(weight.groups)
            reason = "every group must read and put out equally many channels"
            scope.equal_count(inputs.reshape(weight.groups, -1), node, reason, [lines])
            scope.equal_count(outputs.reshape(weight.groups, -1), node, reason, [lines])
            scope.count(node, "group", None, lines)
