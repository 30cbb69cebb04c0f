"""What is done about training that makes things worse: when to undo, how to retry, when to give up."""

from __future__ import annotations

import math

from evonnx.errors import AdapterError
from evonnx.faults import Fault

ATTEMPTS = (1.0, 0.1)
"""Factors on the learning rate; the second where a whole retraining at the first made the loss larger."""
LOSS_FLOOR = 0.5
"""First losses below this count as this: near zero, a multiple means nothing."""
PROBE_BATCHES = 4
"""Most batches on which the loss before and after is compared; a quarter of an epoch if that is less."""
STATISTICS_BATCHES = 50
"""Batches from which norm statistics are re-estimated."""
SMALLEST_NORM_BATCH = 32
"""Statistics of fewer examples are so noisy that learning from a teacher makes a network worse, not
better."""
FROZEN_NORMS = "batches are too small for batch statistics; normalisation keeps its running ones"
_RETRIES = 4
_GENTLER = 0.3
"""Factor on the learning rate after a rollback."""


def check_start(loss: float) -> None:
    """Refuse what cannot be trained at all.

    Raises:
        AdapterError: the loss is not finite before the first step.
    """
    if not math.isfinite(loss):
        raise AdapterError(
            "The loss is not finite before the first training step: the model or the data holds NaN or "
            "infinite values, or values far out of range. Check them with `evonnx evaluate`."
        )


def is_no_worse(before: float, after: float) -> bool:
    """Whether a retraining may stay. A little worse is noise of the few batches that are looked at."""
    return after <= before * 1.05 + 1e-4


def no_help(attempt: int, rate: float, before: float, after: float) -> Fault:
    """A whole retraining that is undone.

    Args:
        attempt: its place in `ATTEMPTS`.
        rate: its learning rate.
        before: the loss that it began with.
        after: the one that it ended with.
    """
    return Fault(
        "retraining",
        "no help",
        f"Retraining at learning rate {rate:.2g} made the loss larger: {before:.4g} before, "
        f"{after:.4g} after.",
        "undone and retried at a lower rate" if attempt == 0 else "undone; weights as inherited",
    )


def gentler(retries: int, rate: float, factor: float, epoch: int, reason: Exception) -> tuple[float, Fault]:
    """The factor on the learning rate after an epoch that is undone, and the fault that says so.

    Args:
        retries: epochs that have been undone, this one included.
        rate: the learning rate that was set.
        factor: on it, in this epoch.
        epoch: which one, from 1.
        reason: what was wrong.

    Raises:
        AdapterError: enough was tried.
    """
    if retries > _RETRIES:
        raise AdapterError(
            f"Retraining diverged {retries} times, the last time at learning rate "
            f"{rate * factor:.2g} ({reason}). Set a lower `learning_rate`, or use the adam optimizer."
        )
    factor *= _GENTLER
    action = f"undone and retried at learning rate {rate * factor:.2g}"
    return factor, Fault("retraining", "divergence", f"In epoch {epoch} {reason}.", action)
