"""Classification: examples with one class each, cross-entropy to train, top-1 accuracy to score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Batch, Loss, Split
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.inputs import (
    GraphInput,
    check_finite,
    fitted,
    image_size,
    of_input,
    prepare,
    sound_plan,
    task_settings,
)
from evonnx.tasks.data.reading import (
    DATA_KEYS,
    SPLITS,
    Placed,
    batched_inputs,
    input_feed,
    input_tables,
    memory_limit,
    sounds_among,
)
from evonnx.tasks.data.rows import RowReader, Rows
from evonnx.tasks.data.sources import Reader, Source, as_labels
from evonnx.tasks.data.splits import DEFAULT_SHARE, Feed, Part, complete, describe_parts, in_batches
from evonnx.tasks.metrics import ACCURACY, Accuracy, scores_per_class

_SHOWN_CLASSES = 12
"""Names of folders in a description."""

KEYS = (*DATA_KEYS, "output", "label", "classes", "class_names")
"""Keys of [task], beside `kind`."""


class ClassificationTask:
    """Data from .npz, .csv, IDX, CIFAR-10 and STL-10 binary files, image or sound folders; see
    `evonnx.tasks.data.sources` for how to name them, and `data.rows` for columns and several inputs.

    Keys of [task]: train, validation, test (at least one; a seeded `validation_share` of train, 0.1 by
    default, is kept apart for each of validation and test that is missing); `seed` of that share; inputs
    become (x / scale - mean) / std, with scale 255 for uint8 data and 1 for other, in the order that
    `channel_order` says, "rgb" or "bgr"; `layout` of the data, "nchw" or "nhwc"; pictures are resized and cut
    by `resize`, `crop` and `interpolation` (see `data.geometry`), towards `size` [height, width] where the
    graph leaves it open; [task.audio] says how sounds are read (see `data.sound.plan`); [task.inputs.NAME]
    says any of this, and which `column` or `columns`, of one input; `label`, the column of classes;
    `output`, the graph output with scores per class (default: the first); `classes`, their number, where
    the graph does not say it; `class_names`, the class folders, or the names in a .csv file's column, in
    class order (folders by default: numbers as they are, else names as they are sorted); `memory_gib`,
    what one file may take in memory (default 4).

    uint8 data stays uint8 in memory and is converted batch by batch.
    """

    name = "classification"
    metric = ACCURACY

    def __init__(self, config: Mapping[str, Any], network: Network) -> None:
        """Read the data and hold it against the model.

        Raises:
            TaskError: anything wrong with a key, a file or its content; both are named.
        """
        settings = task_settings(config)
        settings.only(KEYS)
        self._output, self._classes = _class_output(network, settings)
        self.loss = Loss("cross_entropy", self._output)
        self._folders: Mapping[str, int] = {}
        self._parts = self._read(settings, network)

    def _read(self, settings: Settings, network: Network) -> dict[Split, Part]:
        given = [split for split in SPLITS if split in settings.table]
        if not given:
            raise TaskError(f'{settings.where}: no data is named; add train = "..." and test = "...".')
        share = settings.number("validation_share", "a share between 0 and 1", lambda value: 0 < value < 1)
        inputs = batched_inputs(network)
        own = input_tables(settings, inputs)
        table = self._row_reader(settings, inputs, own)
        graph_input, names = inputs[0], settings.strings("class_names")
        own_settings = of_input(settings, graph_input.name, own)
        reader = Reader(
            replace(settings, table={**settings.table, **own_settings.table}),
            image_size(graph_input, own_settings),
            table.limit,
            wants_labels=True,
            classes={name: index for index, name in enumerate(names)} if names else None,
            sounds=None if len(inputs) > 1 or own else sound_plan(graph_input, own_settings, table.limit),
        )
        parts: dict[Split, Part] = {}
        for split in given:
            if len(inputs) > 1 or own or "label" in settings.table or table.names_columns(split):
                parts[split] = self._part_of_rows(table.read(split), inputs, settings, own)
                continue
            source = reader.read(split)
            if source.classes is not None and reader.classes is None:
                self._check_folders(source, source.classes)
                reader = replace(reader, classes=source.classes)
            self._check_labels(source)
            check_finite(source)
            source = fitted(source, graph_input, own_settings, table.limit)
            every = np.arange(len(source), dtype=np.int64)
            feed = Feed(source.examples, prepare(source, graph_input, own_settings))
            parts[split] = Part(source, every, (feed,))
            self._folders = source.classes or self._folders
        return complete(parts, share or DEFAULT_SHARE, settings.integer("seed", 0) or 0)

    def _row_reader(
        self, settings: Settings, inputs: tuple[GraphInput, ...], own: Mapping[str, Settings]
    ) -> RowReader:
        label = settings.text("label")
        named = settings if label is None else settings.with_table(outputs={self._output: {"column": label}})
        return RowReader(
            named,
            tuple(one.name for one in inputs),
            (self._output,),
            memory_limit(settings),
            sounds_among(settings, inputs, own),
            settings.strings("class_names") or (),
        )

    def _part_of_rows(
        self, rows: Rows, inputs: tuple[GraphInput, ...], settings: Settings, own: Mapping[str, Settings]
    ) -> Part:
        column, label = rows.targets[self._output], f"{rows.name}, labels"
        limit = memory_limit(settings)
        if not isinstance(column, np.ndarray):
            raise TaskError(f"{label}: they are pictures; classes are whole numbers.")
        feeds = tuple(
            input_feed(
                rows.name, Placed(rows.inputs[one.name], one, of_input(settings, one.name, own)), limit
            )
            for one in inputs
        )
        source = Source(rows.name, feeds[0].examples, as_labels(column, label), label)
        self._check_labels(source)
        return Part(source, np.arange(rows.size, dtype=np.int64), feeds)

    def _check_folders(self, source: Source, classes: Mapping[str, int]) -> None:
        numbered = all(name.isdigit() for name in classes)
        if self._classes is not None and not numbered and len(classes) != self._classes:
            raise TaskError(
                f"{source.name} has {len(classes)} class folders, but the model's output {self._output!r} "
                "has "
                f"{self._classes} classes, so it is not known which is which. Name the folders in class "
                "order "
                "(class_names = [...]), or by class index (0, 1, ...)."
            )

    def _check_labels(self, source: Source) -> None:
        if source.labels is None:
            raise TaskError(f"{source.name} has no labels.")
        limit = self._classes if self._classes is not None else np.iinfo(np.int64).max
        wrong = (source.labels < 0) | (source.labels >= limit)
        if wrong.any():
            index = int(np.argmax(wrong))
            known = "from 0 up" if self._classes is None else f"from 0 to {self._classes - 1}"
            raise TaskError(
                f"{source.labels_name}: label {source.labels[index]} at index {index} is out of range; the "
                "model's "
                f"output {self._output!r} knows classes {known} ({int(wrong.sum())} of {len(wrong)} labels "
                "are wrong)."
            )

    def describe(self) -> str:
        """One line: splits with their files and sizes, loss and metric."""
        order = sorted(self._folders, key=lambda name: self._folders[name])
        shown = order if len(order) <= _SHOWN_CLASSES else [*order[: _SHOWN_CLASSES - 1], "...", order[-1]]
        classes = f"; classes in order: {', '.join(shown)}" if order else ""
        return (
            f"classification: {describe_parts(self._parts)}{classes}; cross-entropy on {self._output!r}; "
            "accuracy"
        )

    def size(self, split: Split) -> int:
        """Number of examples; 0 where a split is missing."""
        return len(self._parts[split]) if split in self._parts else 0

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """Inputs in the graph's layout and dtype, targets (B,) int64 class indices."""
        part = self._parts.get(split)
        if part is None:
            return
        for places in in_batches(len(part), batch_size, rng):
            yield Batch(part.inputs(places), part.labels(places), len(places), time=part.time)

    def score(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        """Top-1 accuracy, a share.

        Raises:
            TaskError: the output does not hold scores per class, or knows fewer classes than the labels.
        """
        accuracy = Accuracy()
        for batch, found in outputs:
            scores = scores_per_class(found[self._output])
            if scores is None or not isinstance(batch.targets, np.ndarray):
                raise TaskError(
                    f"The model's output {self._output!r} has shape {list(found[self._output].shape)}; "
                    'classification needs scores per class, [N, C]. Name another with output = "..." in '
                    "[task]."
                )
            if int(batch.targets.max(initial=0)) >= scores.shape[1]:
                raise TaskError(
                    f"Label {batch.targets.max()} of {self._parts[split].source.labels_name} is out of "
                    "range; "
                    f"the model's output {self._output!r} knows classes from 0 to {scores.shape[1] - 1}."
                )
            accuracy.add(scores, batch.targets)
        return accuracy.value


def _class_output(network: Network, settings: Settings) -> tuple[str, int | None]:
    """The graph output with scores per class, and their number where it is known."""
    names = [value.name or "" for value in network.model.graph.outputs]
    name = settings.text("output", names) or names[0]
    said = settings.integer("classes", 2)
    shape = network.shapes.get(name)
    if shape is None:
        return name, said
    if len(shape) < 2 or shape[1] == 1 or any(dim not in (1, None) for dim in shape[2:]):
        raise TaskError(
            f"{settings.where}: output {name!r} of {network.source} has shape {list(shape)}; classification "
            "needs scores "
            f'per class, [N, C]. Name another of {", ".join(names)} with output = "...", or use another kind '
            "of task."
        )
    known = shape[1] if isinstance(shape[1], int) else None
    if said is not None and known is not None and said != known:
        raise TaskError(
            f"{settings.where}: classes = {said}, but output {name!r} of {network.source} has {known}."
        )
    return name, known if known is not None else said
