"""Scores during a run: validation data decides, test data is reported."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evonnx.errors import ScoreError, TaskError
from evonnx.evaluation import Score, evaluate
from evonnx.faults import Fault, Ledger
from evonnx.onnx_io import Detached
from evonnx.task import Metric, Split, Task


@dataclass(frozen=True)
class Judge:
    """Scores model files in onnxruntime."""

    task: Task
    threads: int
    ledger: Ledger = field(default_factory=Ledger)
    """Told of what went wrong."""

    @property
    def metric(self) -> Metric:
        """What scores mean."""
        return self.task.metric

    def validation(self, model: Path | Detached) -> float:
        """The score every choice is made by; of a file, or of a model in memory.

        Raises:
            ScoreError: it is not a number.
        """
        return self._score(model, "validation").value

    def fitness(self, model: Path | Detached) -> float:
        """The validation score, larger for fitter models; minus infinity where it is not a number."""
        try:
            score = self.validation(model)
        except ScoreError:
            return -math.inf
        return score if self.metric.higher_is_better else -score

    def reported(self, model: Path) -> Score:
        """On test data, or again on validation data where the task has no test data."""
        return self._score(model, "test" if self.task.size("test") else "validation")

    def _score(self, model: Path | Detached, split: Split) -> Score:
        score = evaluate(model, self.task, split, threads=self.threads)
        if score.halvings:
            self.ledger.add(
                Fault(
                    "scoring",
                    "out of memory",
                    f"There was not enough memory to run the {split} data in batches of the usual size.",
                    f"scored in batches of {score.batch_size}",
                )
            )
        return score


def floor_of(metric: Metric, ancestor: float, max_drop: float) -> float | None:
    """The score beyond which an offspring counts as collapsed, where none was asked for: more than
    `max_drop` away, and more than half of the way to the metric's worst value.

    Args:
        metric: what scores mean.
        ancestor: its validation score.
        max_drop: in the metric's unit.

    Returns:
        None where the ancestor's score says nothing of what is half as good.
    """
    if metric.higher_is_better:
        return min(ancestor / 2, ancestor - max_drop) if ancestor > 0 else None
    worst = metric.scale if metric.scale > ancestor else 3 * ancestor
    return max((ancestor + worst) / 2, ancestor + max_drop) if ancestor >= 0 else None


def score_columns(score: Score) -> dict[str, Any]:
    """A score as rows have it: "score", and "details" where the task has more figures."""
    return {"score": score.value, **({"details": dict(score.details)} if score.details else {})}


def check_examples(task: Task, epochs: int | None) -> None:
    """Refuse a task that cannot decide, or cannot teach.

    Raises:
        TaskError: no validation examples, or none to train on although epochs are wanted.
    """
    if task.size("validation") == 0:
        raise TaskError(
            f"The task {task.name!r} has no validation examples, and every choice is made on them. "
            "Name a `validation` file, or give training data to keep a share apart from."
        )
    if task.size("train") == 0 and epochs != 0:
        raise TaskError(
            f"The task {task.name!r} has no training examples. Name a `train` file, or evolve without "
            "retraining: --epochs 0 --recovery-epochs 0."
        )
