"""Models side by side: the edge where sessions are made, run and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.errors import ModelError
from evonnx.network import Array
from evonnx.sessions import (
    CPU,
    InputSpec,
    default_threads,
    input_specs,
    make_session,
    placement,
    resolve_providers,
    run_session,
)
from evonnx.speed.agreement import CHECK_EXAMPLES, compare, fitted, merge
from evonnx.speed.feeding import batch_sizes, feeds_for
from evonnx.speed.layers import op_times
from evonnx.speed.machine import environment
from evonnx.speed.memory import measure_memory
from evonnx.speed.noise import conditions, noise_notes
from evonnx.speed.precision import Precision, in_precision
from evonnx.speed.profiling import profile_nodes
from evonnx.speed.readings import Reading, read
from evonnx.speed.records import Agreement, BenchResult, Latency, LayerTimes, Memory, OutputAgreement, Timed
from evonnx.speed.turns import Clock, summarise, take_turns

InputShapes = Mapping[str, Sequence[int]] | None


@dataclass(frozen=True)
class _Contestant:
    """One of the models that are compared, ready to run."""

    index: int
    path: str
    source: str | bytes
    """What the session was made from."""
    session: Any
    specs: tuple[InputSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return run_session(self.session, feeds)


def bench(
    paths: Sequence[str | Path],
    *,
    provider: str | Sequence[str] = "auto",
    batches: Sequence[int] | None = (1,),
    precision: Precision = "fp32",
    rounds: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    input_shapes: InputShapes = None,
    check: bool = False,
    memory: bool = False,
    per_layer: bool = False,
    clock: Clock = time.perf_counter,
    read: Callable[[], Reading] = read,
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
        check: compare every model's outputs with the first one's (`BenchResult.agreement`).
        memory: measure what each model takes, in a process of its own (`BenchResult.memory`).
        per_layer: profile where each model's time goes, in a session of its own (`BenchResult.per_layer`).
        clock: seconds.
        read: tells what goes on on the machine, before and after each batch size is timed.

    Raises:
        ModelError: a model does not load or run, a batch size does not fit one, or it can't be made float16.
        ProviderError: the provider cannot run here.
    """
    if not paths:
        raise ModelError("There is no model to time; name at least one ONNX file.")
    wanted = resolve_providers(provider)
    workers = threads or default_threads()
    notes: list[str] = []
    contestants = [
        _contestant(index, Path(path), precision, workers, wanted) for index, path in enumerate(paths)
    ]
    if precision == "fp16" and wanted[0].startswith("CPU"):
        notes.append(
            "The CPU has few float16 kernels; times include the casts that onnxruntime puts around others."
        )
    order = np.random.default_rng([seed, 1])
    latencies: list[Latency] = []
    agreement: list[Agreement] = []
    memories: list[Memory] = []
    layers: list[LayerTimes] = []
    readings: list[tuple[Reading, Reading]] = []
    for batch in batch_sizes(paths, [one.specs for one in contestants], batches):
        # The same seed for every model: equal inputs where names and shapes are equal.
        fed = [
            feeds_for(one.specs, batch, np.random.default_rng([seed, 0]), input_shapes) for one in contestants
        ]
        if check:
            agreement += _agreement(contestants, batch, seed, input_shapes)
        runs = [_runner(one.session, feeds) for one, feeds in zip(contestants, fed, strict=True)]
        before = read()
        times, repeats = take_turns(runs, rounds, order, clock)
        readings.append((before, read()))
        latencies += summarise([one.path for one in contestants], batch, times, repeats, seed)
        for one, feeds in zip(contestants, fed, strict=True):
            where: dict[str, Any] = {"threads": workers, "providers": wanted}
            if memory:
                taken = measure_memory(one.source, batch=batch, seed=seed, input_shapes=input_shapes, **where)
                memories.append(Memory(one.index, one.path, batch, **taken))
            if per_layer:
                count, nodes = profile_nodes(one.source, feeds, **where)
                whole = sum(node.microseconds for node in nodes)
                layers.append(LayerTimes(one.index, one.path, batch, count, whole, nodes, op_times(nodes)))
    if per_layer and wanted[0] != CPU:
        notes.append(
            f"Times per node are what the host spends on them; what {wanted[0]} computes afterwards on its "
            "own is not in them."
        )
    disturbed = conditions(readings)
    return BenchResult(
        latencies=tuple(latencies),
        models=tuple(
            Timed(one.index, one.path, Path(one.path).stat().st_size, placement(one.session))
            for one in contestants
        ),
        provider=wanted[0],
        precision=precision,
        threads=workers,
        rounds=min(latency.samples for latency in latencies),
        seed=seed,
        environment=environment(),
        notes=(*notes, *noise_notes(disturbed, latencies)),
        conditions=disturbed,
        agreement=tuple(agreement) if check else None,
        memory=tuple(memories) if memory else None,
        per_layer=tuple(layers) if per_layer else None,
    )


def _contestant(
    index: int, path: Path, precision: Precision, threads: int, providers: Sequence[str]
) -> _Contestant:
    source = in_precision(path, precision)
    session = make_session(source, threads=threads, providers=providers, spinning=True)
    return _Contestant(index, str(path), source, session, input_specs(session))


def _runner(session: Any, feeds: Mapping[str, Array]) -> Callable[[], None]:
    names = [output.name for output in session.get_outputs()]
    run_session(session, feeds, names)  # a clear error before the clock starts
    held = dict(feeds)

    def run() -> None:
        session.run(names, held)

    return run


def _agreement(
    contestants: Sequence[_Contestant], batch: int, seed: int, input_shapes: InputShapes
) -> list[Agreement]:
    """Every model after the first against the first; the first run's inputs are those that are timed."""
    first, *others = contestants
    rng = np.random.default_rng([seed, 0])
    runs = -(-CHECK_EXAMPLES // batch)
    found: dict[int, list[tuple[OutputAgreement, ...]]] = {one.index: [] for one in others}
    reasons: dict[int, str] = {}
    for _ in range(runs):
        feeds = feeds_for(first.specs, batch, rng, input_shapes)
        expected = first.run(feeds)
        for one in others:
            given = fitted(feeds, one.specs)
            if isinstance(given, str):
                reasons[one.index] = given
            else:
                found[one.index].append(compare(expected, one.run(given), batch))
    return [
        Agreement(one.index, one.path, batch, runs * batch, merge(found[one.index]), reasons.get(one.index))
        for one in others
    ]
