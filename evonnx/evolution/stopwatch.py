"""Where a generation's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

RETRAIN, EVALUATE = "retrain", "evaluate"
"""What the user's data and framework do; everything else is the tool's own cost."""
OTHER = "other"


class Stopwatch:
    """Seconds spent by purpose, from when it was made.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {RETRAIN: 0.0, EVALUATE: 0.0}
        self._clock, self._began = clock, clock()
        self._elsewhere = 0.0
        self._waited = 0.0

    @contextmanager
    def timing(self, purpose: str) -> Iterator[None]:
        """Add the time of the block to a purpose; blocks must not lie within each other."""
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[purpose] = self.seconds.get(purpose, 0.0) + self._clock() - start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block only waits for others, whose seconds are then added."""
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    def add(self, seconds: Mapping[str, float]) -> None:
        """Seconds that others spent, by purpose."""
        for purpose, spent in seconds.items():
            self.seconds[purpose] = self.seconds.get(purpose, 0.0) + spent
            self._elsewhere += spent

    def spent(self) -> dict[str, float]:
        """All seconds so far, for somebody else's `add`."""
        return self.seconds | self.stages()

    def stages(self) -> dict[str, float]:
        """The tool's own cost so far, stage by stage; what no stage was timed for is "other"."""
        whole = self._clock() - self._began - self._waited
        own = {name: spent for name, spent in self.seconds.items() if name not in (RETRAIN, EVALUATE)}
        rest = max(0.0, whole - (sum(self.seconds.values()) - self._elsewhere))
        return own | {OTHER: own.get(OTHER, 0.0) + rest}
