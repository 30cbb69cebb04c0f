"""Element-wise operators of several operands, with broadcasting.

Axes are aligned from the right. Per axis of the result: followed axes of full length are united with each
other and with the result's; a constant of full length is a channel vector ("addend", "factor", "divisor",
"exponent"); a constant or activation of length 1 there has nothing to do with the channels.

    zero where   Add, Sub, Sum, Mean, Max, Min: every operand is;   Mul: some operand is;   Div, Pow: the
    first is

- pins: an activation of full length that is not followed, a followed axis of length 1 that is spread over a
longer
  one, division by an activation (0 / 0 in a dead channel), Pow with an exponent that is not a positive
  constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import AllOf, AnyOf, Constant, Flow
from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope

_SUMS = frozenset({"Add", "Sub", "Sum", "Mean", "Max", "Min"})
_COMPARISONS = frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Where"}
)
_SECOND_ROLE = {"Mul": "factor", "Div": "divisor", "Pow": "exponent"}


class ArithmeticRule:
    """Add, Sub, Mul, Div, Pow, Max, Min, Sum, Mean, comparisons and Where."""

    operators = _SUMS | _COMPARISONS | {"Mul", "Div", "Pow"}
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        operands = [value for value in node.inputs if value is not None]
        activations = [value for value in operands if scope.constant(value) is None]
        if not any(scope.tracked(value) for value in activations):
            return
        shapes = [scope.shape(value) for value in operands]
        if any(shape is None for shape in shapes) or len(operands) != len(node.inputs):
            scope.pin_inputs(node, f"{node.op_type} with operands of unknown rank")
            return
        self._refuse(node, scope)
        rank = max(len(shape or ()) for shape in shapes)
        followed = {
            axis + rank - len(scope.shape(value) or ())
            for value in activations
            for axis in scope.tracked(value)
        }
        for axis in sorted(followed):
            self._axis(node, scope, axis - rank, rank)
        self._layer(node, scope, operands, shapes)

    def _refuse(self, node: ir.Node, scope: Scope) -> None:
        """Pins for operators that are not finite when a channel is zero."""
        if node.op_type not in ("Div", "Pow"):
            return
        second = node.inputs[1]
        constant = scope.constant(second)
        if node.op_type == "Div" and constant is None:
            scope.pin_inputs(node, "division by an activation is not defined in a removed channel")
        if node.op_type == "Pow" and (constant is None or not bool(np.all(constant.astype(np.float64) > 0))):
            scope.pin_inputs(node, "Pow with an exponent that is not a positive constant")

    def _axis(self, node: ir.Node, scope: Scope, back: int, rank: int) -> None:
        """Relate the operands along one axis of the result, counted from the back (-1: the last)."""
        lengths: list[int | None] = []
        ids: list[IdArray | None] = []
        for value in node.inputs:
            shape = scope.shape(value) or ()
            inside = len(shape) + back >= 0
            lengths.append(shape[back] if inside else 1)
            followed = inside and scope.constant(value) is None
            ids.append(scope.ids(value, len(shape) + back) if followed else None)
        full = max((found.size for found in ids if found is not None), default=1)
        full = max([full, *(length for length in lengths if length is not None)])
        reference = next((found for found in ids if found is not None and found.size == full), None)
        if reference is None:
            for found in ids:
                if found is not None:
                    scope.pin(found, node, f"one channel is spread over {full} by {node.op_type}")
            return
        terms: list[Flow | None] = []
        for slot, (value, length, found) in enumerate(zip(node.inputs, lengths, ids, strict=True)):
            assert value is not None
            constant = scope.constant(value)
            axis = len(scope.shape(value) or ()) + back
            if found is not None and found.size == full:
                scope.unite(reference, found)
                terms.append(scope.activation(value, axis))
            elif found is not None:
                scope.pin(found, node, f"one channel is spread over {full} by {node.op_type}")
                terms.append(None)
            elif constant is not None:
                if length == full and full > 1:
                    along = next(
                        other for other, own in zip(node.inputs, ids, strict=True) if own is reference
                    )
                    scope.vector(node, slot, axis, reference, self._role(node, slot), along)
                    terms.append(Constant(str(value.name), axis))
                else:
                    terms.append(Constant(str(value.name), None))
            else:
                if length != 1:
                    scope.pin(reference, node, f"{value.name!r}, combined with these, is not followed")
                terms.append(None)
        scope.carry(node.outputs[0], rank + back, reference, self._flow(node, terms))

    def _role(self, node: ir.Node, slot: int) -> str:
        if node.op_type == "Mul":
            return "factor"
        return _SECOND_ROLE.get(node.op_type, "addend") if slot == 1 else "addend"

    def _flow(self, node: ir.Node, terms: Sequence[Flow | None]) -> Flow | None:
        known = tuple(term for term in terms if term is not None)
        if node.op_type in _SUMS:
            return AllOf(known) if len(known) == len(terms) else None
        if node.op_type == "Mul":
            return AnyOf(known)
        return terms[0] if node.op_type in ("Div", "Pow") else None

    def _layer(
        self,
        node: ir.Node,
        scope: Scope,
        operands: Sequence[ir.Value],
        shapes: Sequence[tuple[int | None, ...] | None],
    ) -> None:
        """A branch goes on through constants, and ends where it is added to something else."""
        activations = [slot for slot, value in enumerate(operands) if scope.constant(value) is None]
        if len(activations) == 1:
            slot = activations[0]
            constants = [scope.constant(value) for other, value in enumerate(operands) if other != slot]
            scaled = node.op_type == "Mul" or (node.op_type in ("Div", "Pow") and slot == 0)
            # A per-channel addend dies with the layer; a scalar one does not.
            added = node.op_type in _SUMS and all(array is not None and array.size > 1 for array in constants)
            absent = node.op_type in _SUMS and all(
                array is not None and not np.any(array) for array in constants
            )
            keeps = scaled or added or absent
            scope.continue_layer(operands[slot], node.outputs[0], zero_preserving=keeps)
        elif len(activations) == 2 and node.op_type in ("Add", "Sub", "Sum") and shapes[0] == shapes[1]:
            for slot in activations if node.op_type != "Sub" else [1]:
                scope.merge(node, slot)
