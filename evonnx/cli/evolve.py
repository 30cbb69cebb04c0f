"""`evonnx evolve`: the main job."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from evonnx.cli._common import (
    Debug,
    InputShapes,
    Json,
    Model,
    Provider,
    Seed,
    Threads,
    TimedOn,
    alignment,
    command,
    console,
    emit,
    input_shapes,
)
from evonnx.durable import is_storage_failure
from evonnx.text import plain

if TYPE_CHECKING:
    from pathlib import Path

    from evonnx.cli._live import LiveObserver
    from evonnx.evolution import EvolveOptions


class Levels(StrEnum):
    """Which of eq. 1's factors acts."""

    BOTH = "both"
    CLUSTERS = "clusters"
    SYNAPSES = "synapses"


class Granularity(StrEnum):
    """What a cluster is."""

    CHANNEL = "channel"
    FILTER = "filter"
    KERNEL = "kernel"


def adapter_options(given: list[str] | None, command_line: str | None) -> dict[str, str]:
    """`["device=cpu"]` as `{"device": "cpu"}`, with the command adapter's program.

    Raises:
        typer.BadParameter: (exit code 2) an option is not of that form.
    """
    options = {"command": command_line} if command_line else {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(
                f"{plain(text)!r} is not of the form NAME=VALUE.", param_hint="--adapter-option"
            )
        options[name] = value
    return options


def parse_budget(given: Sequence[str] | None) -> dict[str, float]:
    """`["macs=0.4"]` as `{"macs": 0.4}`; entries may hold several, with commas between them.

    Raises:
        typer.BadParameter: (exit code 2) it is not of that form, or a name comes twice.
    """
    budget: dict[str, float] = {}
    for entry in (part.strip() for text in given or () for part in text.split(",")):
        name, _, share = entry.partition("=")
        try:
            amount = float(share)
        except ValueError:
            raise typer.BadParameter(
                f"{plain(entry)!r} is not of the form NAME=SHARE, such as macs=0.4.", param_hint="--budget"
            ) from None
        if name in budget:
            raise typer.BadParameter(f"{plain(name)} is budgeted twice.", param_hint="--budget")
        budget[name] = amount
    return budget


@contextlib.contextmanager
def _resumable(observer: LiveObserver, out: str | None, resume: bool) -> Iterator[None]:
    """Tell whoever is interrupted, or whose disk fails, how to go on with the run that has begun."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        stopped = isinstance(error, KeyboardInterrupt) or is_storage_failure(error)
        if stopped and observer.folder is not None and not _is_gone(observer.folder):
            error.add_note(f"Continue with: {resume_command(sys.argv, observer.folder, out, resume)}")
        raise


def _is_gone(folder: Path) -> bool:
    """Whether a folder was removed; one on a drive that does not answer was not."""
    try:
        return not folder.exists()
    except OSError:
        return False


def resume_command(words: Sequence[str], folder: Path, out: str | None, resume: bool) -> str:
    """The command line that continues a run.

    Args:
        words: of the process that began it, with its program.
        folder: the run directory.
        out: what `--out` was, if it was given.
        resume: whether `--resume` was given.
    """
    program, *given = words
    if given[:1] != ["evolve"]:  # called from Python; the options are not in the words
        return f"evonnx evolve, the same options, --out {shlex.quote(str(folder))} --resume"
    missing = [*([] if out is not None else ["--out", str(folder)]), *([] if resume else ["--resume"])]
    name = ["evonnx"] if os.path.basename(program).startswith("evonnx") else ["python", "-m", "evonnx"]  # noqa: PTH119
    # Options may stand before whatever comes behind "--".
    end = given.index("--") if "--" in given else len(given)
    return shlex.join([*name, *given[:end], *missing, *given[end:]])


_PRESSURE = "How hard"
_SELECTION = "Natural selection"
_RETRAINING = "Retraining"
_WORKERS = "Workers"


@command
def evolve(
    model: Model,
    gens: Annotated[int, typer.Option(min=1, max=99, help="Number of offspring.")] = 10,
    task: Annotated[
        str | None,
        typer.Option(
            help="Task file (TOML).", show_default="MODEL's name with .toml, else data-free distillation"
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Run directory.", show_default="runs/<model>-<date-time>")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    keep: Annotated[
        float,
        typer.Option(
            min=0.001, max=1, help="At most this share of the parent's synapses.", rich_help_panel=_PRESSURE
        ),
    ] = 0.8,
    target: Annotated[
        float | None,
        typer.Option(
            min=1e-6, max=1, help="Share of the ancestor's synapses to end at.", rich_help_panel=_PRESSURE
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE",
            help="Share of the ancestor's synapses, macs, bytes or latency to end at, such as latency=0.5, "
            "in place of --keep and --target; may be given for several.",
            show_default=False,
            rich_help_panel=_PRESSURE,
        ),
    ] = None,
    pace: Annotated[
        float,
        typer.Option(
            help="Towards --budget: 1 takes equal steps; above, large ones first and small ones last.",
            rich_help_panel=_PRESSURE,
        ),
    ] = 1.0,
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="Go as low as possible.", rich_help_panel=_PRESSURE)
    ] = False,
    levels: Annotated[
        Levels | None,
        typer.Option(
            help="Factors of eq. 1 that act.", show_default="the encoding's", rich_help_panel=_PRESSURE
        ),
    ] = None,
    cluster_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Clusters' part of the pressure.",
            show_default="the encoding's",
            rich_help_panel=_PRESSURE,
        ),
    ] = None,
    clusters: Annotated[
        Granularity | None,
        typer.Option(help="What a cluster is.", show_default="the encoding's", rich_help_panel=_PRESSURE),
    ] = None,
    encoding: Annotated[
        str, typer.Option(help="Genetic encoding; see `evonnx plugins`.", rich_help_panel=_PRESSURE)
    ] = "adaptive",
    align: Annotated[
        str,
        typer.Option(
            help="Let channels live in multiples of this number; auto: measured.", rich_help_panel=_PRESSURE
        ),
    ] = "auto",
    screen: Annotated[
        int, typer.Option(min=1, help="Samples scored without retraining.", rich_help_panel=_SELECTION)
    ] = 16,
    offspring: Annotated[
        int, typer.Option(min=1, help="Samples retrained per generation.", rich_help_panel=_SELECTION)
    ] = 1,
    parents: Annotated[
        int,
        typer.Option(
            min=1,
            help="Breed a generation from up to this many offspring of the one before: the fittest, and "
            "others that have little in common with it.",
            rich_help_panel=_SELECTION,
        ),
    ] = 1,
    max_drop: Annotated[
        float,
        typer.Option(min=0, help="Largest loss of score, in the metric's unit.", rich_help_panel=_SELECTION),
    ] = 0.04,
    floor: Annotated[
        float | None,
        typer.Option(
            help="Validation score beyond which offspring are discarded, and sampled again less pruned.",
            show_default="half of the way to the worst",
            rich_help_panel=_SELECTION,
        ),
    ] = None,
    adapter: Annotated[
        str, typer.Option(help="Who retrains; see `evonnx plugins`.", rich_help_panel=_RETRAINING)
    ] = "torch",
    adapter_command: Annotated[
        str | None,
        typer.Option("--command", help="Program of the `command` adapter.", rich_help_panel=_RETRAINING),
    ] = None,
    adapter_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting of the adapter's own, such as device=cpu; repeatable.",
            show_default=False,
            rich_help_panel=_RETRAINING,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Epochs per generation.",
            show_default="the task's, else 1",
            rich_help_panel=_RETRAINING,
        ),
    ] = None,
    recovery_epochs: Annotated[
        int | None,
        typer.Option(
            min=0, help="Epochs at the end.", show_default="the task's, else 5", rich_help_panel=_RETRAINING
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Examples per step.", show_default="the adapter's", rich_help_panel=_RETRAINING
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Peak rate.", show_default="the adapter's", rich_help_panel=_RETRAINING),
    ] = None,
    retrain_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Give up on an adapter that is silent for so long.",
            show_default="wait for ever",
            rich_help_panel=_RETRAINING,
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=WHERE]",
            help="Tell an experiment tracker how the run goes: mlflow or tensorboard, at its own place or at "
            "this address or folder; repeatable.",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="local|ray",
            help="Screen and raise offspring in processes of this machine, or on a Ray cluster.",
            show_default="one after another, in this process",
            rich_help_panel=_WORKERS,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Offspring at a time; --threads is what each uses.",
            show_default="as many as there are cores for",
            rich_help_panel=_WORKERS,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Of a Ray cluster that runs, or auto.",
            show_default="one is started on this machine",
            rich_help_panel=_WORKERS,
        ),
    ] = None,
    input_shape: InputShapes = None,
    threads: Threads = None,
    provider: TimedOn = Provider.AUTO,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evolve MODEL over generations into a smaller, faster one.

    The task is --task, else MODEL's name with .toml, else data-free self-distillation against MODEL itself.
    The run directory is safe to kill; --resume with --out continues it to the same result.

    \b
    Examples:
      evonnx evolve model.onnx --gens 10
      evonnx evolve model.onnx --target 0.05 --epochs 2 --out runs/mine
      evonnx evolve model.onnx --out runs/mine --target 0.05 --epochs 2 --resume
      evonnx evolve model.onnx --budget macs=0.4 --levels clusters --epochs 5
      evonnx evolve model.onnx --budget latency=0.5 --budget bytes=0.3
      evonnx evolve model.onnx --track tensorboard --track mlflow=http://localhost:5000
      evonnx evolve model.onnx --offspring 3 --parents 2
      evonnx evolve model.onnx --offspring 4 --executor local --workers 4
      evonnx evolve model.onnx --adapter command --command "python train.py {model} {masks} {output}"
    """
    from rich.console import Console

    from evonnx.cli._live import LiveObserver
    from evonnx.evolution import EvolveOptions, Pressure, Retraining, Selection
    from evonnx.evolution import evolve as run_evolution
    from evonnx.report import render_terminal, write_report
    from evonnx.tracking import Tracking, trackers

    tracked = trackers(track or ())
    options: EvolveOptions = EvolveOptions(
        generations=gens,
        seed=seed,
        max_drop=max_drop,
        floor=floor,
        threads=threads,
        provider=provider.value,
        pressure=Pressure(
            keep=keep,
            target=target,
            budget=parse_budget(budget),
            pace=pace,
            best_effort=best_effort,
            levels=levels.value if levels else None,
            cluster_share=cluster_share,
            clusters=clusters.value if clusters else None,
            encoding=encoding,
            align=alignment(align),
        ),
        selection=Selection(screen=screen, offspring=offspring, parents=parents),
        retraining=Retraining(
            adapter=adapter,
            adapter_options=adapter_options(adapter_option, adapter_command),
            epochs=epochs,
            recovery_epochs=recovery_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
        ),
        input_shapes=input_shapes(input_shape),
    )
    observer = LiveObserver(Console(stderr=True))
    with _resumable(observer, out, resume):
        with observer, Tracking(tracked, observer) as heard:
            run = run_evolution(
                model,
                task,
                out,
                options,
                resume=resume,
                observer=heard,
                retrain_timeout=retrain_timeout,
                executor=executor,
                workers=workers,
                address=address,
            )
            write_report(run.folder)
        if as_json:
            emit({"run_directory": str(run.folder), **run.record})
            return
        render_terminal(run.record, console())
        print(f"\n{run.best} is the model to deploy; {run.folder}/report.html shows how it came about.")
