"""What is tried again, and how, where an adapter failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from evonnx.adapter import TrainingBudget
from evonnx.errors import AdapterDivergedError, AdapterError, AdapterMemoryError
from evonnx.faults import Fault

MOST = 3
"""Attempts after the first."""
_LESS = 0.5
_GENTLER = 0.3


def remedy(
    error: AdapterError, budget: TrainingBudget, attempts: int, stage: str
) -> tuple[TrainingBudget, Fault] | None:
    """What to try next; None where nothing helps, or enough was tried.

    Args:
        error: how it failed.
        budget: under which.
        attempts: remedies before this one.
        stage: what the adapter was asked for.
    """
    if attempts >= MOST:
        return None
    if isinstance(error, AdapterMemoryError):
        share = budget.batch_share * _LESS
        action = f"asked again with {share:.3g} of the batch size"
        return replace(budget, batch_share=share), Fault(stage, "out of memory", str(error), action)
    if isinstance(error, AdapterDivergedError):
        share = budget.rate_share * _GENTLER
        action = f"weights as before, asked again with {share:.3g} of the learning rate"
        return replace(budget, rate_share=share), Fault(stage, "divergence", str(error), action)
    return None


class Remedies:
    """What helped, by retraining: whether memory suffices may differ when a run is resumed, its result not.

    Args:
        recorded: kept in run.json; grows.
        save: keeps it there.
    """

    def __init__(
        self, recorded: dict[str, dict[str, Any]] | None = None, save: Callable[[], None] = lambda: None
    ) -> None:
        self._recorded, self._save = {} if recorded is None else recorded, save

    @property
    def recorded(self) -> dict[str, dict[str, Any]]:
        """All of them, as run.json has them; the same object always."""
        return self._recorded

    def adopt(self, entries: Mapping[str, dict[str, Any]]) -> None:
        """Record what others came to."""
        self._recorded.update(entries)
        self._save()

    def known(self, key: str, budget: TrainingBudget) -> tuple[TrainingBudget, list[Fault]]:
        """The budget that was come to, and what went wrong before.

        Raises:
            LookupError, TypeError, ValueError: what was recorded is something else.
        """
        found: Mapping[str, Any] | None = self._recorded.get(key)
        if found is None:
            return budget, []
        batch, rate = float(found["batch_share"]), float(found["rate_share"])
        if not (0 < batch <= 1 and 0 < rate <= 1):
            raise ValueError(f"shares of {batch:g} and {rate:g} for what is tried again")
        faults = [Fault(**fault) for fault in found["faults"]]
        return replace(budget, batch_share=batch, rate_share=rate), faults

    def keep(self, key: str, budget: TrainingBudget, faults: list[Fault]) -> None:
        """Record what is tried next."""
        self._recorded[key] = {
            "batch_share": budget.batch_share,
            "rate_share": budget.rate_share,
            "faults": [fault.to_json() for fault in faults],
        }
        self._save()
