"""Reshape, Flatten, Squeeze and Unsqueeze.

Both shapes are split into the shortest blocks of equal product; lengths of 1 belong to no block. Per block:

    one axis -> one axis          the same ids
    several -> one (flatten)      ids repeated in row-major order: index (c, h, w) has the id of c
    one or several -> several     along the one new axis on which ids vary (undoing a flatten); else a grid
                                  over the new axes on which they vary: heads x dims, groups x members. The
                                  last is ragged, lines of the others have ids of their own
    axes of a grid -> one         row-major again: the ids as they stood before the split

Until something computes with a grid it is only a *view*. A view that comes back to one axis is a relabelling
of the channels (a shuffle): a Gather takes its place where channels go, whatever each line keeps.
A target's entry for a followed axis is rewritten where it is written down; -1 and 0 (copied from an axis of
the same count), and an entry computed as the length of an axis of the same count, stay as they are.

- pins: a block with two followed sets of channels, a grid flattened in another order after something computed
  with it, one that is split anew, entries that are computed otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Taken
from evonnx.dependency.grids import Component, Equal, Placed, Step, View, line_component, place
from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope
from evonnx.dependency.sizes import Number, Size
from evonnx.dependency.views import arrive

Block = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes before, axes after."""


def blocks_of(before: Sequence[int], after: Sequence[int]) -> list[Block] | None:
    """Shortest aligned runs of axes with equal products; None where the products differ.

    Axes of length 1 are left out.
    """
    one = [axis for axis, length in enumerate(before) if length != 1]
    other = [axis for axis, length in enumerate(after) if length != 1]
    found: list[Block] = []
    i = j = 0
    while i < len(one) and j < len(other):
        start_i, start_j = i, j
        left, right = before[one[i]], after[other[j]]
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(one):
                left, i = left * before[one[i]], i + 1
            elif right < left and j < len(other):
                right, j = right * after[other[j]], j + 1
            else:
                return None
        found.append((tuple(one[start_i:i]), tuple(other[start_j:j])))
    return found if i == len(one) and j == len(other) else None


class ReshapingRule:
    """Reshape, Flatten, Squeeze, Unsqueeze."""

    operators = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
    size_slots = frozenset({1})
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        if source is None:
            return
        components = [line_component(axis, ids) for axis, ids in scope.tracked(source).items()]
        components += scope.views(source)
        if not components:
            if len(node.inputs) > 1:
                self._target(node, scope, source, value)
            return
        before, after = scope.shape(source), scope.shape(value)
        if before is None or after is None or None in before or None in after:
            scope.pin_inputs(node, f"{node.op_type} between shapes that are not known")
            return
        was = tuple(dim for dim in before if dim is not None)
        now = tuple(dim for dim in after if dim is not None)
        blocks = blocks_of(was, now)
        if blocks is None:
            scope.pin_inputs(node, f"{node.op_type} between shapes of different size")
            return
        for component in components:
            others = {axis for other in components if other is not component for axis in other.axes}
            _Reshaped(node, scope, component, was, now, blocks, others).carry()
        self._target(node, scope, source, value)
        scope.continue_layer(source, value, zero_preserving=True)

    def _target(self, node: ir.Node, scope: Scope, source: ir.Value, value: ir.Value) -> None:
        """Make the target shape follow."""
        if node.op_type != "Reshape" or len(node.inputs) < 2:
            if len(node.inputs) > 1:
                scope.claim(node, 1)
            elif node.op_type == "Reshape":  # opset 1
                scope.pin_inputs(node, "the target of Reshape is an attribute")
            return
        entries = scope.sizes_at(node.inputs[1])
        if entries is None:
            scope.pin_inputs(node, "the target of Reshape is computed in a way that is not followed")
            return
        scope.claim(node, 1)
        for position, entry in enumerate(entries):
            self._entry(node, scope, source, value, position, entry)

    def _entry(
        self, node: ir.Node, scope: Scope, source: ir.Value, value: ir.Value, position: int, entry: object
    ) -> None:
        copies_zero = not node.attributes.get_int("allowzero", 0)
        ids = scope.counted(str(value.name), position)
        if isinstance(entry, Size):
            counts = [scope.counted(*key) for key in sorted(entry.depends)]
            agrees = bool(counts) and entry.exact and all(scope.same(ids, count) for count in counts)
            if not agrees and (counts or ids is not None):
                scope.pin_sizes(
                    np.asarray([entry], dtype=object), node, "Reshape uses their number otherwise"
                )
                if ids is not None:
                    scope.pin(ids, node, "Reshape sets their number at run time")
            return
        assert isinstance(entry, (int, np.integer))
        if entry == 0 and copies_zero:
            origin = scope.counted(str(source.name), position)
            if ids is not None and not scope.same(ids, origin):
                scope.pin(ids, node, "Reshape copies their number from another axis")
            elif ids is None and origin is not None:
                scope.pin(origin, node, "Reshape copies their number to another axis")
        elif entry > 0:
            scope.need_number(entry, ids)
            if ids is not None and scope.constant(node.inputs[1]) is not None:
                scope.count(node, 1, position, ids)
            elif ids is not None and not isinstance(entry, Number):
                scope.pin(ids, node, "Reshape is told their number by a part of a computed shape")


