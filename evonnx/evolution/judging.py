"""Scores during a run: validation data decides, test data is reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evonnx.errors import TaskError
from evonnx.evaluation import Score, evaluate
from evonnx.onnx_io import Detached
from evonnx.task import Metric, Split, Task


@dataclass(frozen=True)
class Judge:
    """Scores model files in onnxruntime."""

    task: Task
    threads: int

    @property
    def metric(self) -> Metric:
        """What scores mean."""
        return self.task.metric

    def validation(self, model: Path | Detached) -> float:
        """The score every choice is made by; of a file, or of a model in memory."""
        return evaluate(model, self.task, "validation", threads=self.threads).value

    def reported(self, model: Path) -> Score:
        """On test data, or again on validation data where the task has no test data."""
        split: Split = "test" if self.task.size("test") else "validation"
        return evaluate(model, self.task, split, threads=self.threads)


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
