"""What a regression output's values are worth: errors summed up batch by batch, in float64.

- mae, mse, rmse: the mean absolute and squared error of all values, and the latter's root;
- r2: 1 - sum of squared errors / sum of squared distances from the mean, which is taken place by place over
  the examples, so that a constant guess gives 0 (scikit-learn's `variance_weighted`);
- psnr: the mean over examples of 10 log10(peak^2 / mean squared error), at most 100 dB each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Array
from evonnx.task import Metric

MOST_DECIBELS = 100.0
"""Of an example without any error, whose ratio has no end."""

NAMES: Mapping[str, str] = {"r2": "R2", "mae": "MAE", "mse": "MSE", "rmse": "RMSE", "psnr": "PSNR (dB)"}
"""What a task file calls them -> what tables do."""


def metric_of(key: str, guess: Guess) -> Metric:
    """Direction and scale: the worst value of an error is taken to be that of a constant guess."""
    if key == "r2":
        return Metric(NAMES[key])
    if key == "psnr":
        return Metric(NAMES[key], scale=MOST_DECIBELS)
    return Metric(NAMES[key], higher_is_better=False, scale=guess.error(key))


@dataclass(frozen=True)
class Guess:
    """Values of some examples, to which the constant nearest to all of them is compared."""

    values: NDArray[np.float64]
    """Flat; none where nothing is known."""

    def error(self, kind: str, delta: float = 1.0) -> float:
        """The mean error of guessing the mean: "mae" or "l1", "mse", "rmse" or "huber"; 1 where it is 0."""
        if not self.values.size:
            return 1.0
        distance = np.abs(self.values - self.values.mean())
        if kind in ("mae", "l1"):
            found = float(distance.mean())
        elif kind == "huber":
            near = np.minimum(distance, delta)
            found = float((near * (distance - near / 2)).mean())
        else:
            found = float(np.square(distance).mean())
            found = math.sqrt(found) if kind == "rmse" else found
        return found if found > 1e-12 else 1.0


@dataclass
class Errors:
    """Sums over the batches of one output.

    Args:
        peak: largest value that a picture may have, for psnr; None: psnr is not asked for.
    """

    peak: float | None = None
    seen: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    decibels: float = 0.0
    examples: int = 0
    _mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _spread: float = 0.0

    def add(self, found: Array, wanted: Array) -> None:
        """Count a batch of outputs and targets of one shape."""
        one, other = found.astype(np.float64), wanted.astype(np.float64)
        with np.errstate(all="ignore"):  # NaN and infinity are the score's to tell
            difference = (one - other).reshape(len(one), -1)
            self.absolute += float(np.abs(difference).sum())
            squares = np.square(difference)
            self.squared += float(squares.sum())
            if self.peak is not None:
                ratio = self.peak**2 / np.maximum(squares.mean(axis=1), 1e-300)
                each = np.minimum(10 * np.log10(np.maximum(ratio, 1e-300)), MOST_DECIBELS)
                self.decibels += float(each.sum())
        self._add_spread(other.reshape(len(other), -1))
        self.seen += difference.size
        self.examples += len(difference)

    def _add_spread(self, rows: NDArray[np.float64]) -> None:
        """Squared distances from the mean of each place, from two parts' (Chan et al., 1979)."""
        mean = rows.mean(axis=0)
        before = self._mean if self.examples else np.zeros_like(mean)
        step = mean - before
        total = self.examples + len(rows)
        shared = self.examples * len(rows) / total
        self._spread += float(np.square(rows - mean).sum() + shared * np.square(step).sum())
        self._mean = before + step * (len(rows) / total)

    @property
    def figures(self) -> dict[str, float]:
        """By their keys in a task file."""
        seen = max(1, self.seen)
        mse = self.squared / seen
        nothing = 1.0 if self.squared == 0 else 0.0
        found = {
            "r2": 1 - self.squared / self._spread if self._spread > 0 else nothing,
            "mae": self.absolute / seen,
            "mse": mse,
            "rmse": math.sqrt(mse) if mse >= 0 else mse,
        }
        if self.peak is not None:
            found["psnr"] = self.decibels / max(1, self.examples)
        return found
