"""Gemm and MatMul with a constant matrix.

    MatMul   y[..., o] = sum_i x[..., i] * W[i, o]      W 2-D; or y[..., o, t] = sum_i W[o, i] * x[..., i, t]
    Gemm     y[m, o] = alpha * sum_i A[m, i] * B[i, o] + beta * C[.., o]      either may be stored transposed

The contracted axis of the activation <-> inputs, the last (for a constant on the left: last but one) axis of
the result <-> outputs (new wires); other axes of the activation pass through. C is a bias (a vector over
outputs) or a scalar.

MatMul of two activations (attention)   y[.., m, n] = sum_k a[.., m, k] * b[.., k, n]; see `product.py`

- pins: Gemm of two activations, matrices of rank above 2, a C that is an activation or varies over rows.
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.coupling import Constant, Contraction, Flow
from evonnx.dependency.grids import Component
from evonnx.dependency.ids import IdArray
from evonnx.dependency.product import Operand, relate_product
from evonnx.dependency.scope import Scope
from evonnx.network import quantization_of


class ContractionRule:
    """Gemm and MatMul."""

    operators = frozenset({"Gemm", "MatMul"})
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        slot = next((slot for slot in (1, 0) if scope.weight(node, slot) is not None), None)
        if slot is None:
            self._activations(node, scope)
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
        grids = self._grids(node, scope, source, contracted)
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
        for grid in grids:
            scope.carry_grid(value, grid)
        known, bias = self._bias(node, scope, outputs, produced)
        flow = (
            Contraction(weight.name, scope.activation(source, contracted), bias) if known and same else None
        )
        scope.carry(value, produced, outputs, flow)
        scope.begin_layer(value, weight.name)

    def _grids(self, node: ir.Node, scope: Scope, source: ir.Value, contracted: int) -> list[Component]:
        """Grids of the activation that pass through. Where the matrix reads the ragged axis, every line has
        the same indices from here on: it is an axis of its own then."""
        passed = []
        for grid in scope.grids(source):
            if contracted not in grid.axes:
                passed.append(grid)
            elif grid.axes.index(contracted) == grid.ragged:
                scope.dissolve(source, grid, node, f"{node.op_type} reads every one of them alike")
            else:
                scope.pin(grid.everything(), node, f"{node.op_type} sums over heads or groups")
        if node.op_type == "Gemm":
            for grid in passed:
                scope.pin(grid.everything(), node, "Gemm of channels in rows")
            return []
        return passed

    def _activations(self, node: ir.Node, scope: Scope) -> None:
        one, other = node.inputs[0], node.inputs[1]
        shapes = [scope.shape(one), scope.shape(other)]
        constant = any(scope.constant(value) is not None for value in (one, other))
        if node.op_type != "MatMul" or one is None or other is None or constant or None in shapes:
            scope.pin_inputs(node, f"{node.op_type} of two activations (or of a matrix that is not prunable)")
            return
        left, right = (shape or () for shape in shapes)
        if min(len(left), len(right)) < 2 or None in (*left, *right):
            scope.pin_inputs(node, f"{node.op_type} of vectors, or of shapes that are not known")
            return
        batch = max(len(left), len(right)) - 2
        lengths = [
            max(shape[back - 2] or 0 for shape in (left, right) if len(shape) >= 2 - back)
            for back in range(-batch, 0)
        ]

        def labels(shape: tuple[int | None, ...], own: tuple[str, str]) -> tuple[str | None, ...]:
            leading = [
                f"batch{back}" if shape[back - 2] == lengths[back] else None
                for back in range(2 - len(shape), 0)
            ]
            return (*leading, *own)

        relate_product(
            node,
            scope,
            Operand(one, labels(left, ("m", "k"))),
            Operand(other, labels(right, ("k", "n"))),
            (*(f"batch{back}" for back in range(-batch, 0)), "m", "n"),
        )

    def _bias(self, node: ir.Node, scope: Scope, outputs: IdArray, produced: int) -> tuple[bool, Flow | None]:
        """(whether zero outputs can be told, the bias as a flow term)."""
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return True, None
        value, array = node.inputs[2], scope.constant(node.inputs[2])
        if array is None and quantization_of(value)[0] is not None:
            bias = scope.bias(node, 2, 0, outputs)
            return bias is not None, bias
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
