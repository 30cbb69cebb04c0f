"""What `evonnx evolve` shows on stderr while it works: a dashboard on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from evonnx.adapter import Progress as TrainingNews
from evonnx.cli._board import Board, Picture, Training
from evonnx.evolution import Observer
from evonnx.text import plain

_PER_SECOND = 4
"""Pictures."""


class LiveObserver(Observer):
    """A dashboard: generations so far, what is being done, the training's loss, and when it will be over.

    On a pipe, in a file or on a terminal that can't move its cursor: one line per step.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Show on `console` (stderr); use as a context manager so that the terminal is left tidy."""
        self.console = console
        self.board = Board()
        self.folder: Path | None = None
        """The run directory, once there is a run in it."""
        self._clock = clock
        self._begun = self._turn = clock()
        self._working = 0
        self._size = console.size
        self._live = (
            Live(
                console=console,
                get_renderable=self._picture,
                refresh_per_second=_PER_SECOND,
                vertical_overflow="crop",
            )
            if console.is_terminal and not console.is_dumb_terminal
            else None
        )

    def __enter__(self) -> LiveObserver:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.board.finished = True
        if self._live:
            self._live.stop()  # draws what stays: the table and the remarks

    def _picture(self) -> Picture:
        """Called for every refresh. A terminal that was made narrower has broken the last picture's lines, so
        nobody knows how many rows it takes: the new one starts on a clean screen."""
        if self.console.size != self._size:
            self._size = self.console.size
            self.console.control(Control.clear(), Control.home())
        now = self._clock()
        return Picture(self.board, now, now - self._begun)

    def opened(self, folder: Path) -> None:
        """Remember where the run is."""
        self.folder = folder

    def started(self, title: str, generations: int, notes: list[str]) -> None:
        """Print the title and what there is to know."""
        self.board.title, self.board.generations = title, generations
        if not self._live:
            self.console.print(f"[bold]{escape(plain(title))}[/bold]", soft_wrap=True)
        for note in notes:
            self.note(note)

    def stage(self, generation: int, text: str) -> None:
        """Show the step; on a pipe, one line per step, without the counting ones."""
        label = f"gen {generation:02d}" if generation else "run"
        if generation and generation != self._working:
            self._working, self._turn = generation, self._clock()
        self.board.stage = f"{label}: {text}"
        for number in [one for one in self.board.trainings if text == f"offspring {one}: raised"]:
            del self.board.trainings[number]
        if not text.startswith("offspring "):  # several are raised at once, each at a step of its own
            self.board.trainings.clear()
        if not self._live and not text.startswith("screening"):
            self._say(f"{label}: {text}")

    def training(self, generation: int, news: TrainingNews) -> None:
        """Move the training's bar, and its curve."""
        number = news.offspring
        trainings = self.board.trainings
        if number not in trainings:
            trainings[number] = Training(news, self._clock())
        trainings[number].heard(news)

    def generation_done(self, row: Mapping[str, Any]) -> None:
        """A row of the table, or one line: sizes and scores."""
        if row["generation"] == self._working:  # of a run that was resumed, the others took no time now
            self.board.took.append(self._clock() - self._turn)
        self.board.trainings.clear()
        self.board.rows.append(row)
        self.board.faults += [
            f"gen {row['generation']:02d}, {one['stage']}: {one['kind']}; {one['action']}"
            for one in row.get("faults", ())
        ]
        if self._live:
            return
        clusters, reached = row["cluster_efficiency"], row.get("alignment")
        aligned = ""
        if reached and reached["requested"] > 1:
            aligned = (
                f"{reached['aligned']}/{reached['groups']} groups at multiples of {reached['requested']}, "
            )
        self._say(
            f"gen {row['generation']:02d}: A-E {row['architectural_efficiency']:.2f}x"
            f"{f', C-E {clusters:.2f}x' if clusters else ''}, validation {row['score_validation']:.4f}, "
            f"{row['bytes'] / 1e3:.0f} kB, {aligned}retrained {row['retrain_seconds']:.0f} s, "
            f"overhead {row['overhead_seconds']:.1f} s"
        )

    def note(self, text: str) -> None:
        """Show a remark."""
        self.board.notes.append(text)
        if not self._live:
            self._say(f"  {text}")

    def _say(self, line: str) -> None:
        self.console.print(Text(plain(line)), soft_wrap=True)
