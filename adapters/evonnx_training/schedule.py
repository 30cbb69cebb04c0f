"""Learning rate over a retraining, and the names that a budget may choose from."""

from __future__ import annotations

import math
from dataclasses import dataclass

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("one-cycle", "cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a whole retraining.

    one-cycle: cosine up from 1/10 of the peak over `warmup`, cosine down to 0. cosine: linear up over
    `warmup`, cosine down to 0. constant: linear up over `warmup`, then the peak.
    """

    kind: str
    peak: float
    steps: int
    warmup: float
    """Share of all steps."""

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        # A step's rate is taken at its middle, so that neither end of a short run is lost at rate 0.
        place = min((step + 0.5) / self.steps, 1.0)
        if place < self.warmup:
            rise = place / self.warmup
            if self.kind == "one-cycle":
                return self.peak * (0.1 + 0.9 * (1 - math.cos(math.pi * rise)) / 2)
            return self.peak * rise
        if self.kind == "constant":
            return self.peak
        fall = (place - self.warmup) / max(1.0 - self.warmup, 1e-9)
        return self.peak * (1 + math.cos(math.pi * fall)) / 2
