"""Metrics in numpy, on outputs of onnxruntime.

Accuracy is top-1. Agreement says how close an offspring's outputs are to its ancestor's, from 0 to 1:

- an output of scores per class, [N, C] or [N, C, 1, ...] with C >= 2: the share of examples with the same
  largest class. Where the ancestor itself names one class for more than 80% of the examples, that would
  measure nothing, and the next rule is used;
- any other floating-point output: the share of the ancestor's energy that is reproduced, max(0, 1 - sum of
  (offspring - ancestor)^2 / sum of ancestor^2), over the whole split (so an RMS error of 20% gives 0.96);
- an integer output (only where there is no floating-point one): the share of equal values;
- several outputs: the mean over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Array
from evonnx.task import Metric

ACCURACY = Metric("accuracy", higher_is_better=True, scale=1.0, unit="%")
AGREEMENT = Metric("agreement", higher_is_better=True, scale=1.0, unit="%")

ONE_CLASS_SHARE = 0.8
"""Above this share of one class among the ancestor's answers, equal classes say nothing."""


def scores_per_class(output: Array) -> Array | None:
    """The output as (N, C) scores if that is what it holds, else None. Logits or probabilities alike."""
    if output.ndim < 2 or output.shape[1] < 2 or any(size != 1 for size in output.shape[2:]):
        return None
    return output.reshape(output.shape[:2])


def top_classes(scores: Array) -> NDArray[np.int64]:
    """The largest class of each row of (N, C) scores; -1 where a row holds NaN, which is never right."""
    values = scores.astype(np.float64)
    found: NDArray[np.int64] = np.argmax(values, axis=1).astype(np.int64)
    found[np.isnan(values).any(axis=1)] = -1
    return found


@dataclass
class Accuracy:
    """Top-1 accuracy, summed up batch by batch."""

    right: int = 0
    seen: int = 0

    def add(self, scores: Array, labels: Array) -> None:
        """Count a batch: (N, C) scores and (N,) class indices."""
        self.right += int(np.count_nonzero(top_classes(scores) == labels))
        self.seen += len(labels)

    @property
    def value(self) -> float:
        """Share of right answers; 0 of 0 is 0."""
        return self.right / self.seen if self.seen else 0.0


@dataclass
class _OutputAgreement:
    """Sums over the batches of one output."""

    squared_difference: float = 0.0
    squared_ancestor: float = 0.0
    equal: int = 0
    seen: int = 0
    classes: dict[int, int] = field(default_factory=dict)
    """How often the ancestor names each class."""
    is_classes: bool = True
    is_float: bool = True
    comparable: bool = True

    def add(self, ancestor: Array, offspring: Array) -> None:
        self.is_float = ancestor.dtype.kind not in "iub"
        if ancestor.shape != offspring.shape:
            self.comparable = False
        elif self.is_float:
            self._add_floats(ancestor, offspring)
        else:
            self.is_classes = False
            self.equal += int(np.count_nonzero(ancestor == offspring))
            self.seen += ancestor.size

    def _add_floats(self, ancestor: Array, offspring: Array) -> None:
        one, other = ancestor.astype(np.float64), offspring.astype(np.float64)
        with np.errstate(all="ignore"):  # NaN and infinity are answered in `value`
            self.squared_difference += float(np.sum((other - one) ** 2))
            self.squared_ancestor += float(np.sum(one**2))
        rows, others = scores_per_class(one), scores_per_class(other)
        if rows is None or others is None:
            self.is_classes = False
            return
        named = top_classes(rows)
        self.equal += int(np.count_nonzero((named == top_classes(others)) & (named >= 0)))
        self.seen += len(named)
        for found, times in zip(*np.unique(named, return_counts=True), strict=True):
            self.classes[int(found)] = self.classes.get(int(found), 0) + int(times)

    @property
    def value(self) -> float:
        if not self.comparable:
            return 0.0
        says_something = max(self.classes.values(), default=0) <= ONE_CLASS_SHARE * self.seen
        if not self.is_float or (self.is_classes and says_something):
            return self.equal / self.seen if self.seen else 1.0
        if not np.isfinite(self.squared_difference):
            return 0.0
        if self.squared_ancestor == 0.0:
            return 1.0 if self.squared_difference == 0.0 else 0.0
        return max(0.0, 1.0 - self.squared_difference / self.squared_ancestor)


class Agreement:
    """Agreement of outputs with the ancestor's, summed up batch by batch (see the head of this module)."""

    def __init__(self) -> None:
        self._outputs: dict[str, _OutputAgreement] = {}

    def add(self, ancestor: Mapping[str, Array], offspring: Mapping[str, Array]) -> None:
        """Count a batch; both map output names to arrays, of which the ancestor's names count."""
        for name, array in ancestor.items():
            self._outputs.setdefault(name, _OutputAgreement()).add(array, offspring[name])

    @property
    def value(self) -> float:
        """The mean over the outputs that count; 0 where there are none."""
        outputs = list(self._outputs.values())
        used = [output for output in outputs if output.is_float] or outputs
        return float(np.mean([output.value for output in used])) if used else 0.0
