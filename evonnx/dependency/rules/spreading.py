"""Expand, Tile and ConstantOfShape.

    Expand            axes are aligned from the right; an axis of the same length keeps its ids
    Tile              an axis repeated r times has its ids r times in a row
    ConstantOfShape   an axis as long as a followed one has that one's ids

Entries of the target shape that count channels are rewritten, or follow by themselves where they are computed
as the length of an axis with the same ids. An axis of one entry that is spread to the length of a followed
axis (`expand_as`) gets that axis's ids; spread to a constant length, it may follow later (see `copies.py`).
A constant that is spread (a class token) has channels of its own along its last axis, as an embedding has.

- pins: a followed axis of one entry that is spread, numbers computed otherwise.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Constant, Flow, Taken, Zeros
from evonnx.dependency.ids import IdArray
from evonnx.dependency.rules._targets import counted_by, follow_entry
from evonnx.dependency.scope import Scope
from evonnx.dependency.sizes import Sizes


class SpreadingRule:
    """Expand, Tile, ConstantOfShape."""

    operators = frozenset({"Expand", "Tile", "ConstantOfShape"})
    size_slots = frozenset({0, 1})
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        target = node.inputs[0 if node.op_type == "ConstantOfShape" else 1]
        entries = scope.sizes_at(target)
        if node.op_type != "ConstantOfShape" and node.inputs[0] is not None:
            spread = scope.sizes.get(str(node.inputs[0].name))
            if spread is not None:
                scope.pin_sizes(spread, node, f"{node.op_type} computes with their number")
        if entries is None:
            scope.pin_inputs(node, f"{node.op_type} by numbers computed in a way that is not followed")
        elif node.op_type == "ConstantOfShape":
            self._fill(node, scope, entries)
        elif node.op_type == "Expand":
            self._expand(node, scope, entries)
        else:
            self._tile(node, scope, entries)

    def _fill(self, node: ir.Node, scope: Scope, entries: Sizes) -> None:
        given = node.attributes.get("value")
        zero = given is None or not np.any(given.as_tensor().numpy())
        for axis, entry in enumerate(entries):
            ids = _line(counted_by(scope, entry))
            if ids is not None:
                scope.carry(node.outputs[0], axis, ids, Zeros(ids.size) if zero else None)
            follow_entry(node, scope, 0, axis, entry, ids)

    def _expand(self, node: ir.Node, scope: Scope, entries: Sizes) -> None:
        source, value = node.inputs[0], node.outputs[0]
        before, after = scope.shape(source), scope.shape(value)
        if source is None or before is None or after is None:
            scope.pin_inputs(node, "Expand of unknown rank")
            return
        shift = len(after) - len(before)
        self._token(node, scope, shift)
        for component in [] if scope.constant(source) is not None else scope.components(source):
            spread = [axis for axis in component.axes if before[axis] != after[axis + shift]]
            if spread:
                length = after[spread[0] + shift]
                scope.pin(component.everything(), node, f"one channel is spread over {length} by Expand")
                continue
            place = component.axes if len(component.axes) > 1 else component.axes[0]
            moved = component.moved([axis + shift for axis in component.axes])
            scope.carry_grid(value, moved, scope.activation(source, place))
        for axis in range(len(after)):
            position = axis - len(after) + len(entries)
            if position < 0:
                continue
            entry, own = entries[position], axis - shift
            ids = scope.counted(str(value.name), axis)
            wanted = _line(counted_by(scope, entry)) if own < 0 or before[own] == 1 else None
            if ids is None and wanted is not None:
                scope.carry(value, axis, wanted)
                ids = wanted
            if ids is None or not _is_one(entry):
                follow_entry(node, scope, 1, position, entry, ids)

    def _token(self, node: ir.Node, scope: Scope, shift: int) -> None:
        """A constant that is spread over a batch has channels of its own along its last axis."""
        source, value = node.inputs[0], node.outputs[0]
        constant = scope.constant(source)
        if source is None or constant is None or constant.ndim < 2 or constant.dtype.kind != "f":
            return
        axis = constant.ndim - 1
        if constant.shape[axis] == 1:
            return
        ids = scope.fresh(constant.shape[axis])
        scope.fed.append(ids)
        scope.vector(node, 0, axis, ids, "embedding", value)
        scope.carry(value, axis + shift, ids, Constant(str(source.name), axis))

    def _tile(self, node: ir.Node, scope: Scope, entries: Sizes) -> None:
        source, value = node.inputs[0], node.outputs[0]
        scope.pin_sizes(entries, node, "Tile repeats by their number")
        if source is None or scope.constant(source) is not None:
            return
        for grid in scope.grids(source):
            if any(not _is_one(entries[axis]) for axis in grid.axes):
                scope.pin(grid.everything(), node, "Tile repeats heads or groups")
            else:
                scope.carry_grid(value, grid, scope.activation(source, grid.axes))
        for axis, ids in scope.tracked(source).items():
            times = entries[axis] if axis < len(entries) else None
            if not isinstance(times, (int, np.integer)):
                scope.pin(ids, node, "Tile repeats them as often as is found at run time")
                continue
            if times != 1 and ids.size == 1:
                scope.pin(ids, node, f"one channel is spread over {times} by Tile")
                continue
            flow: Flow = scope.activation(source, axis)
            if times == 1:
                scope.carry(value, axis, ids, flow)
                continue
            repeated = np.tile(np.arange(ids.size), int(times))
            scope.carry(value, axis, ids[repeated], Taken(flow, repeated))


def _is_one(entry: object) -> bool:
    return isinstance(entry, (int, np.integer)) and entry == 1


def _line(ids: IdArray | None) -> IdArray | None:
    """Ids of channels along one axis; None for rows."""
    return ids if ids is not None and ids.ndim == 1 else None
