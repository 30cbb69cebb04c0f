"""Trackers that remember, observers that hear, and a small run that is tracked."""

from __future__ import annotations

from pathlib import Path

from evolution_support import options

from evonnx.evolution import Observer, evolve
from evonnx.tracker import Point, TrackedRun
from evonnx.tracking import Asked, Tracking


class Notebook:
    """A tracker that keeps everything in memory, and fails where it is told to."""

    name = "notebook"

    def __init__(self, fails_in: str = "", error: BaseException | None = None) -> None:
        self.fails_in, self.error = fails_in, error or OSError(28, "No space left on device")
        self.calls: list[str] = []
        self.runs: list[TrackedRun] = []
        self.values: dict = {}
        self.told: list[Point] = []
        self.texts: dict[str, str] = {}
        self.kept: list[str] = []
        self.finished: bool | None = None

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if method == self.fails_in:
            raise self.error

    def open(self, run: TrackedRun) -> str:
        self._called("open")
        self.runs.append(run)
        return "page 1"

    def parameters(self, values) -> None:
        self._called("parameters")
        self.values |= values

    def points(self, points) -> None:
        self._called("points")
        self.told += points

    def text(self, name: str, markdown: str, step: int) -> None:
        self._called("text")
        self.texts[name] = markdown

    def files(self, files) -> None:
        self._called("files")
        self.kept += [file.name for file in files]

    def close(self, finished: bool) -> None:
        self._called("close")
        self.finished = finished

    def curve(self, name: str) -> dict[int, float]:
        points = [point for point in self.told if point.name == name]
        assert len({point.step for point in points}) == len(points), f"a point of {name} was told twice"
        return {point.step: point.value for point in points}


TOY = "evonnx.testing:ToyAdapter"
METHODS = ("open", "points", "close")
"""The first, the last, and one between."""


class Ear(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def generation_done(self, row) -> None:
        self.done.append(row["generation"])


class StopsAfterOne(Ear):
    def generation_done(self, row) -> None:
        super().generation_done(row)
        raise KeyboardInterrupt


def tracked(model: Path, out: Path, asked: list[Asked], inner: Observer | None = None, **how) -> dict:
    with Tracking(asked, inner, patience=20) as observer:
        return evolve(model, out=out, options=options(), observer=observer, **how).record
