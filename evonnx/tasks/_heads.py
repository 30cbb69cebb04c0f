"""What a task wants of one output: a loss to train it, figures to score it, and how its targets are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Metric, Term
from evonnx.tasks._settings import Settings
from evonnx.tasks._values import NAMES, Errors, Guess, metric_of
from evonnx.tasks.data.geometry import read_geometry
from evonnx.tasks.data.images import ImageFolder
from evonnx.tasks.data.inputs import VALUE_KEYS, GraphInput, check_finite, image_size, prepare
from evonnx.tasks.data.reading import Placed
from evonnx.tasks.data.rows import COLUMN_KEYS
from evonnx.tasks.data.sources import ArrayExamples, Source, as_labels
from evonnx.tasks.data.splits import Feed
from evonnx.tasks.data.tables import Column
from evonnx.tasks.metrics import ACCURACY, Accuracy, scores_per_class

VALUE_LOSSES = ("mse", "l1", "huber")
OUTPUT_KEYS = (*COLUMN_KEYS, *VALUE_KEYS, "loss", "delta", "weight", "metric", "peak", "moves")
"""Keys of [task.outputs.NAME]; those about loss and score may stand in [task] for all of them."""
COMMON_KEYS = ("loss", "delta", "metric", "peak", "moves")

ValueLoss = Literal["mse", "l1", "huber"]


class Sums(Protocol):
    """Figures of one output, summed up batch by batch."""

    def add(self, found: Array, wanted: Array) -> None:
        """Count a batch."""
        ...

    @property
    def figures(self) -> Mapping[str, float]:
        """By metric key."""
        ...


class Head(Protocol):
    """One output's part in a task."""

    @property
    def output(self) -> str:
        """Its name."""
        ...

    @property
    def key(self) -> str:
        """Of its metric, among `Sums.figures`."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """What tables call the figures, by key."""
        ...

    def target(self, column: Column, label: str, placed: Mapping[str, Placed]) -> Feed:
        """How a column becomes targets.

        Raises:
            TaskError: it cannot.
        """
        ...

    def term(self, guess: Guess) -> Term:
        """Its part of the loss, 1 for a constant guess where that is what `guess` says."""
        ...

    def metric(self, guess: Guess) -> Metric:
        """What its score means."""
        ...

    def sums(self) -> Sums:
        """Fresh ones."""
        ...

    def spatial(self, network: Network) -> tuple[int, int] | Literal["stays", "unknown"]:
        """How its targets follow an image that moves, see `task.Batch.spatial`."""
        ...


@dataclass(frozen=True)
class ValueHead:
    """An output of values, to be near the targets'."""

    output: str
    shape: tuple[int | None, ...] | None
    """As the graph declares it, with the batch."""
    settings: Settings
    loss: ValueLoss
    delta: float
    weight: float
    key: str
    peak: float | None
    moves: bool | None
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)

    def target(self, column: Column, label: str, placed: Mapping[str, Placed]) -> Feed:
        """See `Head`."""
        settings = self.settings
        if isinstance(column, np.ndarray):
            source = Source(label, ArrayExamples(column), None, label)
            check_finite(source)
        else:
            source = self._pictures(column, label, placed)
        shape = self.shape or (None, *source.examples.sample_shape)
        concrete = tuple(1 if size is None else size for size in shape)
        takes = GraphInput(self.output, tuple(shape), concrete, np.dtype(np.float32), "output")
        if "scale" not in settings.table and isinstance(column, np.ndarray) and len(shape) < 4:
            # Small whole numbers are counts or ages where they are no picture.
            settings = Settings({**settings.table, "scale": 1}, settings.where, settings.folder)
        return Feed(source.examples, prepare(source, takes, settings))

    def _pictures(self, column: Any, label: str, placed: Mapping[str, Placed]) -> Source:
        """Pictures, made as large as the output, in the way that the inputs' are made as large as those."""
        shape, fed, size = self.shape, next(iter(placed.values())), None
        if shape is not None and len(shape) == 4:
            like = GraphInput(
                self.output,
                tuple(shape),
                tuple(one if isinstance(one, int) else 1 for one in shape),
                np.dtype(np.float32),
                "output",
            )
            size = image_size(like, Settings({}, "", fed.settings.folder))
        if size is None or any(one is None for one in (shape or ())[1:]):
            raise TaskError(
                f"{label}: pictures can be targets of an output [N, C, H, W] or [N, H, W, C] with 1 or 3 "
                f"channels; {self.output!r} has {list(shape) if shape else 'an unknown shape'}. Give arrays, "
                "or set sizes with --input-shape."
            )
        geometry = read_geometry(fed.settings, size[:2])
        own = image_size(fed.graph_input, fed.settings)
        if geometry.resize is not None and own is not None and own[:2] != size[:2]:
            raise TaskError(
                f"{label}: resize is for pictures of {own[0]} x {own[1]} pixels, the output has {size[0]} x "
                f"{size[1]}; resize the files, and leave resize out."
            )
        return Source(label, ImageFolder(column, geometry, size[2]), None, label, channels_last=True)

    def term(self, guess: Guess) -> Term:
        """See `Head`."""
        return Term(self.output, self.loss, self.weight / guess.error(self.loss, self.delta), self.delta)

    def metric(self, guess: Guess) -> Metric:
        """See `Head`."""
        return metric_of(self.key, guess)

    def sums(self) -> Sums:
        """See `Head`."""
        return Errors(self.peak)

    def spatial(self, network: Network) -> tuple[int, int] | Literal["stays", "unknown"]:
        """Maps of an image's size move with it, unless the task file says otherwise."""
        if self.moves is False:
            return "stays"
        shape = self.shape
        images = [size for size in network.input_shapes.values() if len(size) == 4]
        if shape is None or len(images) != 1 or len(shape) not in (3, 4):
            return "unknown"
        last = images[0][3] in (1, 3) and images[0][1] not in (1, 3)
        size = tuple(images[0][1:3] if last else images[0][2:4])
        places = ((1, 2),) if len(shape) == 3 or last else ((2, 3), (1, 2))
        for axes in places:
            if tuple(shape[axis] for axis in axes) == size:
                return axes
        return "unknown"


