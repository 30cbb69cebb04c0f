"""Latency as a run's environment: the table it was begun with, and each generation's correction of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evonnx.environment import LatencyBudget
from evonnx.evolution.timings import Timings
from evonnx.latency import corrected, find_correction
from evonnx.network import Network
from evonnx.synthesis import Sample, Solution


@dataclass(frozen=True)
class Pacing:
    """What a run knows of this machine's speed."""

    ancestor: Network
    model: Path
    """The ancestor's file."""
    ancestor_ms: float
    threads: int
    providers: Sequence[str]
    """onnxruntime's names."""
    corrections: dict[str, float]
    """By generation: measured over predicted time at its budget. Kept in run.json, so that a generation that
    is made again after a crash is asked for the same."""
    save: Callable[[], None]
    """Called after each addition to `corrections`."""

    def corrected(self, solution: Solution, generation: int, drawn: Callable[[Solution], Sample]) -> Solution:
        """A solution whose budget on latency is met by measurement; as it is without such a budget.

        Args:
            solution: under the budgets of a generation.
            generation: its number.
            drawn: draws the sample that will be drawn first.
        """
        places = [i for i, one in enumerate(solution.bounds) if isinstance(one.factor, LatencyBudget)]
        for place in places:
            key = str(generation)
            if key not in self.corrections:
                self.corrections[key] = find_correction(
                    solution,
                    drawn,
                    self.ancestor,
                    self.ancestor_ms,
                    self.threads,
                    providers=self.providers,
                )
                self.save()
            bound = corrected(solution.bounds[place], self.corrections[key], solution.network)
            solution = solution.under(bound, place)
        return solution

    def row(self, solution: Solution, one: Sample, offspring: Path, timings: Timings, key: str) -> Any:
        """Predicted and measured time of an offspring, for its row; None without a budget on latency.

        Args:
            solution: what it was drawn from, corrected.
            one: the offspring as masks.
            offspring: its file.
            timings: times it against the ancestor.
            key: of that measurement.
        """
        for bound, share in zip(solution.bounds, one.achieved, strict=True):
            if isinstance(bound.factor, LatencyBudget):
                before, after = timings(key, [self.model, offspring])
                return {
                    "predicted_ms": share * bound.parent_amount,
                    "predicted_share": share * bound.parent_amount / self.ancestor_ms,
                    "measured_ms": after.median_ms,
                    "measured_share": 1 / after.ratio,
                    "measured_share_low": 1 / after.ratio_high,
                    "measured_share_high": 1 / after.ratio_low,
                    "ancestor_ms": before.median_ms,
                }
        return None
