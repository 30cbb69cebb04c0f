"""Solving F: which factor makes the expected amount meet a target (equation 3).

Everything is in the log domain, since P spans hundreds of orders of magnitude where selectivity is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_EXACT = 1 << 16
"""Up to this many entries a spectrum is exact; above it is binned."""

Vector = NDArray[np.float64]
Digest = tuple[NDArray[np.floating], NDArray[np.floating]]
"""x and the amount at each."""


@dataclass
class Spectrum:
    """How much stands at each x in [0, 1]: exact for few entries, in fine bins (0 and 1 exact) for many.

    Bins keep P = exp((x - 1) / T) within 0.1% of its value in the middle down to T = 4e-3, within 0.4% at T =
    1e-3.
    """

    entries: int
    """How many will be added in all."""
    selectivity: float
    """T."""
    _pieces: list[Digest] = field(default_factory=list)

    @property
    def bins(self) -> int | None:
        """How many; None: exact."""
        if self.entries <= _EXACT:
            return None
        return 1 << int(np.clip(np.ceil(np.log2(500 / self.selectivity)), 12, 17))

    def digest(self, x: NDArray[np.floating], amounts: NDArray[np.floating]) -> Digest:
        """Prepare amounts at x for `add`: arrays of one shape. Safe to run in threads."""
        if self.bins is None:
            return x.reshape(-1), amounts.reshape(-1)
        # Rounded by truncation: np.rint takes ten times as long.
        places = (x.reshape(-1) * np.float32(self.bins) + np.float32(0.5)).astype(np.intp)
        counted = np.bincount(places, weights=amounts.reshape(-1), minlength=self.bins + 1)
        return np.arange(self.bins + 1) / self.bins, counted.astype(np.float64, copy=False)

    def add(self, digest: Digest) -> None:
        """Count what `digest` prepared."""
        if self.bins is not None and self._pieces:
            x, amounts = self._pieces.pop()
            digest = x, amounts + digest[1]
        self._pieces.append(digest)

    def table(self) -> tuple[Vector, Vector]:
        """x, ascending, and the amount at each (all positive)."""
        x = np.concatenate([np.zeros(0), *(piece for piece, _ in self._pieces)])
        amounts = np.concatenate([np.zeros(0), *(piece for _, piece in self._pieces)])
        order = np.argsort(x, kind="stable")
        order = order[amounts[order] > 0]
        return x[order], amounts[order]


def merged(spectra: Mapping[float, Spectrum]) -> tuple[Vector, Vector]:
    """log(P / c), ascending, and the amount at each, of what stands in spectra by log c."""
    parts = []
    for log_cost, spectrum in spectra.items():
        x, amounts = spectrum.table()
        parts.append(((x - 1) / spectrum.selectivity - log_cost, amounts))
    log_p = np.concatenate([part for part, _ in parts])
    amounts = np.concatenate([part for _, part in parts])
    order = np.argsort(log_p, kind="stable")
    return log_p[order], amounts[order]


def expected(log_factor: float, log_p: Vector, amounts: Vector) -> float:
    """Sum of amounts * min(1, F P)."""
    return float(amounts @ np.exp(np.minimum(log_factor + log_p, 0)))


def solve_factor(log_p: Vector, amounts: Vector, target: float) -> float:
    """log F such that the sum of amounts * min(1, F P) is the target: exact, without iterations.

    Args:
        log_p: ascending, shape (n,).
        amounts: positive, shape (n,).
        target: if not below the sum of amounts, the smallest F that makes everything certain is given.

    Returns:
        log F; -inf for a target of 0 or less, 0 if there is nothing.
    """
    if len(log_p) == 0:
        return 0.0
    if target <= 0:
        return -np.inf
    log_p, amounts = log_p[::-1], amounts[::-1]
    certain = np.cumsum(amounts)
    log_amounts = np.log(amounts) + log_p
    log_rest = np.logaddexp.accumulate(log_amounts[::-1])[::-1]
    # With F = 1 / P of entry m the first m + 1 entries are certain: that expectation grows with m.
    after = np.append(log_rest[1:], -np.inf)
    at_saturation = certain + np.exp(after - log_p)
    m = int(np.searchsorted(at_saturation, target))
    if m >= len(log_p):
        return float(-log_p[-1])
    missing = target - (certain[m - 1] if m else 0.0)
    # Rounding may leave nothing missing; F is then the one that made entry m - 1 certain.
    return float(np.log(missing) - log_rest[m]) if missing > 0 else float(-log_p[m - 1])


def solve_monotone(
    expectation: Callable[[float], float], low: float, high: float, target: float, tolerance: float = 1e-4
) -> float:
    """Root of an increasing function by the Illinois method on its logarithm, bracketed by `low` and `high`.

    Args:
        expectation: of log F; positive.
        low: log F where the expectation is at most the target.
        high: log F where it is at least the target.
        target: positive.
        tolerance: accepted relative error of the expectation.
    """

    def miss(log_factor: float) -> float:
        return float(np.log(max(expectation(log_factor), 1e-300) / target))

    miss_low, miss_high = miss(low), miss(high)
    if miss_low >= -tolerance:
        return low
    if miss_high <= tolerance:
        return high
    for step in range(100):
        middle = low + (high - low) * (0.5 if step % 4 == 3 else miss_low / (miss_low - miss_high))
        off = miss(middle)
        if abs(off) <= tolerance:
            break
        if off < 0:
            low, miss_low, miss_high = middle, off, miss_high / 2
        else:
            high, miss_high, miss_low = middle, off, miss_low / 2
    return middle


def fill(caps: Vector, sizes: Vector, target: float) -> float:
    """The common share s such that the sum of min(cap, s * size) over layers is the target (inf if out of
    reach)."""
    share = np.divide(caps, sizes, out=np.zeros_like(caps), where=sizes > 0)
    order = np.argsort(share, kind="stable")
    filled, open_size = 0.0, float(sizes.sum())
    for index in order:
        if filled + share[index] * open_size >= target:
            return (target - filled) / open_size
        filled += float(caps[index])
        open_size -= float(sizes[index])
    return np.inf