@dataclass(frozen=True)
class ClassHead:
    """An output of scores per class."""

    output: str
    classes: int | None
    weight: float
    key: str = "accuracy"
    names: Mapping[str, str] = field(default_factory=lambda: {"accuracy": "accuracy"})

    def target(self, column: Column, label: str, placed: Mapping[str, Placed]) -> Feed:
        """See `Head`."""
        if not isinstance(column, np.ndarray):
            raise TaskError(f"{label}: class labels are whole numbers, not pictures.")
        labels = as_labels(column, label)
        limit = self.classes if self.classes is not None else np.iinfo(np.int64).max
        wrong = (labels < -1) | (labels >= limit)
        if wrong.any():
            index = int(np.argmax(wrong))
            known = "from 0 up" if self.classes is None else f"from 0 to {self.classes - 1}"
            raise TaskError(
                f"{label}: label {labels[index]} at index {index} is out of range; output {self.output!r} "
                f"knows classes {known}, and -1 is unlabelled."
            )
        takes = GraphInput(self.output, (None,), (1,), np.dtype(np.int64), "output")
        source = Source(label, ArrayExamples(labels), labels, label)
        return Feed(source.examples, prepare(source, takes, Settings({}, label, Path())))

    def term(self, guess: Guess) -> Term:
        """See `Head`."""
        return Term(self.output, "cross_entropy", self.weight)

    def metric(self, guess: Guess) -> Metric:
        """See `Head`."""
        return ACCURACY

    def sums(self) -> Sums:
        """See `Head`."""
        return _Classes(self.output)

    def spatial(self, network: Network) -> tuple[int, int] | Literal["stays", "unknown"]:
        """A picture's class stays when it moves."""
        return "stays"


class _Classes:
    def __init__(self, output: str) -> None:
        self._output, self._accuracy = output, Accuracy()

    def add(self, found: Array, wanted: Array) -> None:
        scores = scores_per_class(found)
        labels = np.asarray(wanted, np.int64)
        if scores is None or len(scores) != len(labels):
            raise TaskError(
                f"The model's output {self._output!r} has shape {list(found.shape)}; cross_entropy needs "
                "scores per class, [N, C]."
            )
        self._accuracy.add(scores[labels >= 0], labels[labels >= 0])

    @property
    def figures(self) -> dict[str, float]:
        return {"accuracy": self._accuracy.value}
