"""Models side by side: the edge where sessions are made, run and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.errors import ModelError
from evonnx.network import Array
from evonnx.sessions import (
    default_threads,
    input_specs,
    make_session,
    placement,
    resolve_providers,
    run_session,
)
from evonnx.speed.feeding import batch_sizes, feeds_for
from evonnx.speed.machine import environment
from evonnx.speed.precision import Precision, in_precision
from evonnx.speed.records import BenchResult, Latency, Timed
from evonnx.speed.turns import Clock, summarise, take_turns


def bench(
    paths: Sequence[str | Path],
    *,
    provider: str | Sequence[str] = "auto",
    batches: Sequence[int] | None = (1,),
    precision: Precision = "fp32",
    rounds: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    clock: Clock = time.perf_counter,
) -> BenchResult:
    """Time models side by side.

    Args:
        paths: ONNX files; the others are compared with the first.
        provider: as for `sessions.make_session`; all models run on the same one.
        batches: batch sizes; None: the fixed one of the models, else 1.
        precision: "fp32" times the files as they are, "fp16" a float16 copy in memory (same inputs, outputs).
        rounds: samples of each model at each batch size; None: what takes about three seconds, 10 to 100.
        threads: onnxruntime's; None: all cores of this process.
        seed: for inputs and the order within rounds.
        input_shapes: shapes of inputs with dynamic dimensions beyond the batch, by input name.
        clock: seconds.

    Raises:
        ModelError: a model does not load or run, a batch size does not fit one, or it can't be made float16.
        ProviderError: the provider cannot run here.
    """
    if not paths:
        raise ModelError("There is no model to time; name at least one ONNX file.")
    wanted = resolve_providers(provider)
    workers = threads or default_threads()
    notes: list[str] = []
    sources = [in_precision(Path(path), precision) for path in paths]
    sessions = [make_session(one, threads=workers, providers=wanted, spinning=True) for one in sources]
    if precision == "fp16" and wanted[0].startswith("CPU"):
        notes.append(
            "The CPU has few float16 kernels; times include the casts that onnxruntime puts around others."
        )
    specs = [input_specs(session) for session in sessions]
    sizes = batch_sizes(paths, specs, batches)
    order = np.random.default_rng([seed, 1])
    latencies: list[Latency] = []
    for batch in sizes:
        runs = []
        for session, spec in zip(sessions, specs, strict=True):
            # The same seed for every model: equal inputs where names and shapes are equal.
            feeds = feeds_for(spec, batch, np.random.default_rng([seed, 0]), input_shapes)
            runs.append(_runner(session, feeds))
        times, repeats = take_turns(runs, rounds, order, clock)
        latencies += summarise([str(path) for path in paths], batch, times, repeats, seed)
    return BenchResult(
        latencies=tuple(latencies),
        models=tuple(
            Timed(index, str(path), Path(path).stat().st_size, placement(session))
            for index, (path, session) in enumerate(zip(paths, sessions, strict=True))
        ),
        provider=wanted[0],
        precision=precision,
        threads=workers,
        rounds=min(latency.samples for latency in latencies),
        seed=seed,
        environment=environment(),
        notes=tuple(notes),
    )


def _runner(session: Any, feeds: Mapping[str, Array]) -> Callable[[], None]:
    names = [output.name for output in session.get_outputs()]
    run_session(session, feeds, names)  # a clear error before the clock starts
    held = dict(feeds)

    def run() -> None:
        session.run(names, held)

    return run