class _Reshaped:
    """One component on its way through a Reshape."""

    def __init__(
        self,
        node: ir.Node,
        scope: Scope,
        component: Component,
        was: tuple[int, ...],
        now: tuple[int, ...],
        blocks: Sequence[Block],
        others: set[int],
    ) -> None:
        self.node, self.scope, self.component = node, scope, component
        self.was, self.now, self.blocks, self.others = was, now, blocks, others
        source = node.inputs[0]
        assert source is not None
        self.source = source

    def carry(self) -> None:
        """Relate it to the result, or pin it."""
        reason = self._refusal()
        if reason is None:
            reason = self._carry()
        if reason is not None:
            self.scope.pin(self.component.everything(), self.node, reason)

    def _refusal(self) -> str | None:
        name = self.node.op_type
        for axis in self.component.axes:
            if self.was[axis] == 1:
                return f"{name} of a single channel"
        for old, _ in self.blocks:
            if set(old) & set(self.component.axes) and set(old) & self.others:
                return f"{name} merges two axes that carry channels"
        return None

    def _carry(self) -> str | None:
        """None, or why it can't be done."""
        component = self.component
        order: list[int] = []  # places of the component's axes, block by block
        parts: list[tuple[list[int], Placed]] = []
        for old, new in self.blocks:
            mine = sorted((k for k, axis in enumerate(component.axes) if axis in old), key=self._axis)
            if mine:
                axes = [component.axes[k] for k in mine]
                firsts = [component.firsts(k) for k in mine]
                parts.append((mine, place(axes, firsts, self.was, self.now, old, new)))
                order += mine
        if any(not placed.axes for _, placed in parts):
            return f"{self.node.op_type} spreads channels in a way that is not followed"
        axes = [axis for _, placed in parts for axis in placed.axes]
        shape = [self.now[axis] for axis in axes]
        ids = self._rearranged(component.ids, order, parts).reshape(shape)
        positions = None
        if component.view is not None:
            positions = self._rearranged(component.view.positions, order, parts).reshape(shape)
        flat = self._rearranged(np.arange(component.ids.size).reshape(component.ids.shape), order, parts)
        steps: tuple[Step, ...] = (("reshape", self.now),)
        if component.view is not None:
            assert positions is not None
            steps = (*component.view.steps, *steps)
            if len(axes) == 1:
                there = replace(component.view, positions=positions, steps=steps)
                made = Component((axes[0],), ids, (None,), there, component.pending)
                if arrive(self.node, 0, self.scope, made) is None:
                    return None
                if len(component.axes) == 1:
                    self.scope.carry_view(self.node.outputs[0], made)
                    return None
                # Not a mere relabelling: the heads or groups are used where they lie.
                self.component = next(
                    one for one in self.scope.grids(self.source) if one.axes == component.axes
                )
                return self._carry()
        lines = self._lines(parts)
        if isinstance(lines, str):
            return lines
        if lines[-1] is not None:
            return f"{self.node.op_type} puts heads or groups last"
        pending = component.pending
        view = component.view
        if len(axes) > 1 and len(component.axes) == 1:
            view = View(self.source, component.axes[0], flat.reshape(shape), steps)
            what = " x ".join(map(str, shape))
            reason = f"{self.node.op_type} splits them into {what}, equally many each"
            pending = (Equal(ids, tuple(lines[:-1]), self.node, reason),)
        elif view is not None:
            assert positions is not None
            view = View(view.source, view.axis, positions, steps)
        made = Component(tuple(axes), ids, tuple(lines), view, pending)
        place_before = component.axes if len(component.axes) > 1 else component.axes[0]
        flow = Taken(self.scope.activation(self.source, place_before), flat.reshape(shape))
        self.scope.carry_grid(self.node.outputs[0], made, flow)
        return None

    def _axis(self, place_: int) -> int:
        return self.component.axes[place_]

    def _rearranged(
        self, array: IdArray, order: Sequence[int], parts: Sequence[tuple[list[int], Placed]]
    ) -> IdArray:
        """An array over the component's axes, taken at the new places: one axis per block."""
        array = array.transpose(order)
        sizes = [int(np.prod([self.was[self.component.axes[k]] for k in mine])) for mine, _ in parts]
        array = array.reshape(sizes)
        return array[np.ix_(*(placed.indices.ravel() for _, placed in parts))]

    def _lines(self, parts: Sequence[tuple[list[int], Placed]]) -> list[IdArray | None] | str:
        """Lines of every new axis, or why they can't be told."""
        scope, component = self.scope, self.component
        lines: list[IdArray | None] = []
        for mine, placed in parts:
            before = [component.lines[k] for k in mine]
            ragged = any(line is None for line in before)
            if len(mine) == 1 and len(placed.axes) == 1:
                line = before[0]
                lines.append(None if line is None else line[placed.indices])
            elif len(mine) == 1 and ragged:
                if len(component.axes) > 1:
                    return f"{self.node.op_type} splits the members of a head or group"
                outer = [scope.line_ids(self.now[axis]) for axis in placed.axes[:-1]]
                lines += [*outer, None]
            elif len(mine) == 1:
                lines += self._split_lines(before[0], placed)
            elif len(placed.axes) == 1 and ragged and before[-1] is None:
                lines.append(None)
            elif len(placed.axes) == 1 and not ragged:
                lines.append(self._merged_lines(before, placed))
            else:
                return f"{self.node.op_type} flattens heads or groups in another order, or splits them anew"
        return lines

    def _split_lines(self, line: IdArray | None, placed: Placed) -> list[IdArray | None]:
        """Lines (of query heads) in two axes: the first can go, with all of the second, which stays whole."""
        assert line is not None
        table = line[placed.indices]
        rest = [self.scope.line_ids(length) for length in table.shape[1:]]
        for ids in rest:
            self.scope.pin(ids, self.node, f"{self.node.op_type} splits heads or groups")
        first = table.reshape(table.shape[0], -1)
        self.scope.unite(np.broadcast_to(first[:, :1], first.shape), first)
        return [first[:, 0], *rest]

    def _merged_lines(self, before: Sequence[IdArray | None], placed: Placed) -> IdArray:
        """Lines of several axes in one: the last can go, with all of the others, which stay whole."""
        for line in before[:-1]:
            assert line is not None
            self.scope.pin(line, self.node, f"{self.node.op_type} merges heads or groups with others")
        last = before[-1]
        assert last is not None
        return last[placed.indices % last.size]
