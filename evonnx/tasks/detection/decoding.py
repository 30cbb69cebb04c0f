"""From a grid detector's outputs to boxes: threshold on coverage, then clustering of what overlaps.

Every cell of an object says a box of its own, so one object gives many nearly equal boxes. DetectNet joins
them as OpenCV's groupRectangles does: similar boxes form a group whose box is their mean, and groups that
are too small are noise. There, similarity is handed on from box to box, which can chain neighbouring cars
together; here a group is its most covered box and whatever overlaps that one, which cannot. With `average`
off this is the usual greedy non-maximum suppression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Array
from evonnx.tasks.detection.targets import Boxes, Grid

MOST_CANDIDATES = 2000
"""Cells of one image and class that are looked at, the most covered ones: a model that sees objects
everywhere must
not take forever."""


@dataclass(frozen=True)
class Clustering:
    """How cells become objects."""

    iou: float = 0.5
    """Boxes that overlap a group's most covered box by this much belong to it (intersection over union)."""
    average: bool = True
    """A group's box is the mean of its members, weighted by coverage; else its most covered one."""
    least: int = 1
    """Groups of fewer cells are dropped."""


@dataclass(frozen=True)
class Detections:
    """What was found in one image, most certain first within a class."""

    boxes: Boxes
    """(n, 4): x1, y1, x2, y2 in pixels of the model's input."""
    scores: NDArray[np.float64]
    """(n,): coverage of the group's most covered cell."""
    classes: NDArray[np.int64]

    def above(self, threshold: float) -> Detections:
        """Those with at least this score."""
        kept = self.scores >= threshold
        return Detections(self.boxes[kept], self.scores[kept], self.classes[kept])


def decode(grid: Grid, coverage: Array, boxes: Array, threshold: float, clustering: Clustering) -> Detections:
    """Objects of one image.

    Args:
        grid: the detector's.
        coverage: (classes, rows, columns), as the model gives it.
        boxes: (4 or 4 * classes, rows, columns), as the model gives it.
        threshold: cells with less coverage are empty, in the coverage output's own unit.
        clustering: how cells become objects.
    """
    offsets = boxes.astype(np.float64).reshape(-1, 4, grid.rows, grid.columns).transpose(0, 2, 3, 1)
    every = offsets * grid.scale + grid.centres
    found: list[tuple[Boxes, NDArray[np.float64], int]] = []
    for kind in range(grid.classes):
        certain = coverage[kind].astype(np.float64)
        own = every[0 if grid.shared else kind]
        # A cell without a finite box of positive area says nothing; comparisons with NaN are false.
        with np.errstate(invalid="ignore"):
            chosen = (certain >= threshold) & np.all(own[..., 2:] > own[..., :2], axis=-1)
        chosen &= np.isfinite(own).all(axis=-1) & np.isfinite(certain)
        found.append((*cluster(own[chosen], certain[chosen], clustering), kind))
    return Detections(
        np.concatenate([one for one, _, _ in found]),
        np.concatenate([scores for _, scores, _ in found]),
        np.concatenate([np.full(len(one), kind, np.int64) for one, _, kind in found]),
    )


def cluster(
    boxes: Boxes, scores: NDArray[np.float64], clustering: Clustering
) -> tuple[Boxes, NDArray[np.float64]]:
    """Join boxes of one class: (n, 4) and (n,) -> (m, 4) and (m,), most certain first."""
    order = np.argsort(-scores, kind="stable")[:MOST_CANDIDATES]
    boxes, scores = boxes[order], scores[order]
    free = np.ones(len(boxes), np.bool_)
    groups: list[Boxes] = []
    kept: list[float] = []
    for first in range(len(boxes)):
        if not free[first]:
            continue
        members = free & (overlaps(boxes[first][None], boxes)[0] >= clustering.iou)
        members[first] = True
        free &= ~members
        if int(members.sum()) < clustering.least:
            continue
        weights = np.maximum(scores[members], 0) + 1e-9  # coverage may be a logit
        mean = (boxes[members] * weights[:, None]).sum(axis=0) / weights.sum()
        groups.append(mean if clustering.average else boxes[first])
        kept.append(float(scores[first]))
    return np.array(groups, np.float64).reshape(-1, 4), np.array(kept, np.float64)


def overlaps(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    """Intersection over union of every pair: (n, 4) and (m, 4) -> (n, m)."""
    shared = intersections(one, other)
    union = areas(one)[:, None] + areas(other)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def intersections(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    """Shared area of every pair: (n, 4) and (m, 4) -> (n, m)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    found: NDArray[np.float64] = np.prod(np.clip(high - low, 0, None), axis=-1)
    return found


def areas(boxes: Boxes) -> NDArray[np.float64]:
    """(n, 4) -> (n,)."""
    found: NDArray[np.float64] = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=-1)
    return found
