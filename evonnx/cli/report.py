"""`evonnx report`: a run as tables and plots."""

from __future__ import annotations

from typing import Annotated

import typer

from evonnx.cli._common import Debug, Json, command, console, emit, say


@command
def report(
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN_DIR", help="Where `evonnx evolve` wrote.", show_default=False)
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a run as tables and plots.

    Prints tables in the paper's form and writes report.md and report.html into RUN_DIR; the latter adds plots
    and opens without a network. A run that is still going on can be reported too. With --json: run.json and
    where the reports are.

    \b
    Examples:
      evonnx report runs/model-20260101-120000
      evonnx report runs/mine --json
    """
    from pathlib import Path

    from evonnx.report import render_terminal, write_report
    from evonnx.run_store import RUN_FILE, read_json

    page, text = write_report(run_dir)
    run = read_json(Path(run_dir) / RUN_FILE)
    if as_json:
        emit({"run": run, "report_html": str(page), "report_md": str(text)})
        return
    render_terminal(run, console())
    say(f"Written: {page} and {text}")
