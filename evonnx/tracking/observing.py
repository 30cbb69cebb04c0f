"""An observer that tells trackers how a run goes, and passes everything on to another observer."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evonnx.adapter import Progress
from evonnx.errors import EvonnxError
from evonnx.evolution import Observer
from evonnx.report import HTML_FILE, MARKDOWN_FILE, write_report
from evonnx.report.reading import of_a_record, read_run
from evonnx.report.table import to_markdown
from evonnx.report.tables import summary, tables
from evonnx.run_store import BEST_FILE, RUN_FILE, read_json, write_json
from evonnx.tracker import Point, TrackedRun
from evonnx.tracking.asking import Asked
from evonnx.tracking.points import (
    epochs_of,
    new_points,
    parameters_of,
    points_of,
    points_of_bench,
    points_of_best,
)
from evonnx.tracking.working import Worker

FOLDER = "tracking"
"""In the run directory: what trackers keep there."""
KNOWN_FILE = "known.json"
"""In that folder: by what each tracker finds the tracked run again."""
_KNOWN_LOCK = threading.Lock()
"""Every tracker's thread writes into that file."""
_PATIENCE = 60.0
"""Seconds that the end of a run waits for a tracker."""
_PATIENCE_OF_STOPPED = 5.0
"""The same where somebody waits for it to stop."""


