"""Measuring what a model's layers cost at other widths: probes profiled layer by layer and timed as a whole.

The profile says how a model's time divides over its layers while each runs between its neighbours; the whole
time, taken in turns over all probes, says how much there is to divide. How far tables that were made without
a probe are off for that probe gives one calibration factor, and the error to expect.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from evonnx.dependency import Coupling
from evonnx.environment import LatencyBudget
from evonnx.environment.latency import cost_to_json, table_from_json
from evonnx.environment.widths import Costs, Widths, width_total
from evonnx.errors import BudgetError
from evonnx.genome import Encoding
from evonnx.latency.fitting import Timing, fit_layers, fit_rest
from evonnx.latency.probes import Probe, probe_of, probes
from evonnx.network import Array, Network
from evonnx.sessions import CPU, input_specs, make_session, run_session
from evonnx.speed import Clock, NodeTime, feeds_for, profile_nodes, take_turns

LEVELS = (0.9, 0.75, 0.62, 0.52, 0.43, 0.35, 0.28, 0.2)
"""Typical share of channels that each probe keeps."""
_WEIGHTY = re.compile(r"Conv|Gemm|MatMul")
"""Operators of onnxruntime that do the work of a layer, fused or not."""


def measure_latency(
    network: Network,
    coupling: Coupling,
    encoding: Encoding,
    align: int,
    threads: int,
    *,
    providers: Sequence[str] = (CPU,),
    batch: int = 1,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Measure a cost table.

    Args:
        network: the model.
        coupling: its channel classes.
        encoding: says what clusters are; how strong they are plays no part.
        align: multiple of channels that samples will have.
        threads: of onnxruntime.
        providers: onnxruntime's names.
        batch: examples per run.
        seed: draws widths and inputs.
        clock: seconds.

    Returns:
        A record for run.json that `latency_budget` reads: "provider", "threads", "batch", "align",
        "ancestor_ms", "constant_ms", "layers" (per weight: "cost_ms", as fixed, per input, per output and per
        slice, and the "measured" [inputs, outputs, slices, ms] per probe behind it), "probes" (per probe
        "predicted_ms" by a table made without it, and "measured_ms"), "calibration" (their median ratio,
        which a prediction is multiplied with) and "median_error" (what is left then, as a share).

    Raises:
        BudgetError: nothing can be removed, or the profile does not tell layers apart.
        EvonnxError: the model does not run.
    """
    rng = np.random.default_rng(seed)
    tried = [probe_of(network), *probes(network, coupling, encoding, align, LEVELS, rng)]
    setting = Setting(network, threads, providers, batch, clock)
    whole = time_in_turns(tried, setting, rng)
    profiles = [_profile(probe, setting) for probe in tried]
    divided = [
        _divided(probe, profile, milliseconds)
        for probe, profile, milliseconds in zip(tried, profiles, whole, strict=True)
    ]
    if not divided[0].layers:
        raise BudgetError(
            f"onnxruntime's profile of {network.source} names none of its layers on {providers[0]}, so what "
            "they cost cannot be told apart. Budget macs or bytes instead."
        )
    table = _table(network, divided)
    held_out = _held_out(network, divided, whole)
    misses = [one["measured_ms"] / one["predicted_ms"] for one in held_out]
    return {
        "provider": providers[0],
        "threads": threads,
        "batch": batch,
        "align": align,
        "ancestor_ms": whole[0],
        "constant_ms": table.constant,
        "layers": {
            name: {"cost_ms": cost_to_json(cost), "measured": [one.to_json(name) for one in divided]}
            for name, cost in table.layers.items()
        },
        "calibration": median(misses),
        "probes": held_out,
        "median_error": median(abs(miss / median(misses) - 1) for miss in misses),
    }


def latency_budget(record: dict[str, Any]) -> LatencyBudget:
    """The environment factor that a record describes."""
    return LatencyBudget(table=table_from_json(record), calibration=float(record["calibration"]))


