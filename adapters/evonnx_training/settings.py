"""An adapter's own choices where the budget leaves them open."""

from __future__ import annotations

from dataclasses import dataclass

from evonnx.adapter import TrainingBudget
from evonnx.errors import AdapterError
from evonnx_training.augmentation import read_augmentation
from evonnx_training.schedule import OPTIMIZERS, SCHEDULES

_ACTIVATION_BYTES = 2**30
"""Activations of one batch are kept below this; retraining needs about twice as much."""
_STEPS_PER_EPOCH = 32
"""Small data sets get smaller batches, so that an epoch has about this many steps."""
_BATCHES = (128, 16)
"""Largest and smallest batch chosen for the number of examples (memory may ask for less)."""

_PEAKS = {("sgd", False): 0.1, ("sgd", True): 0.02, ("adam", False): 0.001, ("adam", True): 0.001}
"""Peak learning rate by optimizer and by whether the loss compares values (class distributions take more)."""


TEMPERATURE = 4.0
"""Softening of class distributions, where none is asked for."""


@dataclass(frozen=True)
class Settings:
    """Everything that training needs to know, decided."""

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    weight_decay: float
    schedule: str
    warmup: float
    clip_norm: float
    ema_decay: float
    """0: no averaging."""
    distill: float
    temperature: float
    augment: str


def choose_batch_size(budget: TrainingBudget, examples: int, activation_bytes: int) -> int:
    """The batch size asked for, else one that fits the number of examples and the memory.

    Args:
        budget: what the user asked for.
        examples: size of the training split.
        activation_bytes: of one example's forward pass.
    """
    largest, smallest = _BATCHES
    size = budget.batch_size or largest
    if budget.batch_size is None:
        while size > smallest and size * _STEPS_PER_EPOCH > examples:
            size //= 2
        while size > 1 and size * activation_bytes > _ACTIVATION_BYTES:
            size //= 2
    return max(1, int(size * budget.batch_share))


def resolve(
    budget: TrainingBudget,
    batch_size: int,
    actual: int,
    teacher: bool,
    values_only: bool,
    bare_and_deep: bool,
) -> Settings:
    """Fill in what the budget leaves open.

    Args:
        budget: what the user asked for.
        batch_size: from `choose_batch_size`.
        actual: size of the batches that the task gives when asked for that.
        teacher: whether there is an ancestor to learn from.
        values_only: the loss compares values, not class distributions.
        bare_and_deep: many layers without normalisation, whose gradients differ much in scale: Adam copes
            with that.

    Raises:
        AdapterError: a name is unknown or a number out of range.
    """
    optimizer = budget.optimizer or ("adam" if bare_and_deep else "sgd")
    schedule = budget.schedule or "one-cycle"
    augment = budget.augment or "none"
    for what, name, names in (
        ("optimizer", optimizer, OPTIMIZERS),
        ("schedule", schedule, SCHEDULES),
    ):
        if name not in names:
            raise AdapterError(f"Unknown {what} {name!r}; there are: {', '.join(names)}.")
    read_augmentation(augment)  # refuses what it does not know
    peak = _PEAKS[optimizer, values_only]
    # Steps are noisier with small batches; the square root keeps their variance about equal.
    usual = peak * min(1.0, actual / 128) ** 0.5
    settings = Settings(
        epochs=budget.epochs,
        batch_size=batch_size,
        learning_rate=_or(budget.learning_rate, usual) * budget.rate_share,
        optimizer=optimizer,
        weight_decay=_or(budget.weight_decay, 1e-4 if optimizer == "sgd" else 1e-2),
        schedule=schedule,
        warmup=_or(budget.warmup, 0.2 if schedule == "one-cycle" else 0.05),
        clip_norm=_or(budget.clip_norm, 2.0),
        # A schedule that ends at rate 0 averages by itself.
        ema_decay=_or(budget.ema_decay, 0.999 if schedule == "constant" else 0.0),
        distill=_or(budget.distill, 0.9) if teacher else 0.0,
        temperature=_or(budget.temperature, TEMPERATURE),
        augment=augment,
    )
    _check(settings)
    return settings


def _or(given: float | None, usual: float) -> float:
    return usual if given is None else given


def _check(settings: Settings) -> None:
    limits = (
        ("epochs", settings.epochs, 0, float("inf")),
        ("batch size", settings.batch_size, 1, float("inf")),
        ("learning rate", settings.learning_rate, 0, float("inf")),
        ("weight decay", settings.weight_decay, 0, float("inf")),
        ("warm-up share", settings.warmup, 0, 1),
        ("gradient norm limit", settings.clip_norm, 0, float("inf")),
        ("averaging decay", settings.ema_decay, 0, 1),
        ("distillation share", settings.distill, 0, 1),
        ("temperature", settings.temperature, 1e-3, float("inf")),
    )
    for what, value, low, high in limits:
        if not low <= value <= high:
            raise AdapterError(f"The {what} is {value}; it must lie between {low:g} and {high:g}.")
