"""Gemm and MatMul with a constant matrix.

    MatMul   y[..., o] = sum_i x[..., i] * W[i, o]      W 2-D; or y[..., o, t] = sum_i W[o, i] * x[..., i, t]
    Gemm     y[m, o] = alpha * sum_i A[m, i] * B[i, o] + beta * C[.., o]      either may be stored transposed

The contracted axis of the activation <-> inputs, the last (for a constant on the left: last but one) axis of
the result <-> outputs (new wires); other axes of the activation pass through. C is a bias (a vector over
outputs) or a scalar.

- pins: products of two activations (attention), matrices of rank above 2, a C that is an activation or varies
  over rows.
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.coupling import Constant, Contraction, Flow
from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope


class ContractionRule:
    """Gemm and MatMul."""

    operators = frozenset({"Gemm", "MatMul"})
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        slot = next((slot for slot in (1, 0) if scope.weight(node, slot) is not None), None)
        if slot is None:
            scope.pin_inputs(node, f"{node.op_type} of two activations (or of a matrix that is not prunable)")
            return
        found = scope.weight(node, slot)
        source, value = node.inputs[1 - slot], node.outputs[0]
        rank = len(scope.shape(source) or ())
        if source is None or found is None or rank < 2 or found[0].taps != 1:
            scope.pin_inputs(
                node, f"{node.op_type} with a matrix of rank above 2 or operands of unknown rank"
            )
            return
        weight, use = found
        if node.op_type == "Gemm":
            transposed = bool(node.attributes.get_int("transB" if slot == 0 else "transA", 0))
            contracted = (0 if transposed else 1) if slot == 1 else (1 if transposed else 0)
            produced = 1 if slot == 1 else 0
        else:
            contracted, produced = (rank - 1, rank - 1) if slot == 1 else (rank - 2, rank - 2)
        inputs = scope.require(source, contracted, weight.inputs_per_group, node)
        outputs = scope.fresh(weight.outputs)
        same = weight.uses[use].relayouts == weight.uses[0].relayouts
        if not same:
            for ids in (inputs, outputs):
                scope.pin(ids, node, f"{weight.name!r} is read in two different layouts")
        scope.weight_axes(weight, outputs, inputs.reshape(1, -1))
        scope.read(weight.name, node, source, contracted)
        for axis, ids in scope.tracked(source).items():
            if axis == contracted:
                continue
            # What is left of the activation is its one other matrix axis, or batch axes of a MatMul.
            moved = axis if node.op_type == "MatMul" else 1 - produced
            scope.carry(value, moved, ids)
        known, bias = self._bias(node, scope, outputs, produced)
        flow = (
            Contraction(weight.name, scope.activation(source, contracted), bias) if known and same else None
        )
        scope.carry(value, produced, outputs, flow)
        scope.begin_layer(value, weight.name)

    def _bias(self, node: ir.Node, scope: Scope, outputs: IdArray, produced: int) -> tuple[bool, Flow | None]:
        """(whether zero outputs can be told, the bias as a flow term)."""
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return True, None
        value, array = node.inputs[2], scope.constant(node.inputs[2])
        if array is None:
            scope.pin(outputs, node, "C of Gemm is not a constant")
            scope.pin_value(value, node, "it is C of a Gemm")
            return False, None
        axis = produced - 2 + array.ndim
        if axis < 0 or array.shape[axis] == 1:
            if array.size != 1:
                scope.pin(outputs, node, "C of Gemm varies over rows")
                return False, None
            return True, Constant(str(value.name), None)
        scope.vector(node, 2, axis, outputs, "bias", None)
        return True, Constant(str(value.name), axis)
