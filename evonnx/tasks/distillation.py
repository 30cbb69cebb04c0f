"""Distillation: an offspring is trained towards its ancestor's outputs and scored by agreement with them.

Inputs come from files (labels are not needed and not read), or from nowhere at all: see
`evonnx.tasks._synthetic`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Batch, Loss, Split
from evonnx.tasks._outputs import CACHE_BYTES, KeyedBatch, ModelOutputs
from evonnx.tasks._settings import Settings
from evonnx.tasks._synthetic import is_sampling_rate, plan_input
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
    task_settings,
)
from evonnx.tasks.data.reading import SPLITS, Placed, input_feed, input_tables, memory_limit, sounds_among
from evonnx.tasks.data.rows import RowReader
from evonnx.tasks.data.sources import Reader, Source
from evonnx.tasks.data.splits import DEFAULT_SHARE, Feed, Part, complete, describe_parts, in_batches
from evonnx.tasks.metrics import AGREEMENT, Agreement

SIZES: Mapping[Split, tuple[int, int]] = {
    "train": (512, 2**24),
    "validation": (128, 2**22),
    "test": (256, 2**23),
}
"""Synthesised examples by split: at most this many, and (down to `FEWEST`) at most this many values in
all."""

FEWEST = 16

DATA_KEYS = ("validation_share", "memory_gib", "inputs", *PREPARATION_KEYS)
SIZE_KEYS = ("train_size", "validation_size", "test_size")


class DistillationTask:
    """Match the ancestor. Without data: inputs synthesised from the graph's shapes and constants.

    Keys of [task]: train, validation, test (as for classification, labels ignored; for a model with several
    inputs files with a column per input, by its name) with everything that is said there of inputs and
    shares. Without any data: `train_size`, `validation_size`,
    `test_size` (examples; default at most 512, 128, 256, fewer for large inputs) and `seed`.
    """

    name = "distillation"
    metric = AGREEMENT
    loss = Loss("distillation")

    def __init__(self, config: Mapping[str, Any], network: Network) -> None:
        """Read or plan the inputs.

        Raises:
            TaskError: anything wrong with a key, a file or its content; both are named.
        """
        settings = task_settings(config)
        self._ancestor: ModelOutputs | None = None
        self._inputs: _Files | _Synthesised
        if any(split in settings.table for split in SPLITS):
            settings.only((*SPLITS, "seed", *DATA_KEYS))
            self._inputs = _Files(settings, network)
        else:
            settings.only((*SPLITS, "seed", *DATA_KEYS, *SIZE_KEYS))
            for key in DATA_KEYS:
                if key in settings.table:
                    raise TaskError(
                        f"{settings.where}: {key} is about data, but no train, validation or test is named."
                    )
            self._inputs = _Synthesised(settings, network)

    def describe(self) -> str:
        """One line: where the inputs come from, sizes, loss and metric."""
        return f"{self._inputs.describe()}; distillation from the ancestor; agreement with it"

    def size(self, split: Split) -> int:
        """Number of examples; 0 where a split is missing."""
        return self._inputs.size(split)

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """Inputs by name, no targets. Models whose inputs have no common batch axis get one call at a
        time."""
        step = batch_size if self._inputs.stackable else 1
        for places in in_batches(self.size(split), step, rng):
            key = (split, places.tobytes())
            inputs = self._inputs.take(split, places)
            yield KeyedBatch(inputs, None, len(places), time=self._inputs.time(split), key=key)

    def bind_ancestor(self, model_path: str) -> None:
        """Name the ancestor's file. Its outputs are computed when first needed, and kept."""
        if self._ancestor is None or self._ancestor.model != model_path:
            self._ancestor = ModelOutputs(model_path)

    def score(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        """Agreement with the ancestor, a share (see `evonnx.tasks.metrics`).

        Raises:
            TaskError: no ancestor was bound, it cannot run on the inputs, or an output is missing.
        """
        if self._ancestor is None:
            raise TaskError(
                "A distillation task is scored against the ancestor, and none was named; "
                "call bind_ancestor first (on the command line: evaluate ... --ancestor FILE)."
            )
        agreement = Agreement()
        for batch, found in outputs:
            wanted = self._ancestor(batch)
            missing = sorted(set(wanted) - set(found))
            if missing:
                raise TaskError(f"The model has no output {missing[0]!r}, which its ancestor has.")
            agreement.add(wanted, found)
        return agreement.value


class _Files:
    """Inputs from files."""

    stackable = True

    def __init__(self, settings: Settings, network: Network) -> None:
        share = settings.number("validation_share", "a share between 0 and 1", lambda value: 0 < value < 1)
        seed = settings.integer("seed", 0) or 0
        inputs = graph_inputs(network)
        if not _stackable(inputs):
            raise TaskError(
                f"{settings.where}: the inputs of {network.source} have no common batch axis, so examples "
                "cannot be read "
                'from files; write a task class (kind = "my_task.py:MyTask") or use synthesised inputs.'
            )
        own = input_tables(settings, inputs)
        prepared = {one.name: of_input(settings, one.name, own) for one in inputs}
        limit = memory_limit(settings)
        rows = RowReader(settings, tuple(prepared), (), limit, sounds_among(settings, inputs, own))
        first = inputs[0]
        size = image_size(first, prepared[first.name])
        plan = None if len(inputs) > 1 or own else sound_plan(first, settings, limit)
        reader = Reader(settings, size, limit, wants_labels=False, sounds=plan)
        parts: dict[Split, Part] = {}
        for split in (split for split in SPLITS if split in settings.table):
            if len(inputs) > 1 or own or rows.names_columns(split):
                found = rows.read(split)
                feeds = tuple(
                    input_feed(found.name, Placed(found.inputs[one.name], one, prepared[one.name]), limit)
                    for one in inputs
                )
                source = Source(found.name, feeds[0].examples, None, found.name)
            else:
                source = reader.read(split)
                check_finite(source)
                source = fitted(source, first, prepared[first.name], limit)
                feeds = (Feed(source.examples, prepare(source, first, prepared[first.name])),)
            parts[split] = Part(source, np.arange(len(source), dtype=np.int64), feeds)
        self._parts = complete(parts, share or DEFAULT_SHARE, seed)

    def describe(self) -> str:
        return f"inputs from {describe_parts(self._parts)}"

    def size(self, split: Split) -> int:
        return len(self._parts[split]) if split in self._parts else 0

    def take(self, split: Split, places: NDArray[np.int64]) -> dict[str, Array]:
        return self._parts[split].inputs(places)

    def time(self, split: Split) -> dict[str, int]:
        return self._parts[split].time


class _Synthesised:
    """Inputs out of thin air; example i of a split is the same whenever it is made."""

    def __init__(self, settings: Settings, network: Network) -> None:
        inputs = graph_inputs(network)
        audio = any(is_sampling_rate(one) for one in inputs)
        self.stackable = _stackable(inputs)
        self._plans = [plan_input(one, network, one_example=self.stackable, audio=audio) for one in inputs]
        self._seed = settings.integer("seed", 0) or 0
        values = max(1, sum(int(np.prod(plan.shape)) for plan in self._plans))
        self._sizes: dict[Split, int] = {}
        for split, (most, values_in_all) in SIZES.items():
            default = max(FEWEST, min(most, values_in_all // values))
            self._sizes[split] = settings.integer(f"{split}_size", 1) or default
        self._made: dict[tuple[Split, int], dict[str, Array]] = {}
        self._kept_bytes = 0

    def describe(self) -> str:
        sizes = ", ".join(f"{split} {size}" for split, size in self._sizes.items())
        inputs = "; ".join(f"{plan.name!r} {list(plan.shape)}: {plan.what}" for plan in self._plans)
        return f"no data, inputs synthesised ({inputs}), seed {self._seed}: {sizes}"

    def size(self, split: Split) -> int:
        return self._sizes[split]

    def time(self, split: Split) -> dict[str, int]:
        return {}

    def take(self, split: Split, places: NDArray[np.int64]) -> dict[str, Array]:
        examples = [self._example(split, int(place)) for place in places]
        if not self.stackable:
            return examples[0]
        return {
            plan.name: np.concatenate([example[plan.name] for example in examples]) for plan in self._plans
        }

    def _example(self, split: Split, place: int) -> dict[str, Array]:
        key = (split, place)
        if key not in self._made:
            rng = np.random.default_rng([self._seed, SPLITS.index(split), place])
            made = {plan.name: plan.make(rng) for plan in self._plans}
            size = sum(array.nbytes for array in made.values())
            if self._kept_bytes + size > CACHE_BYTES:
                return made
            self._made[key] = made
            self._kept_bytes += size
        return self._made[key]


def _stackable(inputs: tuple[GraphInput, ...]) -> bool:
    """Whether axis 0 of every input is one common batch axis."""
    return all(one.declared for one in inputs) and len({one.declared[0] for one in inputs}) == 1
