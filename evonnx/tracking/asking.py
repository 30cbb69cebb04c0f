"""Which trackers the user asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evonnx.errors import PluginError
from evonnx.plugins import get
from evonnx.tracker import Tracker


@dataclass(frozen=True)
class Asked:
    """A tracker, and where it is to write."""

    name: str
    """The tracker's own, and that of its folder in a run directory."""
    tracker: Tracker
    where: str | None = None


def trackers(given: Sequence[str]) -> list[Asked]:
    """`["mlflow", "tensorboard=logs"]` as trackers, imported.

    Raises:
        PluginError: there is no such tracker, what it needs is not installed, it is none, or a name comes
            twice.
    """
    found: list[Asked] = []
    for entry in given:
        name, _, where = entry.partition("=")
        tracker = get("trackers", name)()
        if not isinstance(tracker, Tracker):
            raise PluginError(f"{name!r} is no tracker: it lacks methods of evonnx.tracker.Tracker.")
        if not re.fullmatch(r"[\w-]+", tracker.name):
            raise PluginError(
                f"The tracker {name!r} calls itself {tracker.name!r}, which is no name for a folder."
            )
        if any(one.name == tracker.name for one in found):
            raise PluginError(f"The tracker {name!r} is asked for twice.")
        found.append(Asked(tracker.name, tracker, where or None))
    return found
