"""Split, Slice and Gather: parts of an axis, by constant numbers.

Other axes pass through. Along the axis itself, index i of the result has the id of

    Split    offset + i            sizes are rewritten; given by number only, every part must keep equally
    many Slice    start + step * i      start and end are rewritten (step 1)
    Gather   indices[i]            indices are renumbered

- pins: starts, sizes or indices that are not constant, steps other than 1, Gather indices of rank other than
1.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Taken
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope


class IndexingRule:
    """Split, Slice, Gather."""

    operators = frozenset({"Split", "Slice", "Gather"})
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source = node.inputs[0]
        tracked = scope.tracked(source)
        shape = scope.shape(source)
        if source is None or scope.constant(source) is not None or not tracked:
            scope.pin_inputs(node, f"{node.op_type} by numbers computed from these channels")
            return
        if shape is None:
            scope.pin_inputs(node, f"{node.op_type} of unknown rank")
            return
        for parameter in node.inputs[1:]:
            if parameter is not None and scope.constant(parameter) is None and scope.tracked(parameter):
                scope.pin_value(parameter, node, f"{node.op_type} uses them as indices")
        if node.op_type == "Split":
            self._split(node, scope, source, len(shape))
        elif node.op_type == "Slice":
            self._slice(node, scope, source, len(shape))
        else:
            self._gather(node, scope, source, len(shape))

    def _split(self, node: ir.Node, scope: Scope, source: ir.Value, rank: int) -> None:
        axis = normalized_axis(node.attributes.get_int("axis", 0), rank)
        for other, ids in scope.tracked(source).items():
            if other != axis:
                for value in node.outputs:
                    scope.carry(value, other, ids, scope.activation(source, other))
                continue
            slot: int | str | None = None
            sizes: list[int] | None = None
            if len(node.inputs) > 1 and node.inputs[1] is not None:
                array = scope.constant(node.inputs[1])
                sizes, slot = (None, None) if array is None else ([int(size) for size in array], 1)
            elif "split" in node.attributes:
                sizes, slot = list(node.attributes.get_ints("split", ())), "split"
            elif ids.size % len(node.outputs) == 0:
                sizes = [ids.size // len(node.outputs)] * len(node.outputs)
            if sizes is None or sum(sizes) != ids.size:
                scope.pin(ids, node, "Split by sizes that are not constant")
                continue
            parts = np.split(np.arange(ids.size), np.cumsum(sizes)[:-1])
            for position, (value, part) in enumerate(zip(node.outputs, parts, strict=True)):
                scope.carry(value, axis, ids[part], Taken(scope.activation(source, axis), part))
                if slot is not None:
                    scope.count(node, slot, position, ids[part])
            if slot is None:
                scope.equal_count([ids[part] for part in parts], node, "Split into equal parts")
            elif isinstance(slot, int):
                scope.claim(node, slot)

    def _slice(self, node: ir.Node, scope: Scope, source: ir.Value, rank: int) -> None:
        slots: tuple[int | str, int | str] = (1, 2) if len(node.inputs) > 1 else ("starts", "ends")
        starts, ends = (self._numbers(node, scope, slot) for slot in slots)
        axes = self._numbers(node, scope, 3 if len(node.inputs) > 1 else "axes")
        steps = self._numbers(node, scope, 4) if len(node.inputs) > 4 else None
        if (
            starts is None
            or ends is None
            or (axes is None and len(node.inputs) > 3 and node.inputs[3] is not None)
        ):
            scope.pin_value(source, node, "Slice by numbers that are not constant")
            return
        at = [normalized_axis(axis, rank) for axis in (axes if axes is not None else range(len(starts)))]
        for axis, ids in scope.tracked(source).items():
            if axis not in at:
                scope.carry(node.outputs[0], axis, ids, scope.activation(source, axis))
                continue
            position = at.index(axis)
            if (steps is not None and steps[position] != 1) or (steps is None and len(node.inputs) > 4):
                scope.pin(ids, node, "Slice with a step")
                continue
            start, end, _ = slice(starts[position], ends[position]).indices(ids.size)
            part = np.arange(start, max(start, end))
            scope.carry(node.outputs[0], axis, ids[part], Taken(scope.activation(source, axis), part))
            for slot, bound in zip(slots, (start, end), strict=True):
                scope.count(node, slot, position, ids[:bound])
                if isinstance(slot, int):
                    scope.claim(node, slot)

    def _numbers(self, node: ir.Node, scope: Scope, slot: int | str) -> list[int] | None:
        if isinstance(slot, str):
            found = node.attributes.get_ints(slot)
            return None if found is None else list(found)
        if len(node.inputs) <= slot or node.inputs[slot] is None:
            return None
        array = scope.constant(node.inputs[slot])
        return None if array is None else [int(number) for number in array.ravel()]

    def _gather(self, node: ir.Node, scope: Scope, source: ir.Value, rank: int) -> None:
        axis = normalized_axis(node.attributes.get_int("axis", 0), rank)
        indices = scope.constant(node.inputs[1])
        width = None if indices is None else indices.ndim
        for other, ids in scope.tracked(source).items():
            if other < axis:
                scope.carry(node.outputs[0], other, ids, scope.activation(source, other))
            elif other > axis and width is not None:
                scope.carry(node.outputs[0], other + width - 1, ids, scope.activation(source, other))
            elif other > axis:
                scope.pin(ids, node, "Gather by indices of unknown rank")
            elif indices is None or indices.ndim != 1:
                scope.pin(ids, node, "Gather by indices that are not a constant vector")
            else:
                numbers = indices.astype(np.int64)
                taken = np.where(numbers < 0, numbers + ids.size, numbers)
                scope.carry(node.outputs[0], axis, ids[taken], Taken(scope.activation(source, axis), taken))
                scope.reindex(node, 1, ids)
                scope.claim(node, 1)
