"""Transpose and Concat.

    Transpose   y axis k <-> x axis perm[k]
    Concat      along its axis: y's ids are the inputs' one after another; along any other axis all are united

- pins: along the joined axis, what is joined with channels and not followed gets pinned ids of its own; along
other
  axes, followed ones that meet one that is not.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Flow, Joined
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope


class LayoutRule:
    """Transpose and Concat."""

    operators = frozenset({"Transpose", "Concat"})
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        if node.op_type == "Transpose":
            self._transpose(node, scope)
        else:
            self._concat(node, scope)

    def _transpose(self, node: ir.Node, scope: Scope) -> None:
        source, value = node.inputs[0], node.outputs[0]
        tracked = scope.tracked(source)
        if source is None or not tracked:
            return
        shape = scope.shape(source)
        perm = node.attributes.get_ints("perm")
        if perm is None:
            if shape is None:
                scope.pin_inputs(node, "Transpose of an unknown rank")
                return
            perm = tuple(reversed(range(len(shape))))
        moved = {axis: list(perm).index(axis) for axis in tracked}
        scope.pass_through(source, value, zero_preserving=True, axes=moved)

    def _concat(self, node: ir.Node, scope: Scope) -> None:
        operands = [operand for operand in node.inputs if operand is not None]
        value = node.outputs[0]
        activations = [operand for operand in operands if scope.constant(operand) is None]
        if not any(scope.tracked(operand) for operand in activations):
            return
        shapes = [scope.shape(operand) for operand in operands]
        rank = next((len(shape) for shape in shapes if shape is not None), None)
        if rank is None or any(shape is None for shape in shapes):
            scope.pin_inputs(node, "Concat of unknown rank")
            return
        joined = normalized_axis(node.attributes.get_int("axis", 1), rank)
        for axis in sorted({axis for operand in activations for axis in scope.tracked(operand)}):
            if axis == joined:
                self._join(node, scope, value, axis)
                continue
            found = [None if scope.constant(o) is not None else scope.ids(o, axis) for o in operands]
            first = next(ids for ids in found if ids is not None)
            for ids, operand in zip(found, operands, strict=True):
                if ids is None:
                    scope.pin(first, node, f"{operand.name!r}, joined to these, is not followed")
                else:
                    scope.unite(first, ids)
            scope.carry(value, axis, first)

    def _join(self, node: ir.Node, scope: Scope, value: ir.Value, axis: int) -> None:
        parts = []
        terms: list[tuple[Flow | None, int]] = []
        for operand in node.inputs:
            ids = None if scope.constant(operand) is not None else scope.ids(operand, axis)
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
