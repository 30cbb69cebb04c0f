"""The tracker contract: tell an experiment tracker, such as MLflow or TensorBoard, how a run goes.

A tracker keeps what it is given: parameters, points of curves, texts and files. What they are is decided by
`evonnx.tracking`, which calls a tracker from one thread, in order, and drops it with a note once it has
raised anything: a run never depends on its trackers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

Value = str | int | float | bool


@dataclass(frozen=True)
class Point:
    """A point of a curve."""

    name: str
    """Of the curve, with slashes between groups: "training/loss"."""
    step: int
    """A generation (0: the ancestor), or epochs since the run began."""
    value: float
    """Finite."""


@dataclass(frozen=True)
class TrackedRun:
    """Which run is tracked, and where."""

    name: str
    """What people call it: the name of the run directory."""
    place: Path
    """A folder inside the run directory that is the tracker's own; it may not exist yet. Whoever writes files
    writes them there, unless told where else."""
    where: str | None = None
    """What stood behind the equals sign of `--track NAME=WHERE`: a folder or an address; None: the tracker's
    own choice."""
    known: str | None = None
    """What `open` gave when this run was last tracked at this place; None: it never was."""


@runtime_checkable
class Tracker(Protocol):
    """The plugin that talks to an experiment tracker. Constructed without arguments; any method may raise
    anything."""

    name: str

    def open(self, run: TrackedRun) -> str:
        """Begin a tracked run, or go on with the one that `run.known` names, if it is still there.

        After this, everything that was tracked before a run was interrupted is told again: a point whose name
        and step are there already must not be there twice.

        Returns:
            By what the tracked run is found when the run is resumed.
        """
        ...

    def parameters(self, values: Mapping[str, Value]) -> None:
        """What the run was begun with; told once after each `open`."""
        ...

    def points(self, points: Sequence[Point]) -> None:
        """More points of curves."""
        ...

    def text(self, name: str, markdown: str, step: int) -> None:
        """A table or another text; replaces an earlier one of that name."""
        ...

    def files(self, files: Sequence[Path]) -> None:
        """Files of the run directory that belong to its result; may be left alone."""
        ...

    def close(self, finished: bool) -> None:
        """The last call.

        Args:
            finished: False where the run was stopped or failed, and may be resumed.
        """
        ...
