"""Pilots: a sample is measured before the real ones are drawn, and what the table missed there is corrected.

A cost table is right on average; a lineage goes where its genome leads it. One or two pilots under the same
budget tell how far the prediction is off right there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from evonnx.environment import Bound, Budget, LatencyBudget
from evonnx.environment.widths import Widths, width_total
from evonnx.latency.measuring import Setting, time_in_turns
from evonnx.latency.probes import compact_probe, probe_of
from evonnx.synthesis import Sample, Solution

CLOSE = 0.02
"""Relative error of a prediction that needs no other pilot."""
_PILOTS = 4


def latency_bound(solution: Solution) -> int | None:
    """Place of the budget on latency among a solution's bounds; None without one."""
    return next((i for i, one in enumerate(solution.bounds) if isinstance(one.factor, LatencyBudget)), None)


def corrected(solution: Solution, correction: float) -> Solution:
    """The same budget on latency in milliseconds, predicted by a table that is off by `correction`."""
    place = latency_bound(solution)
    if place is None:
        return solution
    bound, network = solution.bounds[place], solution.network
    assert isinstance(bound.factor, LatencyBudget)
    factor = replace(bound.factor, calibration=bound.factor.calibration * correction)
    parent = bound.parent_amount * correction
    budget = Budget(min(1.0, bound.amount / parent), factor)
    better = Bound(budget, factor, factor.prices(network), parent, factor.costs(network))
    return solution.under(better, place)


def find_correction(
    solution: Solution, drawn: Callable[[Solution], Sample], setting: Setting, ancestor_ms: float
) -> float:
    """Measured over predicted time of samples under a budget on latency; 1 without one.

    Args:
        solution: under that budget.
        drawn: draws a pilot: best the very sample that will be drawn when the correction is known.
        setting: how pilots are run, each in turns with the ancestor, so that a machine that slows down counts
            for both.
        ancestor_ms: what the ancestor took when the table was measured.
    """
    correction = 1.0
    place = latency_bound(solution)
    if place is None:
        return correction
    for _ in range(_PILOTS):
        costs = solution.bounds[place].costs
        assert costs is not None
        share, widths = measured_share(solution, drawn(solution), setting)
        miss = share * ancestor_ms / width_total(costs, widths)
        correction *= miss
        if abs(miss - 1) < CLOSE:
            break
        solution = corrected(solution, miss)
    return correction


def measured_share(solution: Solution, one: Sample, setting: Setting) -> tuple[float, Mapping[str, Widths]]:
    """Time of a sample, made compact, as a share of the ancestor's in the same rounds; and its widths."""
    pilot = compact_probe(solution.network, solution.coupling, one.masks)
    before, after = time_in_turns([probe_of(setting.network), pilot], setting, np.random.default_rng(0))
    return after / before, pilot.widths
