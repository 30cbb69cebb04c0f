"""Regression: outputs of values, of any shape, to be near given ones; pictures to pictures among them.

`MultiOutputTask` is the same with classes beside values: one loss and one figure per output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Batch, Loss, Metric, Split, Target
from evonnx.tasks._heads import (
    COMMON_KEYS,
    OUTPUT_KEYS,
    VALUE_LOSSES,
    ClassHead,
    Head,
    ValueHead,
    ValueLoss,
)
from evonnx.tasks._settings import Settings
from evonnx.tasks._values import NAMES, Guess
from evonnx.tasks.data.inputs import task_settings
from evonnx.tasks.data.reading import DATA_KEYS, PartReader, Placed
from evonnx.tasks.data.splits import Feed, describe_parts, in_batches
from evonnx.tasks.data.tables import Column

KEYS = (*DATA_KEYS, *COMMON_KEYS, "output", "outputs", "score")
"""Keys of [task], beside `kind`."""

_LOOKED_AT = 1024
"""Most training examples that the scale of an output's values is estimated from, evenly spaced."""
_VALUES_LOOKED_AT = 2**22


class RegressionTask:
    """Values to be near the targets', for one output or several.

    Keys of [task], defaults in brackets:

    data: train, validation, test (at least one; see `data.rows`), `validation_share` [0.1] and `seed` [0] of
    what is kept apart of train, `memory_gib` [4]; inputs are prepared by `scale`, `mean`, `std`, `layout`,
    `channel_order`, `size`, `resize`, `crop`, `interpolation` and `audio`, for all inputs or in
    [task.inputs.NAME], where `column` or `columns` name what an input reads.

    outputs: `output`, the one that is trained, where the graph has several; or a table [task.outputs.NAME]
    for each, with `column` or `columns`, `scale` [1; 255 for pictures], `mean`, `std`, `layout` and
    `channel_order` of its targets, and any of what follows.

    loss: `loss` ["mse"], "l1" or "huber" with `delta` [1], and `weight` [1]: each output's loss is divided
    by that of a constant guess on training data, so that weights compare and rates need no tuning to units;
    `moves`: whether targets move with a picture that `augment` moves [if they are maps of its size].

    score: `metric` ["r2"], "mae", "mse", "rmse" or "psnr" with `peak` [1], in the output's own unit; of
    several outputs the mean of their r2, or that of the one that `score` names.
    """

    name = "regression"
    losses: tuple[str, ...] = VALUE_LOSSES

    def __init__(self, config: Mapping[str, Any], network: Network) -> None:
        """Read the data and hold it against the model.

        Raises:
            TaskError: anything wrong with a key, a file or its content; both are named.
        """
        settings = task_settings(config)
        settings.only(KEYS)
        self._heads = {head.output: head for head in self._make_heads(settings, network)}
        self._parts = PartReader(settings, network, tuple(self._heads), self._target).read()
        guesses = {name: self._guess(name) for name in self._heads}
        self.loss = Loss("terms", terms=tuple(head.term(guesses[one]) for one, head in self._heads.items()))
        self._scored = self._choose(settings)
        self.metric = self._metric(guesses)
        self._spatial = {}
        for name, head in self._heads.items():
            follows = head.spatial(network)
            if follows != "unknown":
                self._spatial[name] = None if follows == "stays" else follows

    def _make_heads(self, settings: Settings, network: Network) -> list[Head]:
        declared = {
            value.name or "": None if value.shape is None else tuple(value.shape)
            for value in network.model.graph.outputs
        }
        single = settings.text("output", declared)
        own = settings.tables("outputs", declared)
        if single is not None and own:
            raise settings.wrong("output", "left out where there are tables [task.outputs.NAME]")
        names = [single] if single is not None else list(own) or list(declared)
        if len(names) > 1 and not own:
            raise TaskError(
                f"{settings.where}: {network.source} has {len(names)} outputs ({', '.join(names)}); say "
                f'which is trained, output = "{names[0]}", or of each, [task.outputs.{names[0]}].'
            )
        common = {key: settings.table[key] for key in COMMON_KEYS if key in settings.table}
        heads = []
        for name in names:
            given = own.get(name)
            if given is not None:
                given.only(OUTPUT_KEYS)
            table = Settings(
                {**common, **(given.table if given is not None else {})},
                settings.where if given is None else given.where,
                settings.folder,
            )
            heads.append(self._head(name, network, table, declared[name]))
        return heads

    def _head(self, name: str, network: Network, table: Settings, declared: Any) -> Head:
        loss = table.text("loss", self.losses) or self.losses[0]
        weight = table.number("weight", "a number above 0", lambda value: value > 0)
        inferred = network.shapes.get(name)
        # Sizes are known for the inputs' own; the batch is free.
        shape = None if inferred is None else (None, *(_number(size) for size in inferred[1:]))
        if loss == "cross_entropy":
            return ClassHead(name, shape[1] if shape is not None and len(shape) > 1 else None, weight or 1.0)
        delta = table.number("delta", "a number above 0", lambda value: value > 0)
        peak = table.number("peak", "a number above 0", lambda value: value > 0)
        key = table.text("metric", tuple(NAMES)) or "r2"
        return ValueHead(
            name,
            shape,
            table,
            _value_loss(loss),
            float(delta or 1),
            float(weight or 1),
            key,
            float(peak or 1) if key == "psnr" or peak is not None else None,
            table.flag("moves", True) if "moves" in table.table else None,
        )

    def _target(self, output: str, column: Column, label: str, placed: Mapping[str, Placed]) -> Feed:
        return self._heads[output].target(column, label, placed)

    def _guess(self, output: str) -> Guess:
        """Some training examples' values."""
        part = self._parts.get("train")
        if part is None or not isinstance(self._heads[output], ValueHead):
            return Guess(np.zeros(0))
        feed = part.targets[output]
        one = max(1, int(np.prod(feed.prepare.shape)))
        count = min(len(part), _LOOKED_AT, max(1, _VALUES_LOOKED_AT // one))
        places = np.linspace(0, len(part) - 1, count).astype(np.int64)
        return Guess(feed.take(part.indices[places]).astype(np.float64).reshape(-1))

    def _choose(self, settings: Settings) -> tuple[str, ...]:
        """The outputs whose figures make the score."""
        said = settings.text("score", self._heads)
        if said is not None:
            return (said,)
        names = tuple(self._heads)
        if any(self._heads[name].key not in ("r2", "accuracy") for name in names) and len(names) > 1:
            raise TaskError(
                f"{settings.where}: figures of several outputs in their own units have no mean; say which "
                f'decides: score = "{names[0]}".'
            )
        return names

    def _metric(self, guesses: Mapping[str, Guess]) -> Metric:
        if len(self._scored) == 1:
            return self._heads[self._scored[0]].metric(guesses[self._scored[0]])
        keys = dict.fromkeys(self._heads[name].names[self._heads[name].key] for name in self._scored)
        return Metric(f"mean {' and '.join(keys)}")

    def describe(self) -> str:
        """One line: splits with their files and sizes, losses and metric."""
        terms = ", ".join(f"{term.kind} on {term.output!r} x {term.weight:.3g}" for term in self.loss.terms)
        of = f" of {', '.join(self._scored)}" if len(self._heads) > 1 else ""
        return f"{self.name}: {describe_parts(self._parts)}; {terms}; {self.metric.name}{of}"

    def size(self, split: Split) -> int:
        """Number of examples; 0 where a split is missing."""
        return len(self._parts[split]) if split in self._parts else 0

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """Inputs by name in the graph's layout and dtype; targets of each output's shape."""
        part = self._parts.get(split)
        if part is None:
            return
        for places in in_batches(len(part), batch_size, rng):
            targets = {name: Target(values) for name, values in part.wanted(places).items()}
            yield Batch(part.inputs(places), targets, len(places), self._spatial, part.time)

    def score(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        """The figure under the metric's name.

        Raises:
            TaskError: as `details`.
        """
        return self.details(split, outputs)[self.metric.name]

    def details(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> dict[str, float]:
        """Every figure of every output, in its own unit, and the score.

        Raises:
            TaskError: an output has another shape than its targets.
        """
        sums = {name: head.sums() for name, head in self._heads.items()}
        for batch, found in outputs:
            targets = batch.targets if isinstance(batch.targets, Mapping) else {}
            for name, one in sums.items():
                wanted = targets[name].values
                if isinstance(self._heads[name], ValueHead) and found[name].shape != wanted.shape:
                    raise TaskError(
                        f"The model's output {name!r} has shape {list(found[name].shape)}, its targets "
                        f"{list(wanted.shape)}; give targets of the output's shape."
                    )
                one.add(found[name], wanted)
        figures = {name: dict(one.figures) for name, one in sums.items()}
        score = float(np.mean([figures[name][self._heads[name].key] for name in self._scored]))
        shown = {self.metric.name: score}
        for name, each in figures.items():
            before = f"{name} " if len(figures) > 1 else ""
            shown |= {f"{before}{self._heads[name].names[key]}": value for key, value in each.items()}
        return {**shown, self.metric.name: score}


class MultiOutputTask(RegressionTask):
    """As `RegressionTask`, with `loss = "cross_entropy"` for outputs of scores per class, whose targets are
    class indices (-1: unlabelled) and whose figure is accuracy."""

    name = "multi-output"
    losses = (*VALUE_LOSSES, "cross_entropy")


def _value_loss(loss: str) -> ValueLoss:
    return "l1" if loss == "l1" else "huber" if loss == "huber" else "mse"


def _number(size: object) -> int | None:
    """A dimension that is known."""
    return size if isinstance(size, int) else None
