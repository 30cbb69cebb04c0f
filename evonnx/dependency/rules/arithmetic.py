"""Element-wise operators of several operands, with broadcasting.

Axes are aligned from the right. Per axis of the result: followed axes of full length are united with each
other and with the result's; a constant of full length is a channel vector ("addend", "factor", "divisor",
"exponent"); an operand of length 1 there has nothing to do with the channels; an operand that repeats one
entry there (Expand, Tile) repeats it less often.

Grids (heads x dims) of several operands must lie along the same axes; a constant along the ragged axis, or an
operand that is not followed (the angles of rotary embeddings), makes all lines keep the same indices. Of an
operand that is not followed, a product needs the kept channels only: a Gather picks them.

    zero where   Add, Sub, Sum, Mean, Or, Xor, Greater, Less: every operand is
                 Max, Min: every operand is, but for scalars c with max(0, c) = 0, min(0, c) = 0
                 Mul, And: some operand is
                 Div, Mod, BitShift: the first is; Pow: the first is, if the exponent is positive
                 Where: both branches are

A channel that is gone was zero in the masked model, and 0 / 0 is not zero: a divisor is a constant, has
length 1 along the channels or is positive for every input; so is the base of a Pow whose exponent is not a
positive constant.

- pins: an activation of full length that is not followed (but for products), a followed axis of length 1 that
  is spread over a longer one, divisors and exponents that may not be finite at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from evonnx.dependency.copies import shorten_copies
from evonnx.dependency.coupling import AllOf, AnyOf, Constant, Flow, Taken
from evonnx.dependency.grids import Component
from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope
from evonnx.dependency.signs import Sign, sign_of
from evonnx.network import Array

_LIKE_SUMS = frozenset(
    {"Add", "Sub", "Sum", "Mean", "Or", "Xor", "BitwiseOr", "BitwiseXor", "Greater", "Less", "Max", "Min"}
)
_LIKE_PRODUCTS = frozenset({"Mul", "And", "BitwiseAnd"})
_LIKE_QUOTIENTS = frozenset({"Div", "Mod"})
_NEVER_ZERO = frozenset({"Equal", "GreaterOrEqual", "LessOrEqual"})
_SUMS = frozenset({"Add", "Sub", "Sum", "Mean", "Max", "Min"})
_SECOND_ROLE = {"Div": "divisor", "Mod": "divisor", "Pow": "exponent"}


@dataclass(frozen=True)
class Operand:
    """One operand along one axis of the result."""

    slot: int
    value: ir.Value
    constant: Array | None
    axis: int
    """Its own axis; negative where it has none there."""
    length: int | None
    """Along that axis: 1 where it has none, None where it is not known."""
    ids: IdArray | None
    """None where it is a constant or not followed."""


class ArithmeticRule:
    """Add, Sub, Mul, Div, Mod, Pow, Max, Min, Sum, Mean, comparisons, logic and Where."""

    operators = _LIKE_SUMS | _LIKE_PRODUCTS | _LIKE_QUOTIENTS | _NEVER_ZERO | {"Pow", "BitShift", "Where"}
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        operands = [value for value in node.inputs if value is not None]
        activations = [value for value in operands if scope.constant(value) is None]
        if not any(scope.components(value) for value in activations):
            return
        shapes = [scope.shape(value) for value in operands]
        if any(shape is None for shape in shapes) or len(operands) != len(node.inputs):
            scope.pin_inputs(node, f"{node.op_type} with operands of unknown rank")
            return
        rank = max(len(shape or ()) for shape in shapes)
        rows = _Rows(node, scope, rank).relate() if any(map(scope.grids, activations)) else set()
        followed = {
            axis + rank - len(scope.shape(value) or ())
            for value in activations
            for axis in scope.tracked(value)
        }
        for axis in sorted(followed - rows):
            along = [_operand(scope, slot, value, axis - rank) for slot, value in enumerate(operands)]
            self._axis(node, scope, axis, along)
        self._layer(node, scope, operands, shapes)

    def _axis(self, node: ir.Node, scope: Scope, axis: int, operands: Sequence[Operand]) -> None:
        """Relate the operands along one axis of the result."""
        lengths = [operand.length if operand.ids is None else operand.ids.size for operand in operands]
        full = max(length for length in lengths if length is not None)
        for operand in operands:
            if operand.ids is not None and operand.ids.size != full:
                scope.pin(operand.ids, node, f"one channel is spread over {full} by {node.op_type}")
        reference = next((o for o in operands if o.ids is not None and o.ids.size == full), None)
        if reference is None or reference.ids is None:
            return
        reason = _refusal(node, scope, [operand.length != 1 for operand in operands])
        if reason is not None:
            scope.pin(reference.ids, node, reason)
        terms = [self._term(node, scope, operand, reference, full) for operand in operands]
        scope.carry(node.outputs[0], axis, reference.ids, _flow_of(node, scope, terms))

    def _term(
        self, node: ir.Node, scope: Scope, operand: Operand, reference: Operand, full: int
    ) -> Flow | None:
        """Couple one operand with the reference; when it is zero."""
        assert reference.ids is not None
        if operand.ids is not None and operand.ids.size == full:
            scope.unite(reference.ids, operand.ids)
            return scope.activation(operand.value, operand.axis)
        if operand.constant is not None:
            if operand.length != full or full == 1:
                return Constant(str(operand.value.name), None)
            role = _role(node, operand.slot)
            scope.vector(node, operand.slot, operand.axis, reference.ids, role, reference.value)
            return Constant(str(operand.value.name), operand.axis)
        if operand.ids is None and operand.length != 1:
            _meet_unfollowed(node, scope, operand.slot, operand.axis, reference.ids)
        return None

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
            scaled = node.op_type == "Mul" or (
                slot == 0
                and (node.op_type == "Div" or (node.op_type == "Pow" and _is_positive(constants[0])))
            )
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


class _Rows:
    """Operands whose channels lie over several axes (heads x dims)."""

    def __init__(self, node: ir.Node, scope: Scope, rank: int) -> None:
        self.node, self.scope, self.rank = node, scope, rank

    def relate(self) -> set[int]:
        """Unite what meets, and carry it to the result; or pin it. Gives the result's axes that are done."""
        node, scope = self.node, self.scope
        owners = [(value, grid) for value in node.inputs for grid in scope.grids(value)]
        back = {tuple(axis - len(scope.shape(value) or ()) for axis in grid.axes) for value, grid in owners}
        alike = len({grid.ragged for _, grid in owners}) == 1
        if len(back) > 1 or not alike or len({value for value, _ in owners}) < len(owners):
            for _, grid in owners:
                scope.pin(grid.everything(), node, f"{node.op_type} of heads or groups along different axes")
            return {self.rank + one for places in back for one in places}
        (places,) = back
        done = {self.rank + one for one in places}
        first = owners[0][1]
        for _, grid in owners[1:]:
            if grid.ids.shape != first.ids.shape:
                scope.pin(grid.everything(), node, f"{node.op_type} spreads heads or groups")
                scope.pin(first.everything(), node, f"{node.op_type} spreads heads or groups")
                return done
            scope.unite(first.ids, grid.ids)
            for line, other in zip(first.lines, grid.lines, strict=True):
                if line is not None and other is not None:
                    scope.unite(line, other)
        lengths = [self._lengths(value, places) for value in node.inputs]
        reason = _refusal(node, scope, [any(length != 1 for length in found) for found in lengths])
        if reason is not None:
            scope.pin(first.everything(), node, reason)
        terms = [self._term(slot, value, first, places) for slot, value in enumerate(node.inputs)]
        made = first.moved([self.rank + one for one in places])
        scope.carry_grid(node.outputs[0], made, _flow_of(node, scope, terms))
        return done

    def _lengths(self, value: ir.Value | None, places: Sequence[int]) -> list[int | None]:
        """Of an operand along the grid's axes; 1 where it has none there."""
        shape = self.scope.shape(value) or ()
        return [shape[place] if len(shape) + place >= 0 else 1 for place in places]

    def _term(
        self, slot: int, value: ir.Value | None, first: Component, places: Sequence[int]
    ) -> Flow | None:
        """Relate one operand to the grid; gives when it is zero, over the grid's axes."""
        node, scope = self.node, self.scope
        assert value is not None
        own = next(iter(scope.grids(value)), None)
        if own is not None:
            return scope.activation(value, own.axes)
        shape = scope.shape(value) or ()
        constant = scope.constant(value) is not None
        lengths = self._lengths(value, places)
        full = [k for k, length in enumerate(lengths) if length != 1 and first.ids.shape[k] > 1]
        if not full:
            return Constant(str(value.name), None) if constant else None
        if len(full) > 1:
            scope.pin(first.everything(), node, f"{value.name!r}, combined with these, is not followed")
            return None
        place = full[0]
        axis = len(shape) + places[place]
        line = first.lines[place]
        ids = scope.rows_alike(first) if line is None else line
        followed = None if constant else scope.ids(value, axis)
        index = np.arange(ids.size).reshape([-1 if k == place else 1 for k in range(first.ids.ndim)])
        if followed is not None:
            scope.unite(ids, followed)
            return Taken(scope.activation(value, axis), np.broadcast_to(index, first.ids.shape))
        if constant:
            scope.vector(node, slot, axis, ids, _role(node, slot), None)
            return Taken(Constant(str(value.name), axis), np.broadcast_to(index, first.ids.shape))
        _meet_unfollowed(node, scope, slot, axis, ids)
        return None


