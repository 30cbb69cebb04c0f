"""Latency as a run's environment: the table it was begun with, and each generation's correction of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evonnx.evolution.timings import Timings
from evonnx.latency import Setting, corrected, find_correction, latency_bound
from evonnx.synthesis import Sample, Solution


@dataclass(frozen=True)
class Pacing:
    """What a run knows of this machine's speed."""

    setting: Setting
    """How pilots are run."""
    model: Path
    """The ancestor's file."""
    ancestor_ms: float
    corrections: dict[str, float]
    """By generation: measured over predicted time at its budget. Kept in run.json, so that a generation that
    is made again after a crash is asked for the same."""
    save: Callable[[], None]
    """Called after each addition to `corrections`."""

    def corrected(self, solution: Solution, key: str, drawn: Callable[[Solution], Sample]) -> Solution:
        """A solution whose budget on latency is met by measurement; as it is without such a budget.

        Args:
            solution: under the budgets of a generation.
            key: of what is measured: the generation.
            drawn: draws the sample that will be drawn first.
        """
        if latency_bound(solution) is None:
            return solution
        if key not in self.corrections:
            self.corrections[key] = find_correction(solution, drawn, self.setting, self.ancestor_ms)
            self.save()
        return corrected(solution, self.corrections[key])

    def row(
        self, solution: Solution, one: Sample, offspring: Path, timings: Timings, key: str
    ) -> dict[str, float] | None:
        """Predicted and measured time of an offspring, for its row; None without a budget on latency.

        Args:
            solution: what it was drawn from, corrected.
            one: the offspring as masks.
            offspring: its file.
            timings: times it against the ancestor.
            key: of that measurement.
        """
        place = latency_bound(solution)
        if place is None:
            return None
        predicted_ms = one.achieved[place] * solution.bounds[place].parent_amount
        before, after = timings(key, [self.model, offspring])
        return {
            "predicted_ms": predicted_ms,
            "predicted_share": predicted_ms / self.ancestor_ms,
            "measured_ms": after.median_ms,
            "measured_share": 1 / after.ratio,
            "measured_share_low": 1 / after.ratio_high,
            "measured_share_high": 1 / after.ratio_low,
            "ancestor_ms": before.median_ms,
        }
