"""What a grid detector should say: coverage and boxes per cell, in the way of DetectNet.

The model's input of H x W pixels is covered by a grid of H / stride x W / stride cells. Cell (i, j), row
and column, has its centre at x = (j + 0.5) * stride, y = (i + 0.5) * stride, in pixels of the input. Its
outputs are

    coverage [N, classes, rows, columns]         1 where the cell belongs to an object of the class, else 0
    boxes    [N, 4 or 4 * classes, rows, columns]  x1, y1, x2, y2 of that object, minus the cell's centre,
                                                 in pixels divided by `scale` (class c: channels 4c to 4c + 3)

A cell belongs to an object when its centre lies in the object's box shrunk by a factor around its own centre;
the cell that holds the box's centre always does, so no object is without one. Where several objects claim a
cell, the smallest has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Where a detector's cells lie and what its numbers mean."""

    rows: int
    columns: int
    stride: int
    """Pixels of the model's input per cell."""
    classes: int
    shared: bool = True
    """One box per cell for all classes (4 channels), or one for each (4 * classes)."""
    scale: float = 1.0
    """Pixels that a box output of 1 stands for."""
    shrink: float = 0.5
    """Part of a box's width and height in which cells belong to it."""
    per_object: bool = True
    """Whether every object counts alike in the boxes' loss, or every cell."""

    @property
    def size(self) -> NDArray[np.float64]:
        """(4,): width, height, width, height of the input in pixels."""
        return np.tile(np.array([self.columns, self.rows], np.float64) * self.stride, 2)

    @property
    def centres(self) -> Boxes:
        """(rows, columns, 4): x, y, x, y of every cell's centre, in pixels."""
        y, x = np.meshgrid(np.arange(self.rows), np.arange(self.columns), indexing="ij")
        return (np.stack([x, y, x, y], axis=-1).astype(np.float64) + 0.5) * self.stride


@dataclass(frozen=True)
class Targets:
    """Targets and element weights of one image."""

    coverage: Floats
    """(classes, rows, columns)."""
    coverage_weights: Floats
    """Like `coverage`: 0 in regions to ignore, else 1."""
    boxes: Floats
    """(4 or 4 * classes, rows, columns); 0 where nothing is."""
    box_weights: Floats
    """Like `boxes`: above 0 where an object covers the cell, else 0. With `Grid.per_object` every object
    counts alike however large it is: stride / its width (x1, x2) or height (y1, y2) / its number of cells."""


def make_targets(grid: Grid, boxes: Boxes, classes: NDArray[np.int64]) -> Targets:
    """Targets of one image.

    Args:
        grid: the detector's.
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the model's input.
        classes: (n,) class indices; -1 is a region to ignore.
    """
    shape = (grid.rows, grid.columns)
    coverage = np.zeros((grid.classes, *shape), np.float32)
    coverage_weights = np.ones_like(coverage)
    box_channels = 1 if grid.shared else grid.classes
    offsets = np.zeros((box_channels, *shape, 4))
    owners = np.full((box_channels, *shape), -1, np.int64)
    centres = grid.centres
    for box in boxes[classes < 0]:
        coverage_weights[:, _cells_of(grid, box, 1.0)] = 0
    # Largest first, so that the smallest has the last word.
    order = np.argsort(-_areas(boxes), kind="stable")
    for index in order[classes[order] >= 0]:
        box, kind = boxes[index], int(classes[index])
        cells = _cells_of(grid, box, grid.shrink)
        coverage[kind, cells] = 1
        coverage_weights[kind, cells] = 1
        slot = 0 if grid.shared else kind
        offsets[slot, cells] = (box - centres[cells]) / grid.scale
        owners[slot, cells] = index
    channels = offsets.transpose(0, 3, 1, 2).reshape(-1, *shape)
    weights = _box_weights(grid, owners, boxes).transpose(0, 3, 1, 2).reshape(-1, *shape)
    return Targets(coverage, coverage_weights, channels.astype(np.float32), weights.astype(np.float32))


def _box_weights(grid: Grid, owners: NDArray[np.int64], boxes: Boxes) -> NDArray[np.float64]:
    """(slots, rows, columns, 4): what each cell's box counts, from the object that owns it (-1: none)."""
    weights = np.repeat((owners >= 0).astype(np.float64)[..., None], 4, axis=-1)
    if grid.per_object:
        for index in np.unique(owners[owners >= 0]):
            cells = owners == index
            sides = np.tile(boxes[index, 2:] - boxes[index, :2], 2)
            weights[cells] = grid.stride / np.maximum(sides, 1.0) / int(cells.sum())
    return weights


def _cells_of(grid: Grid, box: Boxes, shrink: float) -> NDArray[np.bool_]:
    """(rows, columns): cells whose centres lie in a box, shrunk around its own, and the cell that holds
    that."""
    middle = (box[:2] + box[2:]) / 2
    half = (box[2:] - box[:2]) / 2 * shrink
    centres = grid.centres[..., :2]
    cells: NDArray[np.bool_] = np.all((centres >= middle - half) & (centres <= middle + half), axis=-1)
    row, column = (middle[::-1] // grid.stride).astype(np.int64)
    cells[min(row, grid.rows - 1), min(column, grid.columns - 1)] = True
    return cells


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return found