def _operand(scope: Scope, slot: int, value: ir.Value, back: int) -> Operand:
    """An operand along one axis of the result, counted from the back (-1: the last)."""
    shape = scope.shape(value) or ()
    axis = len(shape) + back
    constant = scope.constant(value)
    ids = scope.ids(value, axis) if axis >= 0 and constant is None else None
    return Operand(slot, value, constant, axis, shape[axis] if axis >= 0 else 1, ids)


def _is_positive(array: Array | None) -> bool:
    return array is not None and bool(np.all(array.astype(np.float64) > 0))


def _meet_unfollowed(node: ir.Node, scope: Scope, slot: int, axis: int, ids: IdArray) -> None:
    """An operand that is not followed has an entry for each channel along `axis`."""
    value = node.inputs[slot]
    assert value is not None
    if shorten_copies(scope, value, axis, ids):
        return
    if node.op_type == "Mul" and (scope.shape(value) or ())[axis] == ids.size:
        scope.select(node, slot, axis, ids)
    else:
        scope.pin(ids, node, f"{value.name!r}, combined with these, is not followed")


def _refusal(node: ir.Node, scope: Scope, varies: Sequence[bool]) -> str | None:
    """Why it may not be finite where a channel is zero; `varies`: which operands differ by channel."""
    if node.op_type in _LIKE_QUOTIENTS:
        divisor = node.inputs[1]
        harmless = scope.constant(divisor) is not None or not varies[1]
        if not harmless and sign_of(divisor, scope.constant) is not Sign.POSITIVE:
            return f"{node.op_type} by an activation that may be zero in a removed channel"
    elif node.op_type == "Pow" and not _is_positive(scope.constant(node.inputs[1])):
        base = node.inputs[0]
        cut = scope.constant(base) is not None and varies[0]
        if cut or sign_of(base, scope.constant) is not Sign.POSITIVE:
            return "Pow with an exponent that is not a positive constant"
    return None


def _role(node: ir.Node, slot: int) -> str:
    if node.op_type == "Mul":
        return "factor"
    return _SECOND_ROLE.get(node.op_type, "addend") if slot == 1 else "addend"


def _flow_of(node: ir.Node, scope: Scope, terms: Sequence[Flow | None]) -> Flow | None:
    """When the result is zero."""
    constants = [scope.constant(value) for value in node.inputs]
    if node.op_type in ("Max", "Min"):
        # A scalar on the far side of zero leaves zero alone.
        bound = np.minimum if node.op_type == "Min" else np.maximum
        terms = [
            term
            for array, term in zip(constants, terms, strict=True)
            if array is None or array.size != 1 or np.any(bound(array, 0))
        ]
    if node.op_type == "Where":
        terms = terms[1:]
    known = tuple(term for term in terms if term is not None)
    if node.op_type in _LIKE_SUMS or node.op_type == "Where":
        return AllOf(known) if len(known) == len(terms) else None
    if node.op_type in _LIKE_PRODUCTS:
        return AnyOf(known)
    if node.op_type == "Pow" and not _is_positive(constants[1]):
        return None
    return None if node.op_type in _NEVER_ZERO else terms[0]
