"""What is the same for every generation of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evonnx.adapter import TrainingBudget
from evonnx.evolution.budgeting import Budgeting
from evonnx.evolution.crew import Crew
from evonnx.evolution.judging import Judge
from evonnx.evolution.options import EvolveOptions, Observer
from evonnx.evolution.pacing import Pacing
from evonnx.evolution.retraining import Trainer
from evonnx.evolution.timings import Timings
from evonnx.faults import Ledger
from evonnx.genome import Encoding
from evonnx.resources import Resources
from evonnx.run_store import (
    Row,
)


@dataclass(frozen=True)
class Setting:
    """What is the same for every generation of a run."""

    options: EvolveOptions
    budgeting: Budgeting
    encoding: Encoding
    judge: Judge
    trainer: Trainer
    training: TrainingBudget
    ancestor: Resources
    score_ancestor: float
    """On test data: reported only."""
    details_ancestor: dict[str, float]
    """More figures beside it, where the task has them."""
    score_validation_ancestor: float
    warnings_ancestor: frozenset[str]
    """What onnxruntime says when it loads the ancestor."""
    align: int
    """Wanted multiple of channels."""
    observer: Observer
    timings: Timings
    ledger: Ledger
    """Of what went wrong since the last row."""
    floor: float | None
    """Validation score beyond which an offspring counts as collapsed; None: none does."""
    pacing: Pacing | None = None
    """Where latency is budgeted."""
    crew: Crew | None = None
    """Who screens and raises offspring; None: this process, one after another."""

    def validation_drop(self, row: Row) -> float:
        """How much an offspring lost on validation data, in the metric's own unit."""
        return self.judge.metric.drop(self.score_validation_ancestor, row["score_validation"])

    def within(self, score: float) -> bool:
        """Whether a validation score is within the accuracy bound."""
        return self.judge.metric.drop(self.score_validation_ancestor, score) <= self.options.max_drop

    def collapsed(self, score: float) -> bool:
        """Whether a validation score is no number, or beyond the floor."""
        return math.isnan(score) or (self.floor is not None and self.judge.metric.better(self.floor, score))
