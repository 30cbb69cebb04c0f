"""`--align auto`: which multiple of channels this machine runs fastest, found by measuring; and what keeping
dead channels for the sake of a multiple costs.

onnxruntime keeps convolutions in a blocked layout only where channel counts fit its blocks; a depthwise
network with odd counts can run at half the speed of its ancestor although it computes less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evonnx.clusters import find_clusters
from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import Coupling, analyse
from evonnx.encodings import Uniform
from evonnx.environment import Budget
from evonnx.errors import EvonnxError
from evonnx.genome import Encoding, encode
from evonnx.masking import apply_masks
from evonnx.masks import Masks
from evonnx.network import Network, network_of
from evonnx.onnx_io import to_bytes
from evonnx.resources import count
from evonnx.sessions import CPU, input_specs, make_session, run_session
from evonnx.speed import SAMPLE_SECONDS, feeds_for, one_sample
from evonnx.synthesis import sample, solve

CANDIDATES = (1, 4, 8, 16, 32)
PROBE_SHARE = 0.4
"""Synapses that every probe keeps at most: about where a run is after a few generations."""
_WORTHWHILE = 1.05
"""A larger multiple leaves less freedom, so it must be clearly faster."""
_WARM_UP = 2
_LARGEST_BYTES = 1 << 30
_FEWEST, _MOST = 5, 100
"""Rounds."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class _Probe:
    align: int
    cost: int
    """Multiply-accumulates, or synapses where those are not known."""
    run: Callable[[], None]


