"""Segmentation: a class per pixel, cross-entropy to train, mean intersection over union to score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Batch, Loss, Metric, Split, Target, Term
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.geometry import read_geometry
from evonnx.tasks.data.inputs import GraphInput, Preparation, image_size, task_settings
from evonnx.tasks.data.label_maps import LabelMaps, Legend
from evonnx.tasks.data.reading import DATA_KEYS, PartReader, Placed
from evonnx.tasks.data.sound.plan import AUDIO
from evonnx.tasks.data.splits import Feed, describe_parts, in_batches
from evonnx.tasks.data.tables import Column

KEYS = (
    *DATA_KEYS,
    *("output", "output_layout", "outputs", "resize_labels", "ignore_index", "label_values"),
    *("class_names", "class_weights", "threshold", "metric"),
)
"""Keys of [task], beside `kind`."""

METRICS = {"miou": "mIoU", "accuracy": "pixel accuracy"}
MOST_CLASSES = 4096


@dataclass(frozen=True)
class Maps:
    """An output of maps."""

    name: str
    size: tuple[int, int]
    classes: int
    axis: int | None
    """Of the classes, 1 or 3; None: the output holds class indices."""
    binary: bool
    """Whether one channel tells two classes apart."""


class SegmentationTask:
    """A class for every pixel.

    Keys of [task], defaults in brackets:

    data: as for regression; targets are label maps, arrays [N, rows, columns] or pictures whose pixel values
    are class indices: train = {images = "photos", labels = "masks"}, train = "train.npz" (x, y). They are
    resized and cut with their pictures. `ignore_index` [255] marks pixels that count for nothing;
    `label_values`, the number of each class in label maps where it is not its index (all others are ignored);
    `resize_labels` [false]: whether the nearest label is taken where the output is smaller than the picture.

    outputs: `output` [the first], scores per class, [N, C, rows, columns] or, with `output_layout` = "nhwc",
    [N, rows, columns, C]; with one channel it tells the second class from the first, from `threshold` [0.5]
    on; [N, rows, columns] of class indices can be scored, not trained.

    loss: cross-entropy over pixels; `class_weights` [1 each].

    score: `metric` ["miou"], the mean of intersection over union over the classes that occur in labels or
    answers, or "accuracy" of pixels; `class_names` shows each class's own beside it.
    """

    name = "segmentation"

    def __init__(self, config: Mapping[str, Any], network: Network) -> None:
        """Read the data and hold it against the model.

        Raises:
            TaskError: anything wrong with a key, a file or its content; both are named.
        """
        settings = task_settings(config)
        settings.only(KEYS)
        self._settings = settings
        self._maps = _output(settings, network)
        self._names = settings.strings("class_names")
        if self._names is not None and len(self._names) != self._maps.classes:
            raise settings.wrong("class_names", f"{self._maps.classes} names, one per class")
        self._weights = self._class_weights(settings)
        threshold = settings.number("threshold", "a number", lambda value: True)
        self._threshold = 0.5 if threshold is None else float(threshold)
        ignored = settings.number("ignore_index", "a whole number", lambda value: value == int(value))
        values = settings.numbers("label_values")
        if values is not None and (len(set(values)) != self._maps.classes or len(values) != len(set(values))):
            raise settings.wrong("label_values", f"{self._maps.classes} different numbers, one per class")
        self._legend = Legend(
            self._maps.classes,
            255 if ignored is None else int(ignored),
            None if values is None else tuple(int(value) for value in values),
        )
        self._parts = PartReader(settings, network, (self._maps.name,), self._target).read()
        kind: Any = "bce" if self._maps.binary else "cross_entropy"
        self.loss = Loss("terms", terms=(Term(self._maps.name, kind, axis=self._maps.axis or 1),))
        name = METRICS[settings.text("metric", tuple(METRICS)) or "miou"]
        self.metric = Metric(name, higher_is_better=True, scale=1.0, unit="%")

    def _class_weights(self, settings: Settings) -> NDArray[np.float32] | None:
        weights = settings.numbers("class_weights")
        if weights is None:
            return None
        if len(weights) != self._maps.classes or any(one < 0 for one in weights) or not any(weights):
            raise settings.wrong("class_weights", f"{self._maps.classes} numbers of at least 0")
        return np.asarray(weights, np.float32)

    def _target(self, output: str, column: Column, label: str, placed: Mapping[str, Placed]) -> Feed:
        fed = next(iter(placed.values()))
        size = image_size(fed.graph_input, fed.settings)
        if len(placed) != 1 or size is None or AUDIO in fed.settings.table:
            raise TaskError(
                f"{self._settings.where}: segmentation is of models with one input of pictures, of 1 or 3 "
                f"channels; this one takes {', '.join(placed)}."
            )
        maps = LabelMaps(
            column,
            label,
            read_geometry(fed.settings, size[:2]),
            bool({"resize", "crop"} & set(fed.settings.table)),
            self._maps.size,
            self._settings.flag("resize_labels", False),
            self._legend,
        )
        plain = np.zeros(1, np.float32)
        takes = Preparation(output, None, maps.size, 1.0, plain, plain + 1, np.dtype(np.int64))
        return Feed(maps, takes)

    def describe(self) -> str:
        """One line: splits with their files and sizes, output, loss and metric."""
        maps = self._maps
        return (
            f"segmentation: {describe_parts(self._parts)}; {maps.classes} classes on {maps.size[0]} x "
            f"{maps.size[1]} pixels of {maps.name!r}; cross-entropy per pixel; {self.metric.name}"
        )

    def size(self, split: Split) -> int:
        """Number of pictures; 0 where a split is missing."""
        return len(self._parts[split]) if split in self._parts else 0

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """Pictures in the graph's layout and dtype; targets (B, rows, columns) class indices, -1 where
        ignored (for one channel: 0, 1 in the output's shape, weights 0 where ignored)."""
        part = self._parts.get(split)
        if part is None:
            return
        name = self._maps.name
        for places in in_batches(len(part), batch_size, rng):
            labels = np.asarray(part.wanted(places)[name], np.int64)
            target, axes = self._as_target(labels)
            yield Batch(part.inputs(places), {name: target}, len(places), {name: axes})

    def _as_target(self, labels: NDArray[np.int64]) -> tuple[Target, tuple[int, int]]:
        """Targets, and the axes of rows and columns."""
        weights = None
        if self._weights is not None:
            weights = np.where(labels >= 0, self._weights[labels], np.float32(0))
        if not self._maps.binary or self._maps.axis is None:
            return Target(labels, weights), (1, 2)
        counted = (labels >= 0).astype(np.float32) if weights is None else weights
        values = np.expand_dims(np.maximum(labels, 0).astype(np.float32), self._maps.axis)
        return Target(values, np.expand_dims(counted, self._maps.axis)), (
            (2, 3) if self._maps.axis == 1 else (1, 2)
        )

    def score(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        """The figure under the metric's name.

        Raises:
            TaskError: as `details`.
        """
        return self.details(split, outputs)[self.metric.name]

    def details(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> dict[str, float]:
        """mIoU and pixel accuracy; each class's IoU where they have names.

        Raises:
            TaskError: the output has another shape than the label maps.
        """
        confusion = Confusion(self._maps.classes)
        for batch, found in outputs:
            targets = batch.targets if isinstance(batch.targets, Mapping) else {}
            confusion.add(self._answers(found[self._maps.name]), self._labels(targets[self._maps.name]))
        figures = {"mIoU": confusion.mean_iou, "pixel accuracy": confusion.accuracy}
        if self._names is not None:
            figures |= {f"IoU {name}": value for name, value in zip(self._names, confusion.iou, strict=True)}
        return figures

    def _labels(self, target: Target) -> NDArray[np.int64]:
        """(B, rows, columns), -1 where ignored."""
        if not self._maps.binary or self._maps.axis is None or target.weights is None:
            return target.values.astype(np.int64)
        counted = np.asarray(target.weights, np.float32) > 0
        labels = np.where(counted, np.asarray(target.values, np.float32), -1).astype(np.int64)
        return np.squeeze(labels, self._maps.axis)

    def _answers(self, found: Array) -> NDArray[np.int64]:
        """(B, rows, columns) class indices; -1 where a pixel has NaN, which is never right."""
        maps = self._maps
        shape: list[int] = [len(found), *maps.size]
        if maps.axis is not None:
            shape.insert(maps.axis, 1 if maps.binary else maps.classes)
        if list(found.shape) != shape:
            raise TaskError(
                f"The model's output {maps.name!r} has shape {list(found.shape)}; this task needs {shape}."
            )
        if maps.axis is None:
            return found.astype(np.int64)
        values = found.astype(np.float32)
        if maps.binary:
            answers = (values >= self._threshold).astype(np.int64)
        else:
            answers = values.argmax(axis=maps.axis, keepdims=True).astype(np.int64)
        unknown = np.isnan(values).any(axis=maps.axis, keepdims=True)
        answers[unknown] = -1
        return np.squeeze(answers, maps.axis)


@dataclass
class Confusion:
    """How often pixels of each class are answered by each, summed up batch by batch."""

    classes: int
    counts: NDArray[np.int64] = field(init=False)
    """(classes, classes + 1): label by answer; the last column is for answers that are no class."""

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes + 1), np.int64)

    def add(self, answers: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        """Count the pixels whose label is not negative; both of one shape."""
        counted = labels >= 0
        known = answers[counted]
        known = np.where((known >= 0) & (known < self.classes), known, self.classes)
        pairs = labels[counted] * (self.classes + 1) + known
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; 0 where it occurs nowhere."""
        shared = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(axis=1) + self.counts[:, :-1].sum(axis=0) - shared
        found: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        return found

    @property
    def mean_iou(self) -> float:
        """Over the classes that occur in labels or answers; 0 where none does."""
        occurs = (self.counts.sum(axis=1) > 0) | (self.counts[:, :-1].sum(axis=0) > 0)
        return float(self.iou[occurs].mean()) if occurs.any() else 0.0

    @property
    def accuracy(self) -> float:
        """Share of pixels that are answered right; 0 of 0 is 0."""
        return float(np.diag(self.counts).sum() / max(1, self.counts.sum()))


def _output(settings: Settings, network: Network) -> Maps:
    """The output that is trained and scored.

    Raises:
        TaskError: it holds no maps, or their size is not known.
    """
    names = [value.name or "" for value in network.model.graph.outputs]
    tables = settings.tables("outputs", names)
    for table in tables.values():
        table.only(("column",))
    name = settings.text("output", names) or next(iter(tables), names[0])
    shape, image = network.shapes.get(name), next(iter(network.input_shapes.values()))
    layout = settings.text("output_layout", ("nchw", "nhwc"))
    if shape is None or len(shape) not in (3, 4) or any(not isinstance(one, int) for one in shape[1:]):
        raise TaskError(
            f"{settings.where}: output {name!r} of {network.source} has "
            f"{'an unknown shape' if shape is None else f'shape {list(shape)}'}; segmentation needs "
            f"[N, C, rows, columns] or [N, rows, columns, C] of known sizes. Name another of "
            f'{", ".join(names)} with output = "...", or set sizes with --input-shape.'
        )
    sizes = [int(one) if isinstance(one, int) else 0 for one in shape]
    last = len(image) == 4 and image[3] in (1, 3) and image[1] not in (1, 3)
    axis = None if len(sizes) == 3 else 3 if layout == "nhwc" or (layout is None and last) else 1
    rows, columns = sizes[1:] if axis is None else sizes[1:3] if axis == 3 else sizes[2:]
    channels = _index_classes(settings, name) if axis is None else sizes[axis]
    if not 1 <= channels <= MOST_CLASSES:
        raise TaskError(
            f"{settings.where}: output {name!r} has {channels} classes, at most {MOST_CLASSES} can be."
        )
    size = _scaled((rows, columns), settings, network)
    return Maps(name, size, max(2, channels), axis, channels == 1)


def _index_classes(settings: Settings, name: str) -> int:
    names = settings.strings("class_names") or settings.numbers("label_values")
    if names is None:
        raise TaskError(
            f"{settings.where}: output {name!r} holds class indices, which do not tell how many classes "
            "there are; name them: class_names = [...]."
        )
    return len(names)


def _scaled(size: tuple[int, int], settings: Settings, network: Network) -> tuple[int, int]:
    """The output's size where `size` or `crop` makes pictures larger or smaller than the graph's own."""
    shape = next(iter(network.input_shapes.values()))
    like = GraphInput("", tuple(shape), tuple(shape), np.dtype(np.float32))
    own, asked = image_size(like, Settings({}, "", settings.folder)), image_size(like, settings)
    if own is None or asked is None or own == asked:
        return size
    rows, columns = (
        Fraction(one) * wanted / have for one, wanted, have in zip(size, asked, own, strict=False)
    )
    if rows.denominator != 1 or columns.denominator != 1:
        raise settings.wrong(
            "size" if "size" in settings.table else "crop", "a multiple of the model's stride"
        )
    return int(rows), int(columns)
