"""What every tracker must do; the built-in ones run this too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evonnx.tracker import Point, TrackedRun, Tracker, Value

VALUES: dict[str, Value] = {"seed": 3, "options.keep": 0.8, "options.encoding": "adaptive", "resume": False}
POINTS = [Point("training/loss", step, 1 / step) for step in (1, 2, 3)]


@dataclass(frozen=True)
class Tracked:
    """What is found where a tracker wrote, read without it."""

    parameters: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    files: dict[str, bytes] | None = None
    """By name; None: this tracker keeps none."""


class TrackerContract:
    """Override `make`, what the entry point names; `where`; and `read`, which reads back what was tracked."""

    @pytest.fixture
    def make(self) -> Callable[[], Tracker]:
        """The tracker under test, constructed anew."""
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def where(self, tmp_path: Path) -> str | None:
        """What stands behind `--track NAME=`."""
        return str(tmp_path / "tracked")

    @pytest.fixture
    def read(self) -> Callable[[str | None, str], Tracked]:
        """From `where` and what `open` gave."""
        raise NotImplementedError("override the fixture `read`")

    @pytest.fixture
    def run(self, tmp_path: Path, where: str | None) -> TrackedRun:
        """One that was never tracked."""
        return TrackedRun("mine", tmp_path / "mine" / "tracking" / "it", where)

    def test_follows_the_protocol(self, make: Callable[[], Tracker]) -> None:
        """A name and all methods."""
        assert isinstance(make(), Tracker)
        assert make().name

    def test_keeps_what_it_is_told(
        self,
        make: Callable[[], Tracker],
        run: TrackedRun,
        read: Callable[[str | None, str], Tracked],
        tmp_path: Path,
    ) -> None:
        """Parameters, points, a text and a file can be read back."""
        (tmp_path / "best.onnx").write_bytes(b"model")
        tracker = make()
        found = tracker.open(run)
        tracker.parameters(VALUES)
        tracker.points(POINTS[:2])
        tracker.points(POINTS[2:])
        tracker.text("Size, each measure by itself", "| a | b |", 3)
        tracker.files([tmp_path / "best.onnx"])
        tracker.close(True)
        tracked = read(run.where, found)
        assert tracked.parameters.keys() >= VALUES.keys()
        assert "adaptive" in tracked.parameters["options.encoding"]
        assert _rounded(tracked.points) == _rounded(POINTS)
        assert any("| a | b |" in text for text in tracked.texts)
        assert tracked.files is None or tracked.files["best.onnx"] == b"model"

    def test_a_run_that_goes_on_is_told_again_and_tracked_once(
        self, make: Callable[[], Tracker], run: TrackedRun, read: Callable[[str | None, str], Tracked]
    ) -> None:
        """No point twice, and no second run."""
        first = make()
        found = first.open(run)
        first.parameters(VALUES)
        first.points(POINTS[:2])
        first.close(False)
        second = make()
        again = second.open(TrackedRun(run.name, run.place, run.where, found))
        second.parameters(VALUES)
        second.points(POINTS)
        second.close(True)
        assert again == found
        assert _rounded(read(run.where, again).points) == _rounded(POINTS)

    def test_a_run_that_is_gone_is_begun_anew(
        self, make: Callable[[], Tracker], run: TrackedRun, read: Callable[[str | None, str], Tracked]
    ) -> None:
        """What `open` gave once may be of a store that was emptied."""
        tracker = make()
        found = tracker.open(TrackedRun(run.name, run.place, run.where, "0123456789abcdef0123456789abcdef"))
        tracker.points(POINTS)
        tracker.close(True)
        assert _rounded(read(run.where, found).points) == _rounded(POINTS)


def _rounded(points: list[Point]) -> list[tuple[str, int, float]]:
    """Trackers may keep 32 bits."""
    return sorted((point.name, point.step, round(point.value, 5)) for point in points)
