"""The command line: one file per command. Heavy modules are imported when a command runs, not before."""

from __future__ import annotations

from typing import Annotated

import typer

from evonnx import __version__
from evonnx.cli.bench import bench
from evonnx.cli.compact import compact
from evonnx.cli.evaluate import evaluate
from evonnx.cli.evolve import evolve
from evonnx.cli.inspect import inspect
from evonnx.cli.plan import plan
from evonnx.cli.plugins import plugins
from evonnx.cli.report import report
from evonnx.cli.synthesize import synthesize

app = typer.Typer(
    name="evonnx",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for one in (inspect, evolve, synthesize, compact, evaluate, bench, report, plan, plugins):
    app.command()(one)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evonnx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Evolve a trained ONNX model into a smaller and faster one.

    ONNX in, ONNX out: every offspring is proven equal to what was removed from it, and scored and timed in
    onnxruntime.

    \b
    Examples:
      evonnx evolve model.onnx --gens 10
      evonnx inspect model.onnx
      evonnx bench model.onnx runs/model/best.onnx --batch 1,32
    """


def main() -> None:
    """Entry point of the `evonnx` program."""
    app(prog_name="evonnx")
