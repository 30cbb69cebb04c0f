"""Measured latency in onnxruntime: models take turns in random order, so that a busy machine slows all alike.

Each sample is the mean of as many runs as take a millisecond or more, after one that is not timed; each round
takes one sample of every model. Ratios are made within rounds, then their median is taken, which a drifting
clock rate does not bias. Times are end to end: on a GPU they include the copies of inputs and outputs.
"""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import ModelError
from evonnx.network import Array
from evonnx.sessions import (
    InputSpec,
    concrete_shape,
    default_threads,
    input_specs,
    make_session,
    placement,
    random_array,
    resolve_providers,
    run_session,
    versions,
)

Precision = Literal["fp32", "fp16"]
Clock = Callable[[], float]

SAMPLE_SECONDS = 1e-3
"""Shortest time that one sample may take."""
WARM_UP_SECONDS = 1.0
"""Longest warm-up of one model at one batch size, after its first two runs."""
BATCH_SECONDS = 3.0
"""What the rounds of one model at one batch size may take where `rounds` is not given."""


@dataclass(frozen=True)
class Latency:
    """One model at one batch size."""

    index: int
    """Position of the model among those compared; 0 is the reference."""
    model: str
    batch: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    throughput: float
    """Examples per second, at the median."""
    ratio: float
    """How many times as fast as the first model: median over rounds of (its time / this time)."""
    ratio_p10: float
    ratio_p90: float
    ratio_low: float
    """95% bootstrap interval of the median ratio."""
    ratio_high: float
    samples: int
    runs_per_sample: int


@dataclass(frozen=True)
class Timed:
    """One model of a comparison, and where its nodes ran."""

    index: int
    model: str
    bytes: int
    nodes: Mapping[str, Sequence[str]] | None
    """Nodes of the optimised graph by execution provider; None where onnxruntime does not report them."""

    def summary(self) -> str:
        """Such as "CPUExecutionProvider 12, CUDAExecutionProvider 340"."""
        if self.nodes is None:
            return "not reported by this onnxruntime"
        return ", ".join(f"{provider} {len(nodes)}" for provider, nodes in sorted(self.nodes.items()))