class Tracking(Observer):
    """Use as a context manager around `evolve`: leaving it tells trackers the end.

    Args:
        asked: whom to tell.
        inner: hears everything too, and the notes of trackers that fail.
        patience: seconds to wait for trackers at the end.
    """

    def __init__(
        self, asked: Sequence[Asked], inner: Observer | None = None, patience: float = _PATIENCE
    ) -> None:
        self._asked, self._inner, self._patience = list(asked), inner or Observer(), patience
        self._workers: list[tuple[Asked, Worker]] = []
        self._folder: Path | None = None
        self._begun = False
        self._epochs = 0
        """Of all generations that are done."""
        self._generations = 0
        self._told: set[tuple[str, int]] = set()
        self._training = LiveLoss()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, *trace: object) -> None:
        if self._folder is not None and self._workers:
            # The end of a run that failed has its own error, and a run that is done stays done.
            with contextlib.suppress(EvonnxError, OSError):
                self._end(finished=kind is None)
            for asked, worker in self._workers:
                worker.ask(partial(asked.tracker.close, kind is None))
            for _, worker in self._workers:
                worker.finish(self._patience if kind is None else min(self._patience, _PATIENCE_OF_STOPPED))
            self._leave_nothing()
        self._pass_notes()

    def opened(self, folder: Path) -> None:
        """Remember where the run is; nothing is tracked before its ancestor is scored."""
        self._inner.opened(folder)
        self._folder = folder

    def started(self, title: str, generations: int, notes: list[str]) -> None:
        """Tell the parameters and the ancestor's figures."""
        self._inner.started(title, generations, notes)
        self._begin()
        self._pass_notes()

    def stage(self, generation: int, text: str) -> None:
        """Another training may begin."""
        self._inner.stage(generation, text)
        self._training.stage(generation, text)
        self._pass_notes()

    def training(self, generation: int, news: Progress) -> None:
        """Tell the mean loss of each epoch when it is over."""
        self._inner.training(generation, news)
        if (over := self._training.heard(news)) is not None:
            name, mean = over
            self._points([Point(name, self._epochs + news.epoch, mean)])

    def generation_done(self, row: Mapping[str, Any]) -> None:
        """Tell an offspring's figures."""
        self._inner.generation_done(row)
        self._begin()
        self._points(points_of(row, self._epochs))
        self._epochs += epochs_of(row)
        self._generations = int(row["generation"])
        self._pass_notes()

    def note(self, text: str) -> None:
        """Nothing that is tracked."""
        self._inner.note(text)

    def _begin(self) -> None:
        """Once, as soon as there is a record: open every tracker's run and tell the parameters."""
        if self._begun or self._folder is None:
            return
        self._begun = True
        try:
            record = read_json(self._folder / RUN_FILE)
        except EvonnxError as error:
            self._inner.note(f"The run is not tracked: {error}")
            return
        values, known = parameters_of(record), known_runs(self._folder)
        for asked in self._asked:
            worker = Worker(asked.name)
            before = known.get(asked.name, {})
            run = TrackedRun(
                self._folder.resolve().name,
                self._folder / FOLDER / asked.name,
                asked.where,
                before.get("known") if before.get("where") == asked.where else None,
            )
            worker.ask(partial(self._open, asked, run, worker))
            worker.ask(partial(asked.tracker.parameters, values))
            self._workers.append((asked, worker))
        if ancestor := record.get("ancestor"):
            self._points(points_of(ancestor, 0))

    def _open(self, asked: Asked, run: TrackedRun, worker: Worker) -> None:
        """Called in the tracker's thread."""
        found = asked.tracker.open(run)
        assert self._folder is not None
        with _KNOWN_LOCK:
            known = known_runs(self._folder)
            entry = {"where": asked.where, "known": found}
            if known.get(asked.name) != entry:
                (self._folder / FOLDER).mkdir(exist_ok=True)
                write_json(self._folder / FOLDER / KNOWN_FILE, {**known, asked.name: entry})
        again = "goes on being tracked" if found == run.known else "is tracked"
        worker.say(f"The run {again} by {asked.name}: {found}")

    def _end(self, finished: bool) -> None:
        """Tell what is known only now: best.onnx, timings, tables, files."""
        assert self._folder is not None
        record = read_json(self._folder / RUN_FILE)
        if "ancestor" not in record:
            return
        with of_a_record(RUN_FILE):
            if best := record.get("best"):
                self._points(points_of_best(best, self._generations, self._epochs))
            if bench := record.get("bench"):
                self._points(points_of_bench(bench, self._generations))
            run = read_run(record)
            texts = {"summary": summary(run)} | {one.title: to_markdown(one) for one in tables(run)}
        if finished and not (self._folder / HTML_FILE).is_file():  # the command line writes it before
            write_report(self._folder)
        files = [self._folder / name for name in (BEST_FILE, HTML_FILE, MARKDOWN_FILE, RUN_FILE)]
        there = [file for file in files if file.is_file()] if finished else []
        for asked, worker in self._workers:
            for title, text in texts.items():
                worker.ask(partial(asked.tracker.text, title, text, self._generations))
            if there:
                worker.ask(partial(asked.tracker.files, there))

    def _leave_nothing(self) -> None:
        """A run that failed before its first generation is removed; so is what was tracked beside it."""
        if self._folder is not None and not (self._folder / RUN_FILE).exists():
            shutil.rmtree(self._folder / FOLDER, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def _points(self, points: Sequence[Point]) -> None:
        if fresh := new_points(points, self._told):
            for asked, worker in self._workers:
                worker.ask(partial(asked.tracker.points, fresh))

    def _pass_notes(self) -> None:
        """Notes are made in other threads, and passed on in the run's own."""
        for _, worker in self._workers:
            for note in worker.notes():
                self._inner.note(note)


class LiveLoss:
    """The loss of trainings that are going on, epoch by epoch; siblings have curves of their own."""

    def __init__(self) -> None:
        self._generation, self._trainings = 0, 0
        self._epochs: dict[int, tuple[int, list[float]]] = {}
        """By the number of the sibling: the epoch, and the losses heard in it."""

    def stage(self, generation: int, text: str) -> None:
        """Where offspring are trained one after another, stages tell them apart."""
        if generation != self._generation:
            self._generation, self._trainings = generation, 0
            self._epochs.clear()
        if "training" in text:
            self._trainings += 1

    def heard(self, news: Progress) -> tuple[str, float] | None:
        """The curve and the mean loss of an epoch, once it is over."""
        # Those that are trained at a time are told apart by their news.
        number = getattr(news, "offspring", None) or self._trainings
        epoch, losses = self._epochs.get(number, (0, []))
        losses = [*(losses if epoch == news.epoch else []), news.loss]
        self._epochs[number] = news.epoch, losses
        if news.step < news.steps:
            return None
        self._epochs[number] = news.epoch, []
        mean = sum(losses) / len(losses)
        sibling = f"_sibling_{number}" if number > 1 else ""
        return (f"live/loss{sibling}", mean) if math.isfinite(mean) else None


def known_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """What trackers said when this run was last tracked; nothing where that cannot be read."""
    try:
        document = read_json(folder / FOLDER / KNOWN_FILE)
    except EvonnxError:
        return {}
    return {
        name: entry
        for name, entry in document.items()
        if isinstance(entry, dict) and isinstance(entry.get("known"), str)
    }
