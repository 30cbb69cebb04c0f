"""Channels that lie over several axes of a tensor: heads x dims, groups x members.

A `Component` is one set of followed channels of a tensor: over one axis, or over several. Over several, one
axis is *ragged*: lines of the other axes may keep different indices along it, but equally many. Every line of
another axis (a head, a group) has an id of its own and goes only with all its members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.dependency.ids import IdArray

Step = tuple[str, tuple[int, ...]]
"""("reshape", shape), ("transpose", permutation) or ("take", (axis, indices ...)) with the axis kept."""


@dataclass(frozen=True)
class View:
    """What has only been relabelled since it lay along one axis of `source`."""

    source: ir.Value
    axis: int
    positions: IdArray
    """Index along that axis, in the shape of the component's ids."""
    steps: tuple[Step, ...]
    """From `source` to the tensor."""


@dataclass(frozen=True)
class Equal:
    """An equal-count constraint that holds once the channels are used where they lie."""

    ids: IdArray
    """Shape (..., M)."""
    lines: tuple[IdArray | None, ...]
    node: ir.Node
    reason: str


@dataclass(frozen=True)
class Component:
    """One set of followed channels of a tensor."""

    axes: tuple[int, ...]
    """Of the tensor, one per axis of `ids`."""
    ids: IdArray
    lines: tuple[IdArray | None, ...]
    """Per axis: ids of its lines; None for the ragged one, which is the last."""
    view: View | None = None
    pending: tuple[Equal, ...] = ()
    """Constraints to register when the channels are used where they lie."""

    def firsts(self, place: int) -> NDArray[np.int64]:
        """Per index along one of the axes, the first index at which the same channels lie."""
        rows = np.moveaxis(self.ids, place, 0).reshape(self.ids.shape[place], -1)
        line = self.lines[place]
        if line is not None:
            rows = np.concatenate([rows, line[:, None]], axis=1)
        if rows.shape[1] == 1:
            _, first, inverse = np.unique(rows[:, 0], return_index=True, return_inverse=True)
        else:
            _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        return np.asarray(first[inverse.ravel()], dtype=np.int64)

    @property
    def ragged(self) -> int:
        """Position (among `axes`) of the ragged axis."""
        return len(self.axes) - 1

    def counted(self, place: int) -> IdArray:
        """What the length of one of the axes counts: ids of lines, or ids in rows (..., M)."""
        line = self.lines[place]
        return np.moveaxis(self.ids, place, -1) if line is None else line

    def moved(self, axes: Sequence[int], steps: tuple[Step, ...] = ()) -> Component:
        """The same channels along other axes of another tensor."""
        view = self.view and View(self.view.source, self.view.axis, self.view.positions, steps)
        return Component(tuple(axes), self.ids, self.lines, view, self.pending)

    def everything(self) -> IdArray:
        """All ids, of members and lines, flat."""
        return np.concatenate([self.ids.ravel(), *(line for line in self.lines if line is not None)])


def line_component(axis: int, ids: IdArray) -> Component:
    """Channels along one axis."""
    return Component((axis,), ids, (None,))


@dataclass(frozen=True)
class Placed:
    """Where some axes of a component stand after a Reshape."""

    axes: tuple[int, ...]
    """New axes along which the channel varies."""
    indices: NDArray[np.int64]
    """Shape: their lengths. Flat index over the component's axes in this block, in the tensor's order."""


def place(
    mine: Sequence[int],
    firsts: Sequence[NDArray[np.int64]],
    before: Sequence[int],
    after: Sequence[int],
    old: Sequence[int],
    new: Sequence[int],
) -> Placed:
    """Follow axes through one block of a Reshape.

    Args:
        mine: the component's axes within the block, ascending.
        firsts: for each of them, per index the first index with the same channels.
        before: the old shape.
        after: the new shape.
        old: the block's old axes.
        new: its new axes; as many elements as the old.
    """
    lengths = [before[axis] for axis in mine]
    spot = [before[axis] if axis in mine else 1 for axis in old]
    flat = np.ravel_multi_index(np.ix_(*firsts), lengths).reshape(spot)
    spread = np.broadcast_to(flat, [before[axis] for axis in old]).reshape([after[axis] for axis in new])
    axes: list[int] = []
    for axis in new:
        here = np.moveaxis(spread, len(axes), 0)
        if (here == here[:1]).all():
            spread = here[0]
        else:
            axes.append(axis)
    return Placed(tuple(axes), np.asarray(spread, dtype=np.int64))


def run_steps(array: NDArray[np.int64], steps: Sequence[Step]) -> NDArray[np.int64]:
    """Relabel an array as the nodes of a view relabel the tensor."""
    for kind, argument in steps:
        if kind == "reshape":
            array = array.reshape(argument)
        elif kind == "transpose":
            array = array.transpose(argument)
        else:
            array = array.take(argument[1:], axis=argument[0])
    return array


def is_take(
    shape: Sequence[int], axis: int, steps: Sequence[Step], result_axis: int, indices: IdArray
) -> bool:
    """Whether relabelling a tensor of this shape is nothing but taking indices along one axis."""
    if axis != result_axis:
        return False
    elements = np.arange(math.prod(shape)).reshape(tuple(shape))
    made = run_steps(elements, steps)
    taken = elements.take(indices, axis=axis)
    return made.shape == taken.shape and bool(np.array_equal(made, taken))
