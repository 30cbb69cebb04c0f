"""Splits: what the task file gives, and seeded shares of train kept apart for what it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array
from evonnx.task import Split
from evonnx.tasks.data.inputs import Preparation
from evonnx.tasks.data.sound.examples import SoundExamples
from evonnx.tasks.data.sources import Examples, Source

DEFAULT_SHARE = 0.1


@dataclass(frozen=True)
class Feed:
    """Examples, and how they become what a graph takes or should give."""

    examples: Examples
    prepare: Preparation

    def take(self, indices: NDArray[np.int64]) -> Array:
        """Prepared examples by index."""
        return self.prepare(self.examples.take(indices))


@dataclass(frozen=True)
class Part:
    """Some examples of a source, ready to be fed."""

    source: Source
    indices: NDArray[np.int64]
    feeds: tuple[Feed, ...]
    """One per graph input."""
    note: str = ""
    """Where it comes from, if not a file of its own: such as "10% of train kept apart"."""
    targets: Mapping[str, Feed] = field(default_factory=dict)
    """By output name, where the task has several or other ones than class indices."""

    def __len__(self) -> int:
        return len(self.indices)

    def inputs(self, places: NDArray[np.int64]) -> dict[str, Array]:
        """Prepared inputs, by name, of the examples at these places of the part."""
        return {feed.prepare.name: feed.take(self.indices[places]) for feed in self.feeds}

    def wanted(self, places: NDArray[np.int64]) -> dict[str, Array]:
        """Prepared targets, by output name."""
        return {name: feed.take(self.indices[places]) for name, feed in self.targets.items()}

    @property
    def time(self) -> dict[str, int]:
        """The axis of time by the names of inputs that are sounds, see `task.Batch.time`."""
        axes = {feed.prepare.name: feed.prepare.time for feed in self.feeds}
        return {name: axis + 1 for name, axis in axes.items() if axis is not None}

    def labels(self, places: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Their class indices; None where there are none."""
        return None if self.source.labels is None else self.source.labels[self.indices[places]]


def in_batches(size: int, batch_size: int, rng: np.random.Generator | None) -> Iterator[NDArray[np.int64]]:
    """Places 0 to size - 1 once, in order or shuffled by `rng`, `batch_size` at a time."""
    order = np.arange(size) if rng is None else rng.permutation(size)
    for start in range(0, size, batch_size):
        yield order[start : start + batch_size]


def hold_out(
    indices: NDArray[np.int64], labels: NDArray[np.int64] | None, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split indices into (kept, held out), each in rising order.

    With labels every class gives its share, and at least one example where it has two. `labels` is indexed by
    `indices`.

    Raises:
        TaskError: fewer than two examples, so that one part would be empty.
    """
    if len(indices) < 2:
        raise TaskError(
            "Train has a single example, so none can be kept apart; give every split its own file."
        )
    groups = [indices]
    if labels is not None:
        groups = [indices[labels[indices] == one] for one in np.unique(labels[indices])]
    held = []
    for group in groups:
        count = min(max(round(share * len(group)), 1 if len(group) > 1 else 0), max(len(group) - 1, 0))
        held.append(rng.permutation(group)[:count])
    out = np.sort(np.concatenate(held))
    if len(out) == 0:  # every class has one example
        out = np.sort(rng.permutation(indices)[: min(max(1, round(share * len(indices))), len(indices) - 1)])
    return np.setdiff1d(indices, out), out


def complete(parts: dict[Split, Part], share: float, seed: int) -> dict[Split, Part]:
    """Give a seeded share of train to each of test and validation (in this order) that has no examples of its
    own.

    Without train, missing splits stay missing.

    Raises:
        TaskError: train is too small.
    """
    parts = dict(parts)
    if "train" not in parts:
        return parts
    missing: tuple[Split, ...] = ("test", "validation")
    for split, stream in zip(missing, np.random.SeedSequence(seed).spawn(2), strict=True):
        if split in parts:
            continue
        train = parts["train"]
        kept, held = hold_out(train.indices, train.source.labels, share, np.random.default_rng(stream))
        parts["train"] = replace(train, indices=kept)
        parts[split] = replace(train, indices=held, note=f"{share:.0%} of train kept apart, seed {seed}")
    return parts


def describe_parts(parts: dict[Split, Part]) -> str:
    """Sizes and files, for one line of text."""
    order: tuple[Split, ...] = ("train", "validation", "test")
    sounds = {
        feed.examples.plan.about: None
        for part in parts.values()
        for feed in part.feeds
        if isinstance(feed.examples, SoundExamples)
    }
    sizes = ", ".join(
        f"{split} {len(parts[split])} ({parts[split].note or parts[split].source.name})"
        for split in order
        if split in parts
    )
    return "; ".join([sizes, *sounds])
