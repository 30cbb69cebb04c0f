"""Split, Slice and Gather: parts of an axis, by constant numbers.

Other axes pass through. Along the axis itself, index i of the result has the id of

    Split    offset + i            sizes are rewritten; given by number only, they are written down
    Slice    start + step * i      start and end are rewritten (step 1), those from the end too when anything
                                   goes; other steps make it a Gather
    Gather   indices[i]            indices are renumbered; a single number takes a channel and drops the axis

Gather from a constant table (an embedding) puts out channels of its own: the table's last axis is cut with
them.

Of a grid (heads x dims): along the ragged axis every part must keep equally many in each line; along another
axis (q, k and v of one projection) lines are picked and must stay.

- pins: starts, sizes or indices that are not constant, Gather indices of rank above 1, a channel taken alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Constant, Taken
from evonnx.dependency.grids import Component, Step, View
from evonnx.dependency.ids import IdArray
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope
from evonnx.dependency.sizes import Size
from evonnx.dependency.views import arrive


class IndexingRule:
    """Split, Slice, Gather."""

    operators = frozenset({"Split", "Slice", "Gather"})
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source = node.inputs[0]
        shape = scope.shape(source)
        if node.op_type == "Gather" and self._embedding(node, scope):
            return
        if (
            source is None
            or scope.constant(source) is not None
            or not (scope.tracked(source) or scope.views(source))
        ):
            scope.pin_inputs(node, f"{node.op_type} by numbers computed from these channels")
            return
        if shape is None:
            scope.pin_inputs(node, f"{node.op_type} of unknown rank")
            return
        if any(len(view.axes) == 1 for view in scope.views(source)):
            scope.grids(source)  # a single head: one axis from here on
        for parameter in node.inputs[1:]:
            if parameter is not None and scope.constant(parameter) is None and scope.tracked(parameter):
                scope.pin_value(parameter, node, f"{node.op_type} uses them as indices")
        if node.op_type == "Split":
            self._split(node, scope, source, len(shape))
        elif node.op_type == "Slice":
            self._slice(node, scope, source, len(shape))
        else:
            self._gather(node, scope, source, len(shape))

    def _embedding(self, node: ir.Node, scope: Scope) -> bool:
        """Whether the node looks up rows of a constant matrix of numbers by indices found at run time."""
        source, table, indices = node.inputs[0], scope.constant(node.inputs[0]), scope.shape(node.inputs[1])
        if source is None or table is None or indices is None or scope.constant(node.inputs[1]) is not None:
            return False
        rows = normalized_axis(node.attributes.get_int("axis", 0), table.ndim) == 0
        if not rows or table.ndim != 2 or table.dtype.kind != "f":
            return False
        scope.pin_value(node.inputs[1], node, "Gather uses them as indices")
        ids = scope.fresh(table.shape[1])
        scope.fed.append(ids)
        scope.vector(node, 0, 1, ids, "embedding", node.outputs[0])
        scope.carry(node.outputs[0], len(indices), ids, Constant(str(source.name), 1))
        return True

    def _split(self, node: ir.Node, scope: Scope, source: ir.Value, rank: int) -> None:
        axis = normalized_axis(node.attributes.get_int("axis", 0), rank)
        slot: int | str | None = None
        sizes: list[int] | None = None
        length = (scope.shape(source) or ())[axis]
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            sizes, slot = _numbers(node, scope, 1), 1
        elif "split" in node.attributes:
            sizes, slot = list(node.attributes.get_ints("split", ())), "split"
        elif length is not None:
            most = -(-length // len(node.outputs))
            sizes = [min(most, length - at) for at in range(0, length, most)] if length else None
        if sizes is None or sum(sizes) != length or len(sizes) != len(node.outputs):
            scope.pin_inputs(node, "Split by sizes that are not constant")
            return
        parts = np.split(np.arange(length), np.cumsum(sizes)[:-1])
        for other, ids in scope.tracked(source).items():
            for position, (value, part) in enumerate(zip(node.outputs, parts, strict=True)):
                if other != axis:
                    scope.carry(value, other, ids, scope.activation(source, other))
                    continue
                scope.carry(value, axis, ids[part], Taken(scope.activation(source, axis), part))
                if slot is not None:
                    scope.count(node, slot, position, ids[part])
            if other == axis and slot is None:
                scope.split_parts(node, [ids[part] for part in parts])
        if isinstance(slot, int):
            scope.claim(node, slot)
        for grid in scope.views(source):
            for position, part in enumerate(parts):
                counted = _Part(node, scope, source, grid, axis).take(part, position)
                if counted is not None and slot is not None:
                    scope.count(node, slot, position, counted)

    def _slice(self, node: ir.Node, scope: Scope, source: ir.Value, rank: int) -> None:
        slots: tuple[int | str, int | str] = (1, 2) if len(node.inputs) > 1 else ("starts", "ends")
        axes = _numbers(node, scope, 3 if len(node.inputs) > 1 else "axes")
        if axes is None and len(node.inputs) > 3 and node.inputs[3] is not None:
            scope.pin_value(source, node, "Slice along axes that are not constant")
            return
        shape = scope.shape(source) or ()
        known = axes if axes is not None else range(rank)
        at = [normalized_axis(axis, rank) for axis in known]
        followed = set(scope.tracked(source)) | {axis for grid in scope.views(source) for axis in grid.axes}
        bounds = [_numbers(node, scope, slot) for slot in slots] if followed & set(at) else [[], []]
        steps = _numbers(node, scope, 4) if len(node.inputs) > 4 else None
        for axis in sorted(followed - set(at)):
            if axis in scope.tracked(source):
                ids = scope.tracked(source)[axis]
                scope.carry(node.outputs[0], axis, ids, scope.activation(source, axis))
        for grid in scope.views(source):
            if not set(grid.axes) & set(at):
                _Part(node, scope, source, grid, -1).pass_on(0)
        for position, axis in enumerate(at):
            length = shape[axis]
            if axis not in followed:
                continue
            starts, ends = bounds
            if starts is None or ends is None or length is None or (steps is None and len(node.inputs) > 4):
                scope.pin_value(source, node, "Slice by numbers that are not constant")
                return
            step = 1 if steps is None else steps[position]
            start, end, _ = slice(starts[position], ends[position], step).indices(length)
            self._cut(node, scope, source, axis, slots, position, range(start, end, step), len(at) == 1)

    def _cut(
        self,
        node: ir.Node,
        scope: Scope,
        source: ir.Value,
        axis: int,
        slots: tuple[int | str, int | str],
        position: int,
        run: range,
        alone: bool,
    ) -> None:
        """Slice along an axis that carries channels."""
        part = np.arange(run.start, run.stop, run.step)
        bounds = (run.start, max(run.start, run.stop))
        ids = scope.ids(source, axis)
        if ids is not None and run.step != 1:
            if not alone:
                scope.pin(ids, node, "Slice with a step, along other axes too")
                return
            view = View(source, axis, part, (("take", (axis, *part.tolist())),))
            arrive(node, 0, scope, Component((axis,), ids[part], (None,), view))
            return
        counted: list[IdArray] = []
        whole = ids
        if ids is not None:
            scope.carry(node.outputs[0], axis, ids[part], Taken(scope.activation(source, axis), part))
            counted = [ids[:bound] for bound in bounds]
        for grid in scope.views(source):
            if axis in grid.axes and _Part(node, scope, source, grid, axis).take(part, 0) is not None:
                rows = whole = grid.counted(grid.ragged)
                if run.step != 1:
                    scope.pin(rows, node, "Slice with a step along what heads or groups hold")
                for outside in (rows[..., : bounds[0]], rows[..., bounds[1] :]):
                    if outside.size:
                        scope.equal_count(outside, node, "every line is sliced at one place", _lines(grid))
                counted = [rows[..., :bound] for bound in bounds]
        for slot, prefix in zip(slots, counted, strict=False):
            numbers = _numbers(node, scope, slot)
            from_end = numbers is not None and numbers[position] < 0
            scope.count(node, slot, position, prefix, whole if from_end else None)
            if isinstance(slot, int):
                scope.claim(node, slot)

    def _gather(self, node: ir.Node, scope: Scope, source: ir.Value, rank: int) -> None:
        axis = normalized_axis(node.attributes.get_int("axis", 0), rank)
        indices, value = scope.constant(node.inputs[1]), node.outputs[0]
        shape = scope.shape(node.inputs[1])
        width = None if shape is None else len(shape)
        if width is None:
            scope.pin_inputs(node, "Gather by indices of unknown rank")
            return
        for other, ids in scope.tracked(source).items():
            if other != axis:
                there = other if other < axis else other + width - 1
                scope.carry(value, there, ids, scope.activation(source, other))
            elif indices is None:
                scope.pin(ids, node, "Gather by indices that are not constant")
            else:
                numbers = indices.astype(np.int64)
                taken = np.where(numbers < 0, numbers + ids.size, numbers)
                if width == 1:
                    scope.carry(value, axis, ids[taken], Taken(scope.activation(source, axis), taken))
                else:
                    scope.pin(ids[taken], node, "Gather takes these by number")
                scope.reindex(node, 1, ids)
                scope.claim(node, 1)
        for grid in scope.views(source):
            shifted = [other if other < axis else other + width - 1 for other in grid.axes]
            if axis not in grid.axes:
                _Part(node, scope, source, grid, axis).pass_on(0, shifted)
            elif indices is None or width > 1 or grid.axes.index(axis) == grid.ragged:
                scope.pin(grid.everything(), node, "Gather from heads or groups")
            else:
                numbers = indices.astype(np.int64).reshape(-1)
                taken = np.where(numbers < 0, numbers + grid.ids.shape[grid.axes.index(axis)], numbers)
                _Part(node, scope, source, grid, axis).take(taken, 0, drop=width == 0)


class _Part:
    """Part of a grid of channels, taken along one axis of its tensor."""

    def __init__(self, node: ir.Node, scope: Scope, source: ir.Value, grid: Component, axis: int) -> None:
        self.node, self.scope, self.source, self.grid, self.axis = node, scope, source, grid, axis

    def pass_on(self, output: int, axes: Sequence[int] | None = None) -> None:
        """All of it; what was taken lies along another axis."""
        grid, value = self.grid, self.node.outputs[output]
        if grid.view is not None:
            # What a view no longer shows can't be put back by a Gather from its source.
            self.scope.grids(self.source)
            index = [one.axes for one in self.scope.views(self.source)].index(grid.axes)
            grid = self.scope.views(self.source)[index]
        flow = self.scope.activation(self.source, grid.axes)
        self.scope.carry_grid(value, grid.moved(axes or grid.axes), flow)

    def take(self, part: IdArray, output: int, *, drop: bool = False) -> IdArray | None:
        """Indices `part` of the axis; gives what counts them if that is the ragged axis, in rows (..., n)."""
        grid, scope, value = self.grid, self.scope, self.node.outputs[output]
        if self.axis not in grid.axes:
            self.pass_on(output)
            return None
        place = grid.axes.index(self.axis)
        ragged = place == grid.ragged
        if ragged:
            grid = next(one for one in scope.grids(self.source) if one.axes == grid.axes)
        else:
            line = grid.lines[place]
            assert line is not None
            scope.pin(line, self.node, f"{self.node.op_type} takes some of them by number")
        ids = grid.ids.take(part, axis=place)
        lines = [one if one is None or k != place else one[part] for k, one in enumerate(grid.lines)]
        axes, positions = (
            list(grid.axes),
            None if grid.view is None else grid.view.positions.take(part, place),
        )
        flat = np.arange(grid.ids.size).reshape(grid.ids.shape).take(part, axis=place)
        steps: tuple[Step, ...] = ()
        if grid.view is not None:
            steps = (*grid.view.steps, ("take", (self.axis, *part.tolist())))
        if not ragged and part.size == 1:
            ids, flat = ids.squeeze(place), flat.squeeze(place)
            positions = None if positions is None else positions.squeeze(place)
            del lines[place], axes[place]
        if drop:
            axes = [axis - (axis > self.axis) for axis in axes]
            shape = scope.shape(value)
            if shape is not None and None not in shape:
                steps = (*steps, ("reshape", tuple(dim for dim in shape if dim is not None)))
        view = None
        if grid.view is not None and positions is not None:
            view = replace(grid.view, positions=positions, steps=steps)
        made = Component(tuple(axes), ids, tuple(lines), view, grid.pending)
        if view is not None:
            if len(axes) > 1 or arrive(self.node, output, scope, made) is not None:
                scope.carry_view(value, made)
            return None
        scope.carry_grid(value, made, Taken(scope.activation(self.source, grid.axes), flat))
        if not ragged:
            return None
        rows = np.moveaxis(ids, place, -1)
        scope.equal_count(rows, self.node, "every line is divided at one place", _lines(grid))
        return rows


def _lines(grid: Component) -> list[IdArray | None]:
    """Lines of a grid in the order that its counts have them."""
    return [line for line in grid.lines if line is not None]


def _numbers(node: ir.Node, scope: Scope, slot: int | str) -> list[int] | None:
    """Numbers at an input or attribute; those computed from channel counts are taken as they are."""
    if isinstance(slot, str):
        found = node.attributes.get_ints(slot)
        return None if found is None else list(found)
    if len(node.inputs) <= slot or node.inputs[slot] is None:
        return None
    array = scope.constant(node.inputs[slot])
    if array is not None:
        return [int(number) for number in array.ravel()]
    entries = scope.sizes_at(node.inputs[slot])
    if entries is None or not scope.freeze(node, slot):
        return None
    return [int(entry.number or 0) if isinstance(entry, Size) else int(entry) for entry in entries.ravel()]
