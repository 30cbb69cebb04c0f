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
from evonnx.onnx_io import has_loops
from evonnx.sessions import (
    CPU,
    LOOP_SECONDS,
    EndlessError,
    InputSpec,
    default_threads,
    input_specs,
    make_session,
    placement,
    resolve_providers,
    run_session,
)
from evonnx.speed.agreement import CHECK_EXAMPLES, compare, fitted, merge
from evonnx.speed.binding import DEVICES, GRAPH_OPTIONS
from evonnx.speed.feeding import batch_sizes, feeds_for
from evonnx.speed.gpu import device_note, read_device
from evonnx.speed.layers import op_times
from evonnx.speed.machine import environment
from evonnx.speed.memory import measure_memory
from evonnx.speed.noise import conditions, noise_notes
from evonnx.speed.placing import placement_note
from evonnx.speed.precision import CALIBRATION_EXAMPLES, Precision, in_precision
from evonnx.speed.profiling import profile_nodes
from evonnx.speed.readings import Reading, read
from evonnx.speed.records import (
    Agreement,
    BenchResult,
    Copies,
    Device,
    Latency,
    LayerTimes,
    Memory,
    OutputAgreement,
    Timed,
)
from evonnx.speed.running import way_to_run
from evonnx.speed.turns import Clock, summarise, take_turns

InputShapes = Mapping[str, Sequence[int]] | None


@dataclass(frozen=True)
class _Setting:
    """What was asked for, and the machine's clock and readings."""

    providers: tuple[str, ...]
    threads: int
    rounds: int | None
    seed: int
    input_shapes: InputShapes
    check: bool
    memory: bool
    per_layer: bool
    cuda_graphs: bool
    clock: Clock
    read: Callable[[], Reading]

    @property
    def provider(self) -> str:
        return self.providers[0]

    def session(self, source: str | bytes, **more: Any) -> Any:
        return make_session(source, threads=self.threads, providers=self.providers, spinning=True, **more)


@dataclass(frozen=True)
class _AtBatch:
    """What was measured at one batch size."""

    batch: int
    latencies: Sequence[Latency]
    readings: tuple[Reading, Reading]
    device: Device | None
    copies: Copies
    cuda_graphs: bool
    notes: Sequence[str]
    agreement: Sequence[Agreement]
    memory: Sequence[Memory]
    layers: Sequence[LayerTimes]


@dataclass(frozen=True)
class _Contestant:
    """One of the models that are compared, ready to run."""

    index: int
    path: str
    precision: str
    source: str | bytes
    """What the session was made from."""
    session: Any
    specs: tuple[InputSpec, ...]
    loops: bool
    """Whether its shapes leave open how long it runs."""

    @property
    def label(self) -> str:
        """For notes."""
        return self.path if self.precision == "fp32" else f"{self.path} in {self.precision}"

    @property
    def bytes(self) -> int:
        """Of what the session was made from."""
        return len(self.source) if isinstance(self.source, bytes) else Path(self.path).stat().st_size

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return run_session(self.session, feeds)


