"""Waveforms of one length: which part of a recording is kept, how loud it is made, what is added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]
Keep = Literal["middle", "start"]
Gain = Literal["none", "peak", "rms", "standard"]

FILTER_REACH = 1024
"""Samples, at the lower rate, on both sides of what is kept that resampling may look at."""
_LEAST_VARIANCE = 1e-7
"""What "standard" adds to the variance, so that silence stays silence."""


@dataclass(frozen=True)
class Region:
    """What must be read of a recording."""

    start: int
    """In the recording's own frames; so is `count`."""
    count: int
    skip: int
    """In samples after resampling: what is dropped before the clip. `kept` follows."""
    kept: int


@dataclass(frozen=True)
class Clip:
    """How a recording becomes `samples` numbers."""

    samples: int
    keep: Keep = "middle"
    gain: Gain = "none"

    def region(self, frames: int, rate: int, sample_rate: int) -> Region:
        """The part of `frames` at `rate` that is needed at `sample_rate`; nothing else has to be decoded.

        What is read begins where a frame and a sample coincide, so that resampling the part gives what
        resampling the whole would.
        """
        common = math.gcd(rate, sample_rate)
        p, q = rate // common, sample_rate // common  # p frames last as long as q samples
        total = (2 * frames * q + p) // (2 * p)
        kept = min(total, self.samples)
        first = self._first(total)
        reach = 0 if p == q else math.ceil(FILTER_REACH * max(1.0, rate / sample_rate))
        start = max(0, first * p // q - reach) // p * p
        end = min(frames, -(-(first + kept) * p // q) + reach)
        return Region(start, end - start, first - start // p * q, kept)

    def _first(self, total: int) -> int:
        return max(0, total - self.samples) // 2 if self.keep == "middle" else 0

    def cut(self, wave: Wave) -> Wave:
        """At most `samples` of (L,)."""
        first = self._first(len(wave))
        return wave[first : first + self.samples]

    def finish(self, wave: Wave) -> Wave:
        """(at most `samples`,) -> (`samples`,): the gain, then zeros at the end."""
        scaled = _louder(wave, self.gain)
        padded: Wave = np.pad(scaled, (0, self.samples - len(scaled)))
        return padded


def _louder(wave: Wave, gain: Gain) -> Wave:
    if gain == "none" or not len(wave):
        return wave
    exact = wave.astype(np.float64)
    if gain == "standard":
        exact = exact - exact.mean()
        return np.asarray(exact / np.sqrt(np.mean(exact**2) + _LEAST_VARIANCE), np.float32)
    level = np.abs(exact).max() if gain == "peak" else np.sqrt(np.mean(exact**2))
    return wave if level == 0 else np.asarray(exact / level, np.float32)


def of_numbers(stored: NDArray[np.generic]) -> Wave:
    """Samples as files and arrays store them -> floats, whole numbers between -1 and 1."""
    if stored.dtype.kind not in "iu":
        return stored.astype(np.float32)
    half = float(2 ** (8 * stored.dtype.itemsize - 1))
    middle = half if stored.dtype.kind == "u" else 0.0
    return ((stored.astype(np.float64) - middle) / half).astype(np.float32)
