"""What is known of a run that goes on, and how it looks on a terminal of any size; no clock in here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evonnx.adapter import Progress
from evonnx.text import plain

MOST_LOSSES = 256
"""Kept of one training; older ones are averaged in pairs."""
_BLOCKS, _LETTERS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
_FEWEST_ROWS = 3
"""Of the table, however low the terminal is."""


@dataclass
class Training:
    """One retraining: of a generation's offspring, or the last one."""

    news: Progress
    started: float
    """Seconds, of the clock that `Board` is told."""
    losses: list[float] = field(default_factory=list)
    stride: int = 1
    """Steps that one entry of `losses` stands for."""

    def heard(self, news: Progress) -> None:
        """Another step is done."""
        self.news = news
        if (news.epoch * news.steps + news.step) % self.stride == 0:
            self.losses.append(news.loss)
        if len(self.losses) > MOST_LOSSES:
            self.losses = [_mean(self.losses[at : at + 2]) for at in range(0, len(self.losses), 2)]
            self.stride *= 2

    @property
    def done(self) -> float:
        """Share of all steps, in [0, 1]."""
        news = self.news
        total = news.epochs * news.steps
        return min(1.0, ((news.epoch - 1) * news.steps + news.step) / total) if total else 1.0

    def left(self, now: float) -> float | None:
        """Seconds to go at this pace; None before there is one."""
        return (now - self.started) * (1 - self.done) / self.done if self.done else None


@dataclass
class Board:
    """Everything that the dashboard shows."""

    title: str = ""
    generations: int | None = None
    """How many there are to be; None: not known yet."""
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    """Of finished generations."""
    stage: str = ""
    trainings: dict[int | None, Training] = field(default_factory=dict)
    """By number of the offspring; None: the only one."""
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    """Seconds of each generation that was made in this process."""
    finished: bool = False

    def left(self) -> float | None:
        """Seconds until the last generation is done, at this pace; None before there is one."""
        if not self.took or self.generations is None:
            return None
        return _mean(self.took) * (self.generations - len(self.rows))


def sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """A curve one line high: the lowest value lowest, what is no number as `!`.

    Args:
        values: in order.
        width: letters at most; above, neighbours are averaged.
        ascii_only: the terminal knows no other letters.
    """
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [round(at * len(values) / count) for at in range(count + 1)]
    means = [_mean(values[low:high]) for low, high in itertools.pairwise(edges)]
    finite = [one for one in means if math.isfinite(one)]
    letters = _LETTERS if ascii_only else _BLOCKS
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(letters) - 1) / (high - low) if high > low else 0.0
    return "".join(letters[round((one - low) * scale)] if math.isfinite(one) else "!" for one in means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def duration(seconds: float | None) -> str:
    """`0:01:05`, or question marks."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--:--"
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@dataclass(frozen=True)
class Picture:
    """A board at a moment, as large as the terminal allows."""

    board: Board
    now: float
    """Seconds of the clock that trainings were started by."""
    elapsed: float
    """Seconds since the run was begun."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Whatever has to stay is drawn; the table and remarks get what is left of the height."""
        board, width = self.board, options.max_width
        if board.finished:
            yield from _title(board)
            if board.rows:
                yield _table(board.rows, width)
            yield from _remarks(board.notes, board.faults)
            return
        progress = [*_generations(self, width), *_trainings(self, width, options.ascii_only)]
        height = options.height or console.height
        left = max(0, height - 1 - len(progress) - len(list(_title(board))) - 1)  # a line for the heading
        shown = board.rows[-max(left, _FEWEST_ROWS) :] if board.rows else []
        remarks = list(_remarks(board.notes, board.faults, wrap=False))
        room = max(0, left - len(shown))
        parts: list[RenderableType] = [*_title(board), *([_table(shown, width)] if shown else []), *progress]
        yield Group(*parts, *(remarks[-room:] if room else []))


def _title(board: Board) -> Iterable[Text]:
    if board.title:
        yield Text(plain(board.title), style="bold", no_wrap=True, overflow="ellipsis")


def _table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Columns that fit: the fewest first."""
    columns = [
        ("gen", [f"{row['generation']:02d}" for row in rows]),
        ("A-E", [f"{row['architectural_efficiency']:.2f}x" for row in rows]),
        ("validation", [f"{row['score_validation']:.4f}" for row in rows]),
        ("kB", [f"{row['bytes'] / 1e3:,.0f}" for row in rows]),
        ("C-E", [_times(row["cluster_efficiency"]) for row in rows]),
        ("retrained", [f"{row['retrain_seconds']:.0f} s" for row in rows]),
        ("overhead", [f"{row['overhead_seconds']:.1f} s" for row in rows]),
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    used = 0
    for name, cells in columns:
        used += 2 + max(len(name), *(len(cell) for cell in cells))
        if used > width + 2 and table.columns:
            break
        table.add_column(name, justify="right", no_wrap=True)
    for row in zip(*(cells for _, cells in columns[: len(table.columns)]), strict=True):
        table.add_row(*row)
    return table


def _times(value: float | None) -> str:
    return f"{value:.2f}x" if value else "-"


def _generations(picture: Picture, width: int) -> Iterable[RenderableType]:
    board = picture.board
    made, total = len(board.rows), board.generations
    words = f"{made}/{total} generations" if total else "beginning"
    times = f"{duration(picture.elapsed)} so far, {duration(board.left())} to go"
    yield _bar(made / total if total else 0.0, words, times, width)
    if board.stage:
        yield Text(plain(board.stage), style="cyan", no_wrap=True, overflow="ellipsis")


def _trainings(picture: Picture, width: int, ascii_only: bool) -> Iterable[RenderableType]:
    for number, one in sorted(picture.board.trainings.items(), key=lambda item: item[0] or 0):
        news = one.news
        whose = "" if number is None else f"{number}: "
        words = f"{whose}epoch {news.epoch}/{news.epochs}"
        times = f"{duration(one.left(picture.now))} to go"
        yield _bar(one.done, words, times, width)
        loss = f"loss {news.loss:.4f} "
        curve = sparkline(one.losses, min(48, width - len(loss) - 1), ascii_only)
        yield Text.assemble((loss, "dim"), (curve, "green"), no_wrap=True, overflow="crop")


def _bar(done: float, words: str, times: str, width: int) -> Table:
    """Words, a bar, times; where it is narrow, first the bar goes and then the times."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    room = width - len(words) - len(times) - 2
    cells: list[RenderableType] = [Text(words, no_wrap=True, overflow="ellipsis")]
    if room >= 8:
        cells.append(ProgressBar(total=1.0, completed=done, width=min(40, room)))
    if width >= len(words) + len(times) + 1:
        cells.append(Text(times, style="dim", no_wrap=True))
    for _ in cells:
        grid.add_column(no_wrap=True)
    grid.add_row(*cells)
    return grid


def _remarks(notes: Sequence[str], faults: Sequence[str], wrap: bool = True) -> Iterable[Text]:
    for sign, style, lines in (("-", "", notes), ("!", "red", faults)):
        for line in lines:
            text = Text(f"{sign} {plain(line)}", style=style, no_wrap=not wrap)
            text.overflow = "fold" if wrap else "ellipsis"
            yield text