def bench(
    paths: Sequence[str | Path],
    *,
    provider: str | Sequence[str] = "auto",
    batches: Sequence[int] | None = (1,),
    precision: Precision | Sequence[Precision] = "fp32",
    rounds: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    input_shapes: InputShapes = None,
    check: bool = False,
    memory: bool = False,
    per_layer: bool = False,
    cuda_graphs: bool = True,
    clock: Clock = time.perf_counter,
    read: Callable[[], Reading] = read,
) -> BenchResult:
    """Time models side by side.

    Args:
        paths: ONNX files; the others are compared with the first.
        provider: as for `sessions.make_session`; all models run on the same one.
        batches: batch sizes; None: the fixed one of the models, else 1.
        precision: "fp32" times the files as they are; "fp16" and "int8" copies in memory with the same inputs
            and outputs, quantised ones calibrated on random inputs. Several: all models in the first, then
            all in the next, in one comparison whose reference is the first model in the first precision.
        rounds: samples of each model at each batch size; None: what takes about three seconds, 10 to 100.
        threads: onnxruntime's; None: all cores of this process.
        seed: for inputs and the order within rounds.
        input_shapes: shapes of inputs with dynamic dimensions beyond the batch, by input name.
        check: compare every model's outputs with the first one's, and every copy's in another precision with
            its file's (`BenchResult.agreement`).
        memory: measure what each model takes, in a process of its own (`BenchResult.memory`).
        per_layer: profile where each model's time goes, in a session of its own (`BenchResult.per_layer`).
        cuda_graphs: on CUDA, replay runs as captured graphs where all models allow it.
        clock: seconds.
        read: tells what goes on on the machine, before and after each batch size is timed.

    Raises:
        ModelError: a model does not load or run, a batch size does not fit one, or it can't be converted.
        ProviderError: the provider cannot run here.
    """
    if not paths:
        raise ModelError("There is no model to time; name at least one ONNX file.")
    precisions = [precision] if isinstance(precision, str) else list(precision)
    if not precisions:
        raise ModelError("There is no precision to time models in; name at least one, such as fp32.")
    setting = _Setting(
        providers=resolve_providers(provider),
        threads=threads or default_threads(),
        rounds=rounds,
        seed=seed,
        input_shapes=input_shapes,
        check=check,
        memory=memory,
        per_layer=per_layer,
        cuda_graphs=cuda_graphs,
        clock=clock,
        read=read,
    )
    entries = [(str(path), wanted) for wanted in precisions for path in paths]
    contestants = [_contestant(index, *entry, setting) for index, entry in enumerate(entries)]
    order = np.random.default_rng([seed, 1])
    parts = [
        _at_batch(contestants, batch, setting, order)
        for batch in batch_sizes(
            [one.path for one in contestants], [one.specs for one in contestants], batches
        )
    ]
    latencies = tuple(row for part in parts for row in part.latencies)
    disturbed = conditions([part.readings for part in parts])
    models = tuple(
        Timed(one.index, one.path, one.bytes, placement(one.session), one.precision) for one in contestants
    )
    notes = [
        *_setting_notes(setting, precisions),
        *_placement_notes(contestants, models, setting.provider),
        *_way_notes(parts),
    ]
    device = parts[-1].device
    if device is not None and (note := device_note(device)):
        notes.append(note)
    return BenchResult(
        latencies=latencies,
        models=models,
        provider=setting.provider,
        precision=",".join(precisions),
        threads=setting.threads,
        rounds=min(latency.samples for latency in latencies),
        seed=seed,
        environment=environment(),
        notes=(*notes, *noise_notes(disturbed, latencies)),
        copies="included" if any(part.copies == "included" for part in parts) else parts[0].copies,
        cuda_graphs=all(part.cuda_graphs for part in parts),
        conditions=disturbed,
        device=device,
        agreement=tuple(row for part in parts for row in part.agreement) if check else None,
        memory=tuple(row for part in parts for row in part.memory) if memory else None,
        per_layer=tuple(row for part in parts for row in part.layers) if per_layer else None,
    )


def _at_batch(
    contestants: Sequence[_Contestant], batch: int, setting: _Setting, order: np.random.Generator
) -> _AtBatch:
    """Everything that is measured at one batch size; what was only made for it goes with it."""
    # The same seed for every model: equal inputs where names and shapes are equal.
    fed = [
        feeds_for(one.specs, batch, np.random.default_rng([setting.seed, 0]), setting.input_shapes)
        for one in contestants
    ]
    for one, feeds in zip(contestants, fed, strict=True):
        _require_end(one, feeds, batch)
    agreement = _agreement(contestants, batch, setting) if setting.check else []

    def capturing(index: int) -> Any:
        # A graph is captured for one shape, so each batch size has sessions of its own for it.
        return setting.session(contestants[index].source, provider_options=GRAPH_OPTIONS)

    way = way_to_run(contestants, fed, setting.provider, capturing if setting.cuda_graphs else None)
    before = setting.read()
    times, repeats = take_turns(way.runs, setting.rounds, order, setting.clock)
    after = setting.read()
    device = read_device() if setting.provider in DEVICES else None
    pairs = list(zip(contestants, fed, strict=True))
    names, precisions = [one.path for one in contestants], [one.precision for one in contestants]
    return _AtBatch(
        batch=batch,
        latencies=summarise(names, batch, times, repeats, setting.seed, precisions),
        readings=(before, after),
        device=device,
        copies=way.copies,
        cuda_graphs=way.cuda_graphs,
        notes=way.notes,
        agreement=agreement,
        memory=[_memory(one, batch, setting) for one in contestants] if setting.memory else [],
        layers=[_layers(one, batch, feeds, setting) for one, feeds in pairs] if setting.per_layer else [],
    )


def _memory(one: _Contestant, batch: int, setting: _Setting) -> Memory:
    found = measure_memory(
        one.source,
        batch=batch,
        threads=setting.threads,
        providers=setting.providers,
        seed=setting.seed,
        input_shapes=setting.input_shapes,
    )
    return Memory(one.index, one.path, batch, **found, precision=one.precision)