@dataclass(frozen=True)
class BenchResult:
    """A comparison: every model at every batch size, batch by batch."""

    latencies: tuple[Latency, ...]
    models: tuple[Timed, ...]
    provider: str
    precision: str
    threads: int
    rounds: int
    seed: int
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-able data."""
        return {
            **{name: getattr(self, name) for name in ("provider", "precision", "threads", "rounds", "seed")},
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "models": [{**asdict(model), "placement": model.summary()} for model in self.models],
            "latencies": [asdict(latency) for latency in self.latencies],
        }


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
    sources = [_source(Path(path), precision) for path in paths]
    sessions = [make_session(one, threads=workers, providers=wanted, spinning=True) for one in sources]
    if precision == "fp16" and wanted[0].startswith("CPU"):
        notes.append(
            "The CPU has few float16 kernels; times include the casts that onnxruntime puts around others."
        )
    specs = [input_specs(session) for session in sessions]
    sizes = _batch_sizes(paths, specs, batches)
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


def feeds_for(
    specs: Sequence[InputSpec],
    batch: int,
    rng: np.random.Generator,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Array]:
    """Random inputs at one batch size; dynamic dimensions beyond the batch from `input_shapes`, else 1.

    A symbol that names the first axis of the first input means the batch wherever else it stands.
    """
    first = specs[0].shape[0] if specs and specs[0].shape else None
    symbols = {first: batch} if isinstance(first, str) else {}
    feeds = {}
    for spec in specs:
        shape = list(concrete_shape(spec, symbols, batch))
        for axis, size in enumerate((input_shapes or {}).get(spec.name, ())):
            dim = spec.shape[axis] if axis < len(spec.shape) else 0
            if axis > 0 and not isinstance(dim, int) and dim not in symbols:
                shape[axis] = size
        feeds[spec.name] = random_array(spec, shape, rng)
    return feeds


def _batch_sizes(
    paths: Sequence[str | Path], specs: Sequence[Sequence[InputSpec]], batches: Sequence[int] | None
) -> tuple[int, ...]:
    fixed: dict[str, int] = {}
    for path, inputs in zip(paths, specs, strict=True):
        first = inputs[0].shape[0] if inputs and inputs[0].shape else None
        if isinstance(first, int):
            fixed[str(path)] = first
    if batches is None:
        chosen = set(fixed.values()) or {1}
        if len(chosen) > 1:
            raise ModelError(
                f"These models have different fixed batch sizes and can't be compared: {fixed}. "
                "Export them with a dynamic batch dimension."
            )
        return tuple(chosen)
    for path, size in fixed.items():
        wrong = [batch for batch in batches if batch != size]
        if wrong:
            raise ModelError(
                f"{path} has its batch dimension fixed to {size}, so it can't be timed at batch {wrong[0]}. "
                f"Ask for --batch {size}, or export it with a dynamic batch dimension."
            )
    if any(batch < 1 for batch in batches):
        raise ModelError(f"Batch sizes must be at least 1, not {min(batches)}.")
    return tuple(batches)


def take_turns(
    runs: Sequence[Callable[[], None]], rounds: int | None, order: np.random.Generator, clock: Clock
) -> tuple[NDArray[np.float64], list[int]]:
    """Warm every model up, then sample all of them in each round, in random order.

    Args:
        runs: one call is one run of a model.
        rounds: how many; None: as many as fit `BATCH_SECONDS` per model, 10 to 100.
        order: draws the order within each round.
        clock: seconds.

    Returns:
        Seconds per run, shape (rounds, models), and how many runs each model's samples are the mean of.
    """
    warm = [warm_up(run, clock) for run in runs]
    repeats = [max(1, int(np.ceil(SAMPLE_SECONDS / max(seconds, 1e-7)))) for seconds in warm]
    if rounds is None:
        longest = max((1 + count) * seconds for count, seconds in zip(repeats, warm, strict=True))
        rounds = int(np.clip(BATCH_SECONDS / max(longest, 1e-7), 10, 100))
    times = np.zeros((rounds, len(runs)))
    for row in times:
        for index in order.permutation(len(runs)):
            row[index] = one_sample(runs[index], repeats[index], clock)
    return times, repeats


def one_sample(run: Callable[[], None], repeats: int, clock: Clock) -> float:
    """Seconds per run, over `repeats` of them.

    One more goes before, untimed: the model whose turn it was has filled the caches, and its idle threads
    keep the cores busy for a moment.
    """
    run()
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def warm_up(run: Callable[[], None], clock: Clock) -> float:
    """Run until five runs are within 5% of the five before (medians), or `WARM_UP_SECONDS` are over.

    Returns:
        Seconds per run, as last seen.
    """
    run()  # allocations and lazy initialisation
    began = clock()
    taken: list[float] = []
    while True:
        start = clock()
        run()
        taken.append(clock() - start)
        if clock() - began >= WARM_UP_SECONDS:
            break
        if len(taken) >= 10:
            before, now = np.median(taken[-10:-5]), np.median(taken[-5:])
            if abs(now - before) <= 0.05 * before:
                break
    return float(np.median(taken[-5:]))


def summarise(
    names: Sequence[str], batch: int, times: NDArray[np.float64], repeats: Sequence[int], seed: int
) -> list[Latency]:
    """Medians, spreads and paired ratios of `take_turns`' samples, shape (rounds, models), in seconds."""
    rng = np.random.default_rng([seed, 2])
    rounds = len(times)
    resampled = rng.integers(0, rounds, size=(1000, rounds))
    rows = []
    for index, name in enumerate(names):
        own = times[:, index] * 1e3
        ratios = times[:, 0] / times[:, index]
        medians = np.median(ratios[resampled], axis=1)
        p10, median, p90 = np.percentile(own, [10, 50, 90])
        ratio_p10, ratio, ratio_p90 = np.percentile(ratios, [10, 50, 90])
        low, high = np.percentile(medians, [2.5, 97.5])
        rows.append(
            Latency(
                index=index,
                model=name,
                batch=batch,
                median_ms=float(median),
                p10_ms=float(p10),
                p90_ms=float(p90),
                throughput=float(batch / median * 1e3),
                ratio=float(ratio),
                ratio_p10=float(ratio_p10),
                ratio_p90=float(ratio_p90),
                ratio_low=float(low),
                ratio_high=float(high),
                samples=rounds,
                runs_per_sample=repeats[index],
            )
        )
    return rows


def _source(path: Path, precision: Precision) -> str | bytes:
    if precision == "fp32":
        return str(path)
    if precision != "fp16":
        raise ModelError(f"Precision {precision!r} is not known; use fp32 or fp16.")
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = convert_float_to_float16(onnx.load(path), keep_io_types=True)
        return bytes(converted.SerializeToString())
    except Exception as error:  # the converter raises whatever the graph makes it stumble over
        raise ModelError(
            f"{path} can't be converted to float16: {error}. Time it with --precision fp32."
        ) from error


def environment() -> dict[str, str]:
    """Machine and versions, for records."""
    return {
        "processor": _processor(),
        "cores": str(default_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or os.environ.get("PROCESSOR_IDENTIFIER", "unknown")
