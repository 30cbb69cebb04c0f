"""run.json as tables in the terminal, report.md and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonnx.report.page import page
from evonnx.report.reading import Run, of_a_record, read_run
from evonnx.report.table import literal, show, to_markdown
from evonnx.report.tables import summary, tables
from evonnx.run_store import RUN_FILE, read_json, write_atomic
from evonnx.text import plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["HTML_FILE", "MARKDOWN_FILE", "markdown", "read_run", "render_terminal", "write_report"]

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"


def render_terminal(run: Mapping[str, Any], console: Console) -> None:
    """Print a run's tables, its notes and one closing line of what was won.

    Args:
        run: what run.json holds.
        console: where to.

    Raises:
        RunError: it is not the record of a run.
    """
    from rich.text import Text

    read = read_run(run)
    with of_a_record(RUN_FILE):
        parts = tables(read)
        closing = summary(read)
    console.print(Text(plain(f"{read.model}: {read.task}"), style="bold"))
    console.print()
    for table in parts:
        show(table, console)
    for note in read.notes:
        console.print(Text(f"- {plain(note)}"))
    console.print(Text(plain(closing), style="bold"))


def markdown(run: Run) -> str:
    """report.md."""
    parts = [
        f"# {literal(run.model)}\n",
        f"{literal(run.task)}\n",
        f"**{literal(summary(run))}**\n",
        *map(to_markdown, tables(run)),
    ]
    if run.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {literal(note)}" for note in run.notes) + "\n")
    facts = (f"- {name}: {literal(value)}" for name, value in run.facts.items())
    parts.append("## How it was made\n\n" + "\n".join(facts) + "\n")
    return "\n".join(parts)


def write_report(run_dir: str | Path) -> tuple[Path, Path]:
    """Write report.html and report.md into a run directory, each whole or not at all.

    Returns:
        Where they are: (report.html, report.md).

    Raises:
        RunError: no run.json there, not the record of a run, or the folder cannot be written.
    """
    folder = Path(run_dir)
    run = read_run(read_json(folder / RUN_FILE), str(folder / RUN_FILE))
    with of_a_record(str(folder / RUN_FILE)):
        pages = {HTML_FILE: page(run), MARKDOWN_FILE: markdown(run)}
    for name, content in pages.items():
        write_atomic(folder / name, content.encode())
    return folder / HTML_FILE, folder / MARKDOWN_FILE
