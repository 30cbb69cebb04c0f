"""What an evolution is asked to do, grouped by the part that listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evonnx.adapter import Progress


@dataclass(frozen=True)
class Pressure:
    """How offspring are sampled."""

    keep: float = 0.8
    """Upper bound on the share of the parent's synapses that each offspring keeps."""
    target: float | None = None
    """Final share of the ancestor's synapses: each bound is min(keep, target ** (1 / generations))."""
    budget: Mapping[str, float] = field(default_factory=dict)
    """Share of what the ancestor uses of an environment factor, by its name, to end at; in place of `keep`
    and `target`."""
    pace: float = 1.0
    """Towards a `budget`: 1 takes equal steps; above, the first are the largest and the last the smallest."""
    best_effort: bool = False
    levels: str | None = None
    """"both", "clusters" or "synapses"; None: the encoding's own."""
    cluster_share: float | None = None
    """s of k_c = k ** s, k_s = k ** (1 - s); None: the encoding's own."""
    clusters: str | None = None
    """Granularity; None: the encoding's own."""
    encoding: str = "adaptive"
    align: int | None = None
    """Channel counts are kept at multiples of this; None: chosen for the machine and recorded."""

    def bound(self, generations: int) -> float:
        """Share of its parent's synapses that an offspring may keep."""
        if self.target is None:
            return self.keep
        return float(min(self.keep, self.target ** (1 / generations)))


@dataclass(frozen=True)
class Selection:
    """Natural selection: how many are sampled, scored without retraining, and retrained."""

    screen: int = 16
    offspring: int = 1
    parents: int = 1
    """How many of a generation's offspring the next one is bred from, at most."""


@dataclass(frozen=True)
class Retraining:
    """Who retrains, and for how long. None: the task file's, else the adapter's default."""

    adapter: str = "torch"
    adapter_options: Mapping[str, str] = field(default_factory=dict)
    epochs: int | None = None
    recovery_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class EvolveOptions:
    """Everything that decides the result of a run, apart from the model and the task."""

    generations: int = 10
    seed: int = 0
    max_drop: float = 0.04
    """In the metric's own unit: the first offspring that lost more ends the run; best.onnx lost no more."""
    floor: float | None = None
    """Validation score beyond which offspring count as collapsed and are sampled again, less pruned; None:
    half of the way from the ancestor's to the metric's worst."""
    threads: int | None = None
    provider: str = "auto"
    """Where onnxruntime runs what is timed, and what choices by time are made for: "auto" (CUDA where it
    works), "cpu", "cuda" or "tensorrt". Scores and proofs are the CPU's."""
    pressure: Pressure = Pressure()
    selection: Selection = Selection()
    retraining: Retraining = Retraining()
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As recorded in run.json; equal documents mean equal configurations."""
        document = asdict(self)
        document["input_shapes"] = {name: list(shape) for name, shape in self.input_shapes.items()}
        return document


class Observer:
    """Hears what happens during a run; every method may be overridden, none does anything here."""

    def opened(self, folder: Path) -> None:
        """The run directory is there, and this process alone writes it: from here on a run that is killed can
        be resumed."""

    def started(self, title: str, generations: int, notes: list[str]) -> None:
        """The ancestor is loaded and scored."""

    def stage(self, generation: int, text: str) -> None:
        """A step of a generation begins: "sampling", "screening 3/16", "proving", ..."""

    def training(self, generation: int, news: Progress) -> None:
        """News from the adapter."""

    def generation_done(self, row: Mapping[str, Any]) -> None:
        """An offspring is complete and on disk."""

    def note(self, text: str) -> None:
        """Something the user should know."""
