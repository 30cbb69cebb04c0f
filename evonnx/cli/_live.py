"""What `evonnx evolve` shows on stderr while it works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evonnx.adapter import Progress as TrainingNews
from evonnx.evolution import Observer


class LiveObserver(Observer):
    """Bars for generations and epochs, one line per finished generation."""

    def __init__(self, console: Console) -> None:
        """Show on `console` (stderr); use as a context manager so that the terminal is left tidy."""
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.folder: Path | None = None
        """The run directory, once there is a run in it."""
        self.generations = self.bars.add_task("generations", total=None, news="")
        self.epochs = self.bars.add_task("training", total=None, news="", visible=False)

    def __enter__(self) -> LiveObserver:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def opened(self, folder: Path) -> None:
        """Remember where the run is."""
        self.folder = folder

    def started(self, title: str, generations: int, notes: list[str]) -> None:
        """Print the title and what there is to know."""
        self.console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
        for note in notes:
            self.note(note)
        self.bars.update(self.generations, total=generations)

    def stage(self, generation: int, text: str) -> None:
        """Show the step beside the bar; on a pipe, one line per step, without the counting ones."""
        label = f"gen {generation:02d}" if generation else "run"
        self.bars.update(self.generations, news=f"{label}: {text}")
        self.bars.update(self.epochs, visible=False)
        if not self.console.is_terminal and not text.startswith("screening"):
            self.console.print(f"{label}: {text}", markup=False, highlight=False)

    def training(self, generation: int, news: TrainingNews) -> None:
        """Move the training bar."""
        self.bars.update(
            self.epochs,
            visible=True,
            total=news.epochs * news.steps,
            completed=(news.epoch - 1) * news.steps + news.step,
            news=f"epoch {news.epoch}/{news.epochs}, loss {news.loss:.4f}",
        )

    def generation_done(self, row: Mapping[str, Any]) -> None:
        """One line: sizes and scores."""
        self.bars.update(self.generations, completed=row["generation"])
        clusters, reached = row["cluster_efficiency"], row.get("alignment")
        aligned = ""
        if reached and reached["requested"] > 1:
            aligned = (
                f"{reached['aligned']}/{reached['groups']} groups at multiples of {reached['requested']}, "
            )
        self.console.print(
            f"gen {row['generation']:02d}: A-E {row['architectural_efficiency']:.2f}x"
            f"{f', C-E {clusters:.2f}x' if clusters else ''}, validation {row['score_validation']:.4f}, "
            f"{row['bytes'] / 1e3:.0f} kB, {aligned}retrained {row['retrain_seconds']:.0f} s, "
            f"overhead {row['overhead_seconds']:.1f} s",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def note(self, text: str) -> None:
        """Print a remark."""
        self.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)
