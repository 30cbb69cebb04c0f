"""Transpose and Concat.

    Transpose   y axis k <-> x axis perm[k]
    Concat      along its axis: y's ids are the inputs' one after another; along any other axis all unite.
                Of grids (heads x dims): along the ragged axis the same, lines united. A constant among them
                (a class token, added zeros) is cut with its channels ("embedding")

- pins: along the joined axis, what is joined with channels and not followed gets pinned ids of its own; along
  other axes, followed ones that meet one that is not.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Constant, Flow, Joined
from evonnx.dependency.grids import Component
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope


class LayoutRule:
    """Transpose and Concat."""

    operators = frozenset({"Transpose", "Concat"})
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        if node.op_type == "Transpose":
            self._transpose(node, scope)
        else:
            self._concat(node, scope)

    def _transpose(self, node: ir.Node, scope: Scope) -> None:
        source, value = node.inputs[0], node.outputs[0]
        tracked, views = scope.tracked(source), scope.views(source)
        if source is None or not (tracked or views):
            return
        shape = scope.shape(source)
        perm = node.attributes.get_ints("perm")
        if perm is None:
            if shape is None:
                scope.pin_inputs(node, "Transpose of an unknown rank")
                return
            perm = tuple(reversed(range(len(shape))))
        for view in views:
            steps = (*view.view.steps, ("transpose", tuple(perm))) if view.view is not None else ()
            there = [list(perm).index(axis) for axis in view.axes]
            moved = view.moved(there, steps)
            if view.view is not None:
                scope.carry_view(value, moved)
            else:
                scope.carry_grid(value, moved, scope.activation(source, view.axes))
        for axis, ids in tracked.items():
            scope.carry(value, list(perm).index(axis), ids, scope.activation(source, axis))
        scope.continue_layer(source, value, zero_preserving=True)

    def _concat(self, node: ir.Node, scope: Scope) -> None:
        operands = [operand for operand in node.inputs if operand is not None]
        value = node.outputs[0]
        activations = [operand for operand in operands if scope.constant(operand) is None]
        if not any(scope.components(operand) for operand in activations):
            return
        shapes = [scope.shape(operand) for operand in operands]
        rank = next((len(shape) for shape in shapes if shape is not None), None)
        if rank is None or any(shape is None for shape in shapes):
            scope.pin_inputs(node, "Concat of unknown rank")
            return
        joined = normalized_axis(node.attributes.get_int("axis", 1), rank)
        self._grids(node, scope, operands, joined)
        for axis in sorted({axis for operand in activations for axis in scope.tracked(operand)}):
            if axis == joined:
                self._join(node, scope, value, axis)
                continue
            found = [None if scope.constant(o) is not None else scope.ids(o, axis) for o in operands]
            first = next(ids for ids in found if ids is not None)
            for slot, (ids, operand) in enumerate(zip(found, operands, strict=True)):
                if ids is None and scope.constant(operand) is not None and first.size > 1:
                    scope.vector(node, slot, axis, first, "embedding", value)
                elif ids is None:
                    scope.pin(first, node, f"{operand.name!r}, joined to these, is not followed")
                else:
                    scope.unite(first, ids)
            scope.carry(value, axis, first)

    def _grids(self, node: ir.Node, scope: Scope, operands: list[ir.Value], joined: int) -> None:
        """Channels over several axes: all operands must have them along the same ones."""
        found = [scope.grids(operand) for operand in operands]
        if not any(found):
            return
        first = found[0][0] if found[0] else None
        alike = first is not None and all(
            len(grids) == 1 and grids[0].axes == first.axes and grids[0].ragged == first.ragged
            for grids in found
        )
        if first is None or not alike or (joined in first.axes and first.axes.index(joined) != first.ragged):
            for grid in (grid for grids in found for grid in grids):
                scope.pin(grid.everything(), node, "Concat of heads or groups with something else")
            return
        for grids in found[1:]:
            for line, other in zip(first.lines, grids[0].lines, strict=True):
                if line is not None and other is not None:
                    scope.unite(line, other)
        place = first.axes.index(joined) if joined in first.axes else None
        if place is None:
            for grids in found[1:]:
                scope.unite(first.ids, grids[0].ids)
            scope.carry_grid(node.outputs[0], first)
            return
        ids = np.concatenate([grids[0].ids for grids in found], axis=place)
        scope.carry_grid(node.outputs[0], Component(first.axes, ids, first.lines))

    def _join(self, node: ir.Node, scope: Scope, value: ir.Value, axis: int) -> None:
        parts = []
        terms: list[tuple[Flow | None, int]] = []
        for slot, operand in enumerate(node.inputs):
            if operand is not None and scope.constant(operand) is not None:
                own = scope.fresh((scope.shape(operand) or ())[axis] or 0)
                scope.fed.append(own)
                scope.vector(node, slot, axis, own, "embedding", value)
                terms.append((Constant(str(operand.name), axis), own.size))
                parts.append(own)
                continue
            ids = scope.ids(operand, axis)
            length = (scope.shape(operand) or ())[axis] if ids is None else ids.size
            if ids is None and length is not None:
                ids = scope.fresh(length)
                scope.pin(ids, node, f"{operand.name if operand else ''!r}, joined here, is not followed")
                terms.append((None, length))
            elif ids is not None and operand is not None:
                terms.append((scope.activation(operand, axis), ids.size))
            if ids is None:
                scope.pin_inputs(node, "Concat with a part of unknown length")
                return
            parts.append(ids)
        scope.carry(value, axis, np.concatenate(parts), Joined(tuple(terms)))
