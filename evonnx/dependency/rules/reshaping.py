"""Reshape, Flatten, Squeeze and Unsqueeze.

Both shapes are split into the shortest blocks of equal product; lengths of 1 belong to no block. Per block:

    one axis -> one axis          the same ids
    several -> one (flatten)      the followed axis's ids, repeated in row-major order: index (c, h, w) has
    the id of c one or several -> several     followed where the ids vary along one new axis only (undoing a
    flatten)

A constant target's entry for a followed axis is rewritten; -1 and 0 (copied from an axis with the same ids),
and an entry computed as the length of an axis with the same ids, stay as they are.

- pins: a block with two followed axes, a split into heads or groups, entries that are computed otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Activation, Flow, Taken
from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope
from evonnx.dependency.sizes import Size

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

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        tracked = scope.tracked(source)
        if source is None or not tracked:
            if len(node.inputs) > 1:
                scope.pin_value(
                    node.inputs[1], node, "the shape of something else is computed from their number"
                )
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
        for axis, ids in tracked.items():
            if was[axis] == 1:
                scope.pin(ids, node, f"{node.op_type} of a single channel")
        for old, new in blocks:
            followed = [axis for axis in old if axis in tracked]
            if len(followed) > 1:
                for axis in followed:
                    scope.pin(tracked[axis], node, f"{node.op_type} merges two axes that carry channels")
            elif followed:
                self._block(node, scope, followed[0], was, now, (old, new))
        self._target(node, scope, source, value)
        scope.continue_layer(source, value, zero_preserving=True)

    def _block(
        self, node: ir.Node, scope: Scope, axis: int, was: tuple[int, ...], now: tuple[int, ...], block: Block
    ) -> None:
        old, new = block
        source, value = node.inputs[0], node.outputs[0]
        assert source is not None
        ids = scope.tracked(source)[axis]
        old_shape, new_shape = [was[a] for a in old], [now[a] for a in new]
        place = [1] * len(old)
        place[old.index(axis)] = ids.size
        positions = np.broadcast_to(np.arange(ids.size).reshape(place), old_shape).reshape(new_shape)
        if len(new) == 1:
            flow: Flow = Activation(str(source.name), axis)
            if len(old) > 1:
                flow = Taken(flow, positions)
            scope.carry(value, new[0], ids[positions], flow)
            return
        spread = ids[positions]
        for place_new, axis_new in enumerate(new):
            others = tuple(other for other in range(len(new)) if other != place_new)
            line: IdArray = spread[tuple(slice(None) if a == place_new else 0 for a in range(len(new)))]
            if np.array_equal(spread, np.broadcast_to(np.expand_dims(line, others), spread.shape)):
                scope.carry(value, axis_new, line)
                return
        scope.pin(ids, node, f"{node.op_type} splits the channels into {' x '.join(map(str, new_shape))}")

    def _target(self, node: ir.Node, scope: Scope, source: ir.Value, value: ir.Value) -> None:
        """Make the target shape follow."""
        if node.op_type != "Reshape":
            if len(node.inputs) > 1:
                scope.claim(node, 1)
            return
        entries = scope.sizes_at(node.inputs[1])
        carried = scope.tracked(value)
        if entries is None:
            scope.pin_inputs(node, "the target of Reshape is computed in a way that is not followed")
            return
        scope.claim(node, 1)
        copies_zero = not node.attributes.get_int("allowzero", 0)
        for position, entry in enumerate(entries):
            ids = carried.get(position)
            if isinstance(entry, Size):
                wanted = all(ids is not None and self._same(ids, scope.axes[key]) for key in entry.depends)
                if not (wanted and (entry.exact or not entry.depends)) or (
                    ids is not None and not entry.depends
                ):
                    scope.pin_sizes(
                        np.asarray([entry], dtype=object), node, "Reshape uses their number otherwise"
                    )
                    if ids is not None:
                        scope.pin(ids, node, "Reshape sets their number at run time")
            elif ids is not None and entry == 0 and copies_zero:
                origin = scope.ids(source, position)
                if origin is None or not self._same(ids, origin):
                    scope.pin(ids, node, "Reshape copies their number from another axis")
            elif ids is not None and entry > 0:
                scope.count(node, 1, position, ids)
            elif (
                ids is None
                and entry == 0
                and copies_zero
                and (other := scope.ids(source, position)) is not None
            ):
                scope.pin(other, node, "Reshape copies their number to another axis")

    def _same(self, one: IdArray, other: IdArray) -> bool:
        return one.size == other.size and np.array_equal(one, other)