def _layers(one: _Contestant, batch: int, feeds: Mapping[str, Array], setting: _Setting) -> LayerTimes:
    runs, nodes = profile_nodes(
        one.source, feeds, threads=setting.threads, providers=setting.providers, clock=setting.clock
    )
    whole = sum(node.microseconds for node in nodes)
    return LayerTimes(one.index, one.path, batch, runs, whole, nodes, op_times(nodes), one.precision)


def _setting_notes(setting: _Setting, precisions: Sequence[str]) -> list[str]:
    notes = []
    if "fp16" in precisions and setting.provider == CPU:
        notes.append(
            "The CPU has few float16 kernels; times include the casts that onnxruntime puts around others."
        )
    if "int8" in precisions:
        notes.append(
            "int8 copies are onnxruntime's static quantisation (QDQ, weights per channel), calibrated on "
            f"{CALIBRATION_EXAMPLES} random examples, the first that are timed and compared: that shows "
            "their speed, not the accuracy that calibration on real data would give."
        )
    if setting.per_layer and setting.provider != CPU:
        notes.append(
            f"Times per node are what the host spends on them; what {setting.provider} computes afterwards "
            "on its own is not in them."
        )
    return notes


def _placement_notes(contestants: Sequence[_Contestant], models: Sequence[Timed], provider: str) -> list[str]:
    if provider == CPU:
        return []
    pairs = zip(contestants, models, strict=True)
    found = [placement_note(one.label, model.nodes, provider) for one, model in pairs]
    return [note for note in found if note is not None]


def _way_notes(parts: Sequence[_AtBatch]) -> list[str]:
    """Why models were not run in the cheapest way, once; and at which batch sizes, where that differs."""
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    if len({(part.copies, part.cuda_graphs) for part in parts}) > 1:
        ways = [
            f"{part.batch} (copies {part.copies}{', CUDA graphs' if part.cuda_graphs else ''})"
            for part in parts
        ]
        notes.append(f"Batch sizes were run in different ways: {', '.join(ways)}.")
    return notes


def _contestant(index: int, path: str, precision: str, setting: _Setting) -> _Contestant:
    loops = has_loops(path)
    if loops and precision != "fp32":  # calibration runs the file
        original = _contestant(index, path, "fp32", setting)
        rng = np.random.default_rng([setting.seed, 0])
        _require_end(original, feeds_for(original.specs, 1, rng, setting.input_shapes), 1)
    source = in_precision(
        Path(path),
        precision,
        provider=setting.provider,
        seed=setting.seed,
        input_shapes=setting.input_shapes,
    )
    session = setting.session(source)
    return _Contestant(index, path, precision, source, session, input_specs(session), loops)


def _require_end(one: _Contestant, feeds: Mapping[str, Array], batch: int) -> None:
    """Run a model that loops once before it is timed; others are not run.

    Raises:
        ModelError: it does not run, or takes too long.
    """
    if not one.loops:
        return
    try:
        run_session(one.session, feeds, seconds=LOOP_SECONDS * batch)
    except EndlessError as error:
        raise ModelError(f"{one.label}: {error}") from error


def _agreement(contestants: Sequence[_Contestant], batch: int, setting: _Setting) -> list[Agreement]:
    """Every model against the first in the same precision, every copy against its file."""
    first = contestants[0]
    files = {one.path: one for one in contestants if one.precision == "fp32"}
    found = []
    for one in contestants:
        if one.index > 0 and one.precision == first.precision:
            found.append(_agreement_of(one, first, batch, setting))
        if one.precision != "fp32":
            if one.path not in files:
                files[one.path] = _contestant(-1, one.path, "fp32", setting)
            found.append(_agreement_of(one, files[one.path], batch, setting))
    return found


def _agreement_of(one: _Contestant, other: _Contestant, batch: int, setting: _Setting) -> Agreement:
    """On inputs of the other one; those of the first run are those that it is timed on."""
    rng = np.random.default_rng([setting.seed, 0])
    runs = -(-CHECK_EXAMPLES // batch)
    compared: list[tuple[OutputAgreement, ...]] = []
    reason = None
    for _ in range(runs):
        feeds = feeds_for(other.specs, batch, rng, setting.input_shapes)
        given = fitted(feeds, one.specs)
        if isinstance(given, str):
            reason = given
            break
        compared.append(compare(other.run(feeds), one.run(given), batch))
    return Agreement(
        index=one.index,
        model=one.path,
        precision=one.precision,
        batch=batch,
        against=other.path,
        against_precision=other.precision,
        examples=len(compared) * batch,
        outputs=merge(compared),
        reason=reason,
    )
