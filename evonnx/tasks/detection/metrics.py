"""Precision, recall, F1 and mean average precision at one overlap (intersection over union), in numpy.

Within an image and a class, detections are taken from the most certain on; each is right if it overlaps an
object that none has claimed yet by at least the threshold, and claims the one that it overlaps most. What
is not right but overlaps an ignored object by as much, or lies in an ignored region by half of its own
area, does not count (KITTI).

Average precision is the area under the curve of precision over recall, with precision at each recall being
the best at that recall or a higher one (PASCAL VOC since 2010); its mean is over the classes that have
objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evonnx.tasks.detection.decoding import Detections, areas, intersections, overlaps
from evonnx.tasks.detection.targets import Boxes

IGNORED_SHARE = 0.5
"""Part of a detection's area that must lie in an ignored region for it not to count."""

RIGHT, WRONG, UNCOUNTED = 1, 0, -1


@dataclass(frozen=True)
class Truth:
    """Objects of one image in pixels of the model's input."""

    boxes: Boxes
    classes: NDArray[np.int64]
    ignored: Boxes
    """Regions, and objects too small to count."""


def judge(found: Detections, truth: Truth, kind: int, iou: float) -> NDArray[np.int64]:
    """`RIGHT`, `WRONG` or `UNCOUNTED` for each detection of a class, in their order (most certain first)."""
    own = found.boxes[found.classes == kind]
    wanted = truth.boxes[truth.classes == kind]
    overlap = overlaps(own, wanted)
    ignored_overlap = overlaps(own, truth.ignored).max(axis=1, initial=0.0)
    inside = intersections(own, truth.ignored).max(axis=1, initial=0.0)
    ignorable = (ignored_overlap >= iou) | (inside >= IGNORED_SHARE * np.maximum(areas(own), 1e-12))
    verdicts = np.where(ignorable, UNCOUNTED, WRONG)
    free = np.ones(len(wanted), np.bool_)
    for index in range(len(own)):
        candidates = np.where(free, overlap[index], -1.0)
        if len(candidates) and candidates.max() >= iou:
            free[int(candidates.argmax())] = False
            verdicts[index] = RIGHT
    return verdicts


def average_precision(scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> float:
    """Area under precision over recall.

    Args:
        scores: (n,) of the detections that count, in any order.
        right: (n,) whether each is right.
        objects: how many there were to find, at least 1.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(best[right[order]]) / objects)


@dataclass
class _Counts:
    """Detections of one class over a split."""

    scores: list[NDArray[np.float64]] = field(default_factory=list)
    right: list[NDArray[np.bool_]] = field(default_factory=list)
    objects: int = 0
    hits: int = 0
    """Of the detections above the working threshold."""
    claims: int = 0
    """All of those that count."""


class DetectionMetrics:
    """Figures over a split, image by image.

    Args:
        classes: how many.
        iou: overlap that makes a detection right.
    """

    def __init__(self, classes: int, iou: float) -> None:
        self.iou = iou
        self._counts = [_Counts() for _ in range(classes)]

    def add(self, working: Detections, ranked: Detections, truth: Truth) -> None:
        """Count an image: `working` are the detections that a user would act on (precision and recall),
        `ranked`
        those down to a low threshold (average precision)."""
        for kind, counts in enumerate(self._counts):
            counts.objects += int((truth.classes == kind).sum())
            verdicts = judge(working, truth, kind, self.iou)
            counts.hits += int((verdicts == RIGHT).sum())
            counts.claims += int((verdicts != UNCOUNTED).sum())
            verdicts = judge(ranked, truth, kind, self.iou)
            counted = verdicts != UNCOUNTED
            counts.scores.append(ranked.scores[ranked.classes == kind][counted])
            counts.right.append(verdicts[counted] == RIGHT)

    @property
    def figures(self) -> dict[str, float]:
        """F1, precision, recall and mAP, all from 0 to 1; a share of nothing is 0."""
        hits = sum(one.hits for one in self._counts)
        precision = _share(hits, sum(one.claims for one in self._counts))
        recall = _share(hits, sum(one.objects for one in self._counts))
        both = precision + recall
        return {
            "F1": 2 * precision * recall / both if both else 0.0,
            "precision": precision,
            "recall": recall,
            "mAP": _mean([_class_precision(one) for one in self._counts if one.objects]),
        }


def _class_precision(counts: _Counts) -> float:
    return average_precision(np.concatenate(counts.scores), np.concatenate(counts.right), counts.objects)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
