"""From a task file's splits to parts: every input of the graph fed, every target beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from evonnx.errors import TaskError
from evonnx.network import Network
from evonnx.task import Split
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.arrays import GIB
from evonnx.tasks.data.geometry import read_geometry
from evonnx.tasks.data.images import ImageFolder
from evonnx.tasks.data.inputs import (
    PREPARATION_KEYS,
    GraphInput,
    check_finite,
    fitted,
    graph_inputs,
    image_size,
    of_input,
    prepare,
    sound_plan,
)
from evonnx.tasks.data.rows import COLUMN_KEYS, RowReader
from evonnx.tasks.data.sound.examples import FileWaves, SoundExamples
from evonnx.tasks.data.sound.plan import AUDIO
from evonnx.tasks.data.sources import ArrayExamples, Source
from evonnx.tasks.data.splits import DEFAULT_SHARE, Feed, Part, complete
from evonnx.tasks.data.tables import Column

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
DATA_KEYS = (*SPLITS, "validation_share", "seed", "memory_gib", "inputs", *PREPARATION_KEYS)
"""Keys of [task] that every task with files has."""


@dataclass(frozen=True)
class Placed:
    """A column of inputs as it reaches the graph."""

    column: Column
    graph_input: GraphInput
    settings: Settings
    """What the task file says of this input."""


MakeTarget = Callable[[str, Column, str, Mapping[str, Placed]], Feed]
"""(output, its column, what to call it in messages, the inputs) -> targets."""


@dataclass(frozen=True)
class PartReader:
    """Reads a task's splits.

    Args:
        settings: [task].
        network: the model.
        outputs: that have targets.
        make_target: how a column of targets is read.
    """

    settings: Settings
    network: Network
    outputs: tuple[str, ...]
    make_target: MakeTarget

    def read(self) -> dict[Split, Part]:
        """Parts by split; shares of train for those that are not given.

        Raises:
            TaskError: whatever is wrong with a key, a file or its content; both are named.
        """
        settings = self.settings
        given = [split for split in SPLITS if split in settings.table]
        if not given:
            raise TaskError(f'{settings.where}: no data is named; add train = "..." and test = "...".')
        share = settings.number("validation_share", "a share between 0 and 1", lambda value: 0 < value < 1)
        inputs = batched_inputs(self.network)
        own = input_tables(settings, inputs)
        names = tuple(one.name for one in inputs)
        limit = memory_limit(settings)
        reader = RowReader(settings, names, self.outputs, limit, sounds_among(settings, inputs, own))
        parts: dict[Split, Part] = {}
        for split in given:
            rows = reader.read(split)
            placed = {
                one.name: Placed(rows.inputs[one.name], one, of_input(settings, one.name, own))
                for one in inputs
            }
            feeds = [input_feed(rows.name, one, limit) for one in placed.values()]
            targets = {
                name: self.make_target(name, column, f"{rows.name}, targets for {name!r}", placed)
                for name, column in rows.targets.items()
            }
            source = Source(rows.name, feeds[0].examples, None, rows.name)
            parts[split] = Part(source, np.arange(rows.size), tuple(feeds), targets=targets)
        return complete(parts, share or DEFAULT_SHARE, settings.integer("seed", 0) or 0)


def memory_limit(settings: Settings) -> int:
    """Bytes that one array may take."""
    memory = settings.number("memory_gib", "a number above 0", lambda value: value > 0)
    return int((memory or 4) * GIB)


def batched_inputs(network: Network) -> tuple[GraphInput, ...]:
    """The graph's inputs, which have a common batch axis.

    Raises:
        TaskError: they have none.
    """
    inputs = graph_inputs(network)
    if not all(one.declared for one in inputs) or len({one.declared[0] for one in inputs}) != 1:
        raise TaskError(
            f"The inputs of {network.source} have no common batch axis, so examples cannot be read from "
            'files; write a task class (kind = "my_task.py:MyTask").'
        )
    return inputs


def input_tables(settings: Settings, inputs: tuple[GraphInput, ...]) -> dict[str, Settings]:
    """[task.inputs.NAME] by name, checked."""
    own = settings.tables("inputs", [one.name for one in inputs])
    for table in own.values():
        table.only((*COLUMN_KEYS, *PREPARATION_KEYS))
    return own


def sounds_among(
    settings: Settings, inputs: tuple[GraphInput, ...], own: Mapping[str, Settings]
) -> frozenset[str]:
    """Inputs that are sounds, by what the task file says of them."""
    return frozenset(one.name for one in inputs if AUDIO in of_input(settings, one.name, own).table)


def input_feed(name: str, placed: Placed, limit: int) -> Feed:
    """How a column of inputs becomes what the graph takes; `limit` in bytes.

    Raises:
        TaskError: it cannot; the message names file and shapes.
    """
    column, graph_input, settings = placed.column, placed.graph_input, placed.settings
    label = f"{name}, input {graph_input.name!r}"
    if isinstance(column, np.ndarray):
        source = Source(label, ArrayExamples(column), None, label)
        check_finite(source)
        source = fitted(source, graph_input, settings, limit)
    elif (plan := sound_plan(graph_input, settings, limit)) is not None:
        source = Source(label, SoundExamples(FileWaves(column), plan), None, label)
    else:
        size = image_size(graph_input, settings)
        if size is None:
            raise TaskError(
                f"{label}: {graph_input.name!r} takes {list(graph_input.shape[1:])}, no images of 1 or 3 "
                "channels."
            )
        examples = ImageFolder(column, read_geometry(settings, size[:2]), size[2])
        source = Source(label, examples, None, label, channels_last=True)
    return Feed(source.examples, prepare(source, graph_input, settings))