def divide(probe: Probe, profile: Sequence[NodeTime]) -> tuple[dict[str, float], float]:
    """Microseconds by weight, and of everything else."""
    apart: dict[str, float] = {}
    rest = 0.0
    for node in profile:
        owner = probe.owner(node.name) if _WEIGHTY.search(node.op_type) else None
        if owner is None or owner not in probe.widths:
            rest += node.microseconds
        else:
            apart[owner] = apart.get(owner, 0.0) + node.microseconds
    return apart, rest


@dataclass(frozen=True)
class _Divided:
    """One probe's whole time, divided over its layers."""

    widths: Mapping[str, Widths]
    layers: Mapping[str, float]
    """Milliseconds by weight."""
    rest: float
    """Milliseconds of everything else."""

    def timings(self) -> list[Timing]:
        return [Timing(name, self.widths[name], taken) for name, taken in self.layers.items()]

    def to_json(self, name: str) -> list[float] | None:
        """[inputs, outputs, slices, milliseconds] of a layer; None where it is gone."""
        if name not in self.layers:
            return None
        left = self.widths[name]
        return [left.inputs, left.outputs, left.slices, self.layers[name]]


def _divided(probe: Probe, profile: Sequence[NodeTime], milliseconds: float) -> _Divided:
    """Profiling slows a model down, so its times are scaled to those without."""
    scale = milliseconds / max(sum(node.microseconds for node in profile), 1e-9)
    layers, rest = divide(probe, profile)
    return _Divided(probe.widths, {name: scale * taken for name, taken in layers.items()}, scale * rest)


def _table(network: Network, divided: Sequence[_Divided]) -> Costs:
    """What probes say together."""
    layers = fit_layers([one for probe in divided for one in probe.timings()], network.weights)
    rests, widths = [probe.rest for probe in divided], [probe.widths for probe in divided]
    return Costs(*fit_rest(layers, rests, widths, network.weights))


def _held_out(
    network: Network, divided: Sequence[_Divided], whole: Sequence[float]
) -> list[dict[str, float]]:
    """Each probe's whole time beside what a table made without that probe predicts."""
    results = []
    for left_out in range(1, len(divided)):
        table = _table(network, [*divided[:left_out], *divided[left_out + 1 :]])
        predicted = width_total(table, divided[left_out].widths)
        results.append({"predicted_ms": predicted, "measured_ms": whole[left_out]})
    return results


@dataclass(frozen=True)
class Setting:
    """How probes are run."""

    network: Network
    """The ancestor."""
    threads: int
    """Of onnxruntime."""
    providers: Sequence[str] = (CPU,)
    """onnxruntime's names."""
    batch: int = 1
    """Examples per run."""
    clock: Clock = time.perf_counter
    """Seconds."""

    def session(self, probe: Probe) -> tuple[Any, dict[str, Array]]:
        """Of a probe, with inputs for it."""
        session = make_session(probe.model, threads=self.threads, providers=self.providers, spinning=True)
        inputs = np.random.default_rng(0)
        return session, feeds_for(input_specs(session), self.batch, inputs, self.network.input_shapes)


def _profile(probe: Probe, setting: Setting) -> tuple[NodeTime, ...]:
    _, feeds = setting.session(probe)
    _, nodes = profile_nodes(
        probe.model, feeds, threads=setting.threads, providers=setting.providers, clock=setting.clock
    )
    return nodes


def time_in_turns(tried: Sequence[Probe], setting: Setting, rng: np.random.Generator) -> list[float]:
    """Milliseconds per run of each probe, all of them in turns."""
    runs = [_run(probe, setting) for probe in tried]
    times, _ = take_turns(runs, None, rng, setting.clock)
    # What other work on the machine adds only ever slows down, so the lower quartile says most.
    return [float(one) for one in 1e3 * np.quantile(times, 0.25, axis=0)]


def _run(probe: Probe, setting: Setting) -> Callable[[], None]:
    session, feeds = setting.session(probe)
    run_session(session, feeds)  # a clear error before the clock starts
    return lambda: session.run(None, feeds)
