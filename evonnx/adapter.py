"""The adapter contract: borrow a training framework to retrain weights; the graph never leaves ONNX.

An adapter gets a compact ONNX file, masks, a task and a budget, and returns arrays by initializer name. Core
checks names, shapes, dtypes, finiteness and that masked weights are still zero (`check_result`), and writes
the weights back itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from evonnx.errors import AdapterDivergedError, AdapterError
from evonnx.faults import Fault
from evonnx.masks import Masks
from evonnx.network import Array
from evonnx.task import Task


@dataclass(frozen=True)
class TrainingBudget:
    """How long and how hard to retrain. None means: the adapter's own default."""

    epochs: int = 1
    batch_size: int | None = None
    learning_rate: float | None = None
    """Peak rate of the schedule."""
    optimizer: str | None = None
    """"sgd" or "adam"."""
    weight_decay: float | None = None
    schedule: str | None = None
    """"one-cycle", "cosine" or "constant"."""
    warmup: float | None = None
    """Share of all steps spent warming up."""
    clip_norm: float | None = None
    ema_decay: float | None = None
    """Weight averaging; 0 turns it off."""
    distill: float | None = None
    """Share of the loss that comes from the ancestor's outputs, in [0, 1]."""
    temperature: float | None = None
    augment: str | None = None
    """Name of an augmentation the task or adapter knows: "none", "shift", "flip-shift:4/16", "time-shift"."""
    threads: int | None = None
    batch_share: float = 1.0
    """Of the batch size, given or the adapter's own: under 1 where memory did not suffice before."""
    rate_share: float = 1.0
    """Of the learning rate, given or the adapter's own: under 1 where training came to NaN before."""


@dataclass(frozen=True)
class Progress:
    """One step of news from an adapter."""

    epoch: int
    """From 1."""
    epochs: int
    step: int
    """Steps done in this epoch."""
    steps: int
    loss: float
    offspring: int | None = None
    """Which one of its generation, from 1, where several are trained at a time; adapters leave it."""


@dataclass(frozen=True)
class RetrainRequest:
    """Everything an adapter is told."""

    model: Path
    """The compact ONNX file. Read it; never write it."""
    masks: Masks
    """By initializer name in that file; True lives. Weights not named here are free."""
    task: Task
    budget: TrainingBudget
    seed: int
    ancestor: Path | None = None
    """Teacher for distillation, if any."""
    progress: Callable[[Progress], None] = lambda news: None
    options: Mapping[str, str] = field(default_factory=dict)
    """Adapter-specific settings from the command line, such as `command`."""
    checkpoint: Path | None = None
    """A file that the adapter may keep its progress in, and from which it then goes on, to the same result,
    when it is asked the same again after it was killed. Whoever asks removes it; None: nowhere."""


@dataclass(frozen=True)
class EpochRecord:
    """What happened in one epoch."""

    epoch: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class RetrainResult:
    """New arrays for initializers of the same file, with history."""

    weights: Mapping[str, Array]
    history: Sequence[EpochRecord] = ()
    notes: Sequence[str] = ()
    """What the user should know."""
    faults: Sequence[Fault] = ()
    """What went wrong and was put right, such as "diverged in epoch 2, retried at half the rate"."""


@runtime_checkable
class Adapter(Protocol):
    """The plugin that retrains a model in some framework. Constructed without arguments.

    It may name in `packages` (a tuple of str, of the class) distributions whose versions decide what it
    returns: they are recorded, and compared when a run is resumed.
    """

    name: str

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        """Retrain and return weights; raise `AdapterError` with the reason if that cannot be done."""
        ...


@runtime_checkable
class MeasuresSensitivities(Protocol):
    """An adapter that can also say how much the model's answers depend on each weight. Optional: encodings
    that read strengths from gradients need it."""

    name: str

    def sensitivities(self, request: RetrainRequest) -> Mapping[str, Array]:
        """E[(w dL/dw)^2] over batches of training data, the model as it is, for every tensor in the masks.

        L is the negative log-likelihood of targets drawn from the model's own answers, so that no labels are
        needed. Shapes are the tensors' own; values are finite and not negative.

        Raises:
            AdapterError: the gradients cannot be measured.
        """
        ...


def check_sensitivities(masks: Masks, found: Mapping[str, Array], adapter_name: str) -> None:
    """Hold an adapter to `MeasuresSensitivities`.

    Raises:
        AdapterError: a tensor is missing, has another shape, or holds values that are negative or not finite.
    """
    for name, mask in masks.items():
        if name not in found or found[name].shape != mask.shape:
            shape = f"shape {list(found[name].shape)}" if name in found else "nothing"
            raise AdapterError(
                f"Adapter {adapter_name!r} measured {shape} for {name!r}; its shape is {list(mask.shape)}."
            )
        values = np.asarray(found[name], dtype=np.float64)
        if not np.all(np.isfinite(values) & (values >= 0)):
            raise AdapterError(
                f"Adapter {adapter_name!r} measured negative or not finite sensitivities for {name!r}."
            )


def check_result(
    initializers: Mapping[str, Array], masks: Masks, result: RetrainResult, adapter_name: str
) -> None:
    """Hold an adapter to its contract.

    Args:
        initializers: arrays of the model as it was given, by name.
        masks: the masks it was given.
        result: what it returned.
        adapter_name: for the message.

    Raises:
        AdapterDivergedError: a value is not finite.
        AdapterError: it is no result, a name is unknown, a shape or dtype differs, or a masked weight is not
            zero.
    """
    if not isinstance(result, RetrainResult) or not isinstance(result.weights, Mapping):
        raise AdapterError(
            f"Adapter {adapter_name!r} returned {type(result).__name__} instead of a RetrainResult with "
            "weights by name."
        )
    for name, array in result.weights.items():
        if name not in initializers:
            raise AdapterError(
                f"Adapter {adapter_name!r} returned weights for {name!r}, which the model does not have."
            )
        want = initializers[name]
        if not isinstance(array, np.ndarray):
            raise AdapterError(
                f"Adapter {adapter_name!r} returned {name!r} as {type(array).__name__}, not as a numpy array."
            )
        if array.shape != want.shape or array.dtype != want.dtype:
            raise AdapterError(
                f"Adapter {adapter_name!r} returned {name!r} as {array.dtype}{list(array.shape)}; "
                f"the model has {want.dtype}{list(want.shape)}."
            )
        if not np.all(np.isfinite(array.astype(np.float32))):
            raise AdapterDivergedError(
                f"Adapter {adapter_name!r} returned {name!r} with NaN or infinite values."
            )
        mask = masks.get(name)
        if mask is not None and np.any(array[~mask] != 0):
            raise AdapterError(
                f"Adapter {adapter_name!r} returned {name!r} with masked weights that are not zero; "
                "dead synapses must stay dead."
            )
