"""What went wrong where evonnx is not alone (adapters, tasks, memory), and what was done about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Fault:
    """A row of the report."""

    stage: str
    """What was being done: "retraining", "scoring", "selection"."""
    kind: str
    """Such as "out of memory", "divergence" or "collapse"."""
    detail: str
    """A sentence."""
    action: str
    """What was done about it."""

    def to_json(self) -> dict[str, str]:
        """As rows have it."""
        return asdict(self)


def lost_worker(stage: str, what: str, reason: str) -> Fault:
    """A worker that died of itself or was killed.

    Args:
        stage: what it was doing.
        what: it was doing it to.
        reason: a clause.
    """
    return Fault(stage, "lost worker", f"The worker of {what} was lost: {reason}.", "done again by another")


class Ledger:
    """Faults since they were last taken."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, *faults: Fault) -> None:
        """Note some."""
        self._faults += faults

    def take(self) -> list[dict[str, str]]:
        """All that were noted since the last time, as rows have them."""
        taken, self._faults = self._faults, []
        return [fault.to_json() for fault in taken]
