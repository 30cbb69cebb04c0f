"""`evonnx evaluate`: the score of a file as it ships."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from evonnx.cli._common import (
    Debug,
    InputShapes,
    Json,
    Model,
    Provider,
    Threads,
    command,
    emit,
    input_shapes,
    say,
)


class Split(StrEnum):
    """Which examples."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@command
def evaluate(
    model: Model,
    task: Annotated[
        str | None,
        typer.Option(
            help="Task file (TOML).", show_default="MODEL's name with .toml, else data-free agreement"
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which examples.")] = Split.TEST,
    ancestor: Annotated[
        str | None,
        typer.Option(
            help="Model to agree with, for tasks that score against one.", show_default="MODEL itself"
        ),
    ] = None,
    provider: Annotated[Provider, typer.Option(help="Where onnxruntime runs.")] = Provider.CPU,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples at a time.", show_default="by input size")
    ] = None,
    threads: Threads = None,
    input_shape: InputShapes = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score MODEL on a task, in onnxruntime.

    \b
    Examples:
      evonnx evaluate model.onnx --task model.toml
      evonnx evaluate runs/model/best.onnx --task model.toml --split validation --json
      evonnx evaluate runs/model/best.onnx --ancestor model.onnx
    """
    from pathlib import Path

    from evonnx.evaluation import evaluate as score_of
    from evonnx.network import load_network
    from evonnx.tasks import find_task
    from evonnx.trial import require_end

    network = load_network(model, input_shapes(input_shape))
    require_end(network)
    found, how_found, _ = find_task(Path(model), network, Path(task) if task is not None else None)
    say(how_found)
    score = score_of(
        model,
        found,
        split.value,
        threads=threads,
        batch_size=batch_size,
        providers=provider.value,
        ancestor=ancestor or model,
    )
    if as_json:
        emit({"model": model, "task": found.describe(), "how_found": how_found, **score.to_json()})
        return
    figures = {score.metric: score.value, **score.details}
    shown = ", ".join(f"{name} {_shown(value, found.metric.unit)}" for name, value in figures.items())
    print(f"{shown} on {score.examples} {score.split} examples ({score.provider}, {score.seconds:.1f} s)")


def _shown(value: float, unit: str) -> str:
    """A figure with its unit."""
    return f"{100 * value:.2f}%" if unit == "%" else f"{value:.6g} {unit}".strip()
