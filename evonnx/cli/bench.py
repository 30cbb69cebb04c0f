"""`evonnx bench`: measured latency, models taking turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evonnx.cli._common import (
    Debug,
    InputShapes,
    Json,
    Provider,
    Seed,
    Threads,
    command,
    console,
    emit,
    input_shapes,
    say,
    whole_numbers,
)
from evonnx.text import plain

if TYPE_CHECKING:
    from evonnx.speed import Precision


@command
def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="ONNX files; the others are compared with the first.", show_default=False
        ),
    ],
    provider: Annotated[Provider, typer.Option(help="Where onnxruntime runs.")] = Provider.AUTO,
    batch: Annotated[
        str | None,
        typer.Option(metavar="1,32", help="Batch sizes.", show_default="the models' fixed one, else 1"),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(metavar="fp32,fp16,int8", help="The files as they are, float16 or quantised copies."),
    ] = "fp32",
    rounds: Annotated[
        int | None, typer.Option(min=3, help="Samples per model.", show_default="about 3 seconds' worth")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare outputs with the first model's, on random inputs.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Measure memory, each model in a process of its own.")
    ] = False,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Show where time goes, node by node.")
    ] = False,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs/--no-cuda-graphs", help="On CUDA, replay captured runs.")
    ] = True,
    input_shape: InputShapes = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time models in onnxruntime, side by side.

    The models take turns, so that a busy machine slows all of them alike. Reported per batch size: median,
    p10 and p90 milliseconds, throughput, how many times faster than the first model, and which provider ran
    the nodes. Asking for a provider that cannot run here is an error. --check says how far the outputs are
    apart.

    \b
    Examples:
      evonnx bench model.onnx runs/model/best.onnx
      evonnx bench model.onnx small.onnx --batch 1,32 --provider cpu --threads 2
      evonnx bench masked.onnx compact.onnx --check
      evonnx bench model.onnx small.onnx --precision fp32,int8 --check
      evonnx bench model.onnx --provider cuda --precision fp16 --json
    """
    batches = whole_numbers(batch, "--batch") if batch is not None else None
    shapes = input_shapes(input_shape)
    precisions = _precisions(precision)

    from evonnx.report.benching import bench_tables
    from evonnx.report.table import show
    from evonnx.speed import bench as measure

    say(f"timing {len(models)} model{'s' if len(models) > 1 else ''} in turns")
    result = measure(
        models,
        provider=provider.value,
        batches=batches,
        precision=precisions,
        rounds=rounds,
        threads=threads,
        input_shapes=shapes,
        seed=seed,
        check=check,
        memory=memory,
        per_layer=per_layer,
        cuda_graphs=cuda_graphs,
    )
    document = result.to_json()
    if as_json:
        emit(document)
        return
    for table in bench_tables(document):
        show(table, console())


def _precisions(text: str) -> list[Precision]:
    """`"fp32,int8"` as ["fp32", "int8"].

    Raises:
        typer.BadParameter: (exit code 2) an unknown one, or one is there twice.
    """
    known: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
    names = text.split(",")
    if len(set(names)) < len(names) or not set(names) <= set(known):
        raise typer.BadParameter(
            f"{plain(text)!r} is not a list of different precisions out of {', '.join(known)}.",
            param_hint="--precision",
        )
    return [known[name] for name in names]