def measure_alignment(
    network: Network,
    coupling: Coupling,
    encoding: Encoding,
    threads: int,
    *,
    seconds: float,
    providers: str | Sequence[str] = (CPU,),
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Remove channels from a model at several alignments, time the results in turns, and choose.

    All probes are samples under one budget in which every channel is as probable as any other: what counts is
    how this machine runs such layers, not which of them this parent can spare. Speed is compared per
    multiply-accumulate that is left: a probe is not faster because chance left it less to do.

    Args:
        network: the model.
        coupling: its channel classes.
        encoding: of which all is kept but how strong channels are.
        threads: of onnxruntime.
        seconds: about how long the timing itself may take.
        providers: as `make_session` takes them.
        clock: seconds.

    Returns:
        {"align": the choice, "speedup": {alignment: speed per multiply-accumulate against alignment 1},
        "milliseconds": {...}, "kept": {alignment: multiply-accumulates}}; only "align" where nothing can be
        removed, so that nothing needs to be measured; "note": why there is no measurement.
    """
    if network.file_bytes > _LARGEST_BYTES:
        note = (
            "alignment is not measured for models of more than 1 GiB, of which several copies would have to "
            "be loaded; --align N sets it"
        )
        return {"align": 1, "note": note}
    try:
        probes = _probes(network, coupling, encoding, threads, providers)
        if not probes:
            return {"align": 1}
        times = _take_turns(probes, seconds, clock)
    except EvonnxError as error:
        return {"align": 1, "note": f"alignment could not be measured: {error}"}
    # What other work on the machine adds only ever slows down, so the lower quartile says most.
    typical = np.quantile(times, 0.25, axis=0)
    speed = [probe.cost / seconds_per_run for probe, seconds_per_run in zip(probes, typical, strict=True)]
    speedup = {probe.align: float(one / speed[0]) for probe, one in zip(probes, speed, strict=True)}
    choice = 1
    for align, ratio in speedup.items():
        if ratio > _WORTHWHILE * speedup[choice]:
            choice = align
    return {
        "align": choice,
        "speedup": {str(align): ratio for align, ratio in speedup.items()},
        "milliseconds": {
            str(one.align): 1e3 * float(one_run) for one, one_run in zip(probes, typical, strict=True)
        },
        "kept": {str(one.align): one.cost for one in probes},
    }


def _probes(
    network: Network,
    coupling: Coupling,
    encoding: Encoding,
    threads: int,
    providers: str | Sequence[str],
) -> list[_Probe]:
    """Compact models; none where nothing can be removed."""
    alike = replace(encoding, granularity="channel", strength=Uniform())
    genome = encode(network, find_clusters(network, coupling, "channel"), alike)
    solution = solve(network, coupling, genome, Budget(PROBE_SHARE), levels="clusters", best_effort=True)
    probes = []
    for align in CANDIDATES:
        one = sample(solution.aligned(align), np.random.default_rng(0))
        masked = network_of(apply_masks(network, coupling, one.masks), network.source, network.input_shapes)
        plan = plan_compaction(masked, analyse(masked))
        if align == 1 and plan.is_empty():
            return []
        compact = apply_plan(masked, plan).model
        probes.append(_Probe(align, _cost(network, one.masks), _runner(compact, network, threads, providers)))
    return probes


def _cost(network: Network, masks: Masks) -> int:
    """Multiply-accumulates of what lives, per example; synapses where shapes are not known."""
    each = {name: weight.macs_per_tap for name, weight in network.weights.items()}
    if None in each.values():
        each = dict.fromkeys(each, 1)
    return round(sum((each[name] or 0) * int(np.count_nonzero(mask)) for name, mask in masks.items()))


def _runner(model: Any, network: Network, threads: int, providers: str | Sequence[str]) -> Callable[[], None]:
    session = make_session(to_bytes(model), threads=threads, providers=providers, spinning=True)
    specs = input_specs(session)
    feeds = feeds_for(specs, 1, np.random.default_rng(0), network.input_shapes)
    names = [output.name for output in session.get_outputs()]
    run_session(session, feeds, names)  # a clear error before the clock starts
    return lambda: session.run(names, feeds)


def _take_turns(probes: list[_Probe], seconds: float, clock: Clock) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds per run, shape (rounds, probes): every probe once a round, in random order."""
    order = np.random.default_rng(0)
    began = clock()
    warm = [0.0] * len(probes)
    for _ in range(_WARM_UP):
        for index, probe in enumerate(probes):
            start = clock()
            probe.run()
            warm[index] = clock() - start
    repeats = [max(1, math.ceil(SAMPLE_SECONDS / max(one, 1e-6))) for one in warm]
    rounds: list[list[float]] = []
    while len(rounds) < _FEWEST or (len(rounds) < _MOST and clock() - began < seconds):
        taken = [0.0] * len(probes)
        for index in order.permutation(len(probes)):
            taken[index] = one_sample(probes[index].run, repeats[index], clock)
        rounds.append(taken)
    return np.array(rounds)


@dataclass(frozen=True)
class PaddingCost:
    """Dead channels kept so that counts are multiples, and what they cost."""

    requested: int
    weights: int
    """Prunable weights that are left."""
    aligned: int
    """Those that put out a multiple, or as many as before."""
    channels: int
    """Dead output channels kept for it, over all weights."""
    parameters: int
    macs: int | None
    """None where shapes are not known."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-able data."""
        return dict(vars(self))

    def __str__(self) -> str:
        """One sentence."""
        macs = "" if self.macs is None else f" and {self.macs} multiply-accumulates"
        return (
            f"{self.aligned} of {self.weights} weights put out multiples of {self.requested}; padding keeps "
            f"{self.channels} dead channels, {self.parameters} parameters{macs}"
        )


def padding_cost(masked: Network, coupling: Coupling, padded: Network, align: int) -> PaddingCost:
    """Price alignment by padding against removal of everything that is dead.

    Args:
        masked: what was compacted.
        coupling: its coupling.
        padded: the compact model, at alignment `align`.
        align: the multiple.
    """
    bare = network_of(
        apply_plan(masked, plan_compaction(masked, coupling)).model, masked.source, masked.input_shapes
    )
    with_, without = count(padded), count(bare)
    macs = None if with_.macs is None or without.macs is None else with_.macs - without.macs
    left = {name: weight.outputs for name, weight in padded.weights.items()}
    return PaddingCost(
        requested=align,
        weights=len(left),
        aligned=sum(
            outputs % align == 0 or outputs == masked.weights[name].outputs for name, outputs in left.items()
        ),
        channels=sum(left.values()) - sum(weight.outputs for weight in bare.weights.values()),
        parameters=with_.parameters - without.parameters,
        macs=macs,
    )
