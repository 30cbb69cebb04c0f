"""Losses as they come in, and when to give up on them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from evonnx_training.checkpoint import Within

_RUINED = 4.0
"""A loss this many times the first one, for `_PATIENCE` steps in a row, will not come back by itself."""
_PATIENCE = 30


class Diverged(Exception):
    """The loss is not finite, or far above where it started."""


class Watch:
    """Losses of one epoch: raises `Diverged` on what will not come back."""

    def __init__(self, reference: float, begun: Within) -> None:
        self.limit = _RUINED * reference
        self.total, self.count, self.bad, self.last = begun.total, begun.steps, begun.bad, begun.last

    @property
    def mean(self) -> float:
        """Over the epoch so far."""
        return self.total / max(self.count, 1)

    @property
    def within(self) -> Within:
        """How far the epoch is."""
        return Within(self.count, self.total, self.last, self.bad)

    def look(self, losses: Iterable[float]) -> None:
        """Take in the losses of some steps, in order."""
        for value in losses:
            if not math.isfinite(value):
                raise Diverged("the loss is not finite")
            self.bad = self.bad + 1 if value > self.limit else 0
            if self.bad >= _PATIENCE:
                raise Diverged(f"the loss stays above {self.limit:.3g}")
            self.total, self.count, self.last = self.total + value, self.count + 1, value
