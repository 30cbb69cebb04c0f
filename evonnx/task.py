"""The task contract: data, loss and metric, free of any framework.

Built-in tasks live in `evonnx.tasks`; any class that has these members works
(`[task] kind = "my_task.py:MyTask"`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from evonnx.network import Array

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Metric:
    """What a score means."""

    name: str
    """Such as "accuracy" or "agreement"."""
    higher_is_better: bool = True
    scale: float = 1.0
    """Best (or worst, if lower is better) value of the scale; 1.0 for shares."""
    unit: str = ""
    """For tables; "%" prints the score times 100."""

    def drop(self, ancestor: float, offspring: float) -> float:
        """How much worse the offspring is, in the metric's own unit (negative: better)."""
        return ancestor - offspring if self.higher_is_better else offspring - ancestor

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is strictly better than `other`."""
        return one > other if self.higher_is_better else one < other


@dataclass(frozen=True)
class Term:
    """One output's share in a loss: its mean error over all elements, each counted by its weight.

    kind: "mse" and "l1" (squared and absolute difference, in the output's own unit); "huber" (half the
    squared difference up to `delta`, beyond it delta * (absolute difference - delta / 2)); "bce" (binary
    cross-entropy; targets are probabilities, and an output that does not end in a Sigmoid is read as logits);
    "cross_entropy" (targets are class indices, of the output's shape without its class axis, or -1 for
    unlabelled; an output that does not end in a Softmax is read as logits).
    """

    output: str
    kind: Literal["mse", "l1", "huber", "bce", "cross_entropy"]
    weight: float = 1.0
    delta: float = 1.0
    """For "huber", in the output's own unit; above 0."""
    axis: int = 1
    """For "cross_entropy": the output's class axis, where it does not end in a Softmax that tells."""


@dataclass(frozen=True)
class Loss:
    """A loss that every adapter knows how to compute, by name.

    kind: "cross_entropy" (targets: class indices, or -1 for unlabelled), "mse" (targets: arrays like the
    output), "distillation" (no targets: match the ancestor's outputs; adapters are given the ancestor), or
    "terms" (the weighted sum of `terms`; targets: a `Target` for each term's output).
    """

    kind: Literal["cross_entropy", "mse", "distillation", "terms"]
    output: str | None = None
    """Graph output the loss reads; None: the first (for "distillation": every floating-point output)."""
    terms: tuple[Term, ...] = ()
    """For "terms": one or more, of different outputs."""


class Target(NamedTuple):
    """What one output should be."""

    values: Array
    """Axis 0 is the batch; see `Term`."""
    weights: Array | None = None
    """How much each element counts, at least 0; broadcasts against `values`. None: all count alike."""


@dataclass(frozen=True)
class Batch:
    """Model inputs by graph input name, and targets (None where there are no labels). Axis 0 is the batch."""

    inputs: Mapping[str, Array]
    targets: Array | Mapping[str, Target] | None
    """One array, or by output name where the loss is "terms"."""
    size: int
    spatial: Mapping[str, tuple[int, int] | None] = field(default_factory=dict)
    """For targets by output name, how they follow an image that is moved or mirrored: along these two axes
    (rows, columns), or not at all (None). Images whose targets are not named here are not augmented."""
    time: Mapping[str, int] = field(default_factory=dict)
    """For inputs that are sounds, by name, their axis of time: they move along it only, never mirrored."""


@runtime_checkable
class Task(Protocol):
    """Data, loss and metric."""

    name: str
    metric: Metric
    loss: Loss

    def describe(self) -> str:
        """One line for screen and report: data, sizes, loss, metric."""
        ...

    def size(self, split: Split) -> int:
        """Number of examples in a split; 0 where there is none."""
        ...

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """The split's examples once, in order, or shuffled by `rng`. The last batch may be smaller."""
        ...

    def score(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        """The metric over (batch, model outputs by name) pairs of the whole split."""
        ...


@runtime_checkable
class NeedsAncestor(Protocol):
    """A task that scores against the ancestor (distillation) is handed its file once, before all else."""

    def bind_ancestor(self, model_path: str) -> None:
        """Called once by `evaluate` and `evolve` before the first batch."""
        ...


@runtime_checkable
class Detailed(Protocol):
    """A task with more figures than its score, such as precision and recall; one pass gives all of them."""

    def details(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> dict[str, float]:
        """Figures by name, on the metric's scale and in its unit; as `score`, which is called no more.

        Under the metric's name stands the score.
        """
        ...
