"""Pilots: a sample is measured before the real ones are drawn, and what the table missed there is corrected.

A cost table is right on average; a lineage goes where its genome leads it. One or two pilots under the same
budget tell how far the prediction is off right there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from evonnx.environment import Bound, Budget, LatencyBudget
from evonnx.environment.widths import Widths, width_total
from evonnx.latency.measuring import Setting, time_in_turns
from evonnx.latency.probes import compact_probe, probe_of
from evonnx.network import Network
from evonnx.sessions import CPU
from evonnx.speed import Clock
from evonnx.synthesis import Sample, Solution

CLOSE = 0.02
"""Relative error of a prediction that needs no other pilot."""
_PILOTS = 4


def corrected(bound: Bound, correction: float, network: Network) -> Bound:
    """The same bound in milliseconds, predicted by a table that is off by `correction`."""
    factor = bound.factor
    assert isinstance(factor, LatencyBudget)
    better = replace(factor, calibration=factor.calibration * correction)
    parent = bound.parent_amount * correction
    budget = Budget(min(1.0, bound.amount / parent), better)
    return Bound(budget, better, better.prices(network), parent, better.costs(network))


def find_correction(
    solution: Solution,
    drawn: Callable[[Solution], Sample],
    ancestor: Network,
    ancestor_ms: float,
    threads: int,
    *,
    providers: Sequence[str] = (CPU,),
    batch: int = 1,
    clock: Clock = time.perf_counter,
) -> float:
    """Measured over predicted time of samples under a budget on latency; 1 without one.

    Args:
        solution: under that budget.
        drawn: draws a pilot: best the very sample that will be drawn when the correction is known.
        ancestor: timed in turns with every pilot, so that a machine that slows down counts for both.
        ancestor_ms: what the ancestor took when the table was measured.
        threads: of onnxruntime.
        providers: onnxruntime's names.
        batch: examples per run.
        clock: seconds.
    """
    place = next((i for i, one in enumerate(solution.bounds) if isinstance(one.factor, LatencyBudget)), None)
    if place is None:
        return 1.0
    correction = 1.0
    for _ in range(_PILOTS):
        bound = solution.bounds[place]
        assert bound.costs is not None
        share, widths = measured_share(
            solution,
            drawn(solution),
            ancestor,
            threads,
            providers=providers,
            batch=batch,
            clock=clock,
        )
        miss = share * ancestor_ms / width_total(bound.costs, widths)
        correction *= miss
        if abs(miss - 1) < CLOSE:
            break
        solution = solution.under(corrected(bound, miss, solution.network), place)
    return correction


def measured_share(
    solution: Solution,
    one: Sample,
    ancestor: Network,
    threads: int,
    *,
    providers: Sequence[str] = (CPU,),
    batch: int = 1,
    clock: Clock = time.perf_counter,
) -> tuple[float, Mapping[str, Widths]]:
    """Time of a sample, made compact, as a share of the ancestor's in the same rounds; and its widths."""
    pilot = compact_probe(solution.network, solution.coupling, one.masks)
    setting = Setting(ancestor, threads, providers, batch, clock)
    before, after = time_in_turns([probe_of(ancestor), pilot], setting, np.random.default_rng(0))
    return after / before, pilot.widths
