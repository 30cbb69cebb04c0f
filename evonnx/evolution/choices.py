"""What a run chose by the clock, as run.json keeps it. A resumed run relies on it, and whoever had the folder
may have changed it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evonnx.adapter import TrainingBudget
from evonnx.errors import RunError
from evonnx.evolution.remedies import Remedies
from evonnx.latency import latency_budget
from evonnx.run_store import RUN_FILE

_TABLES = ("timings", "remedies")


def recorded_choices(run: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """What a run's document holds of choices; None where none were made yet.

    Args:
        run: what run.json holds.
        folder: where it lies.

    Raises:
        RunError: they are not such as evonnx writes.
    """
    choices = run.get("choices")
    if not choices:
        return None
    try:
        _check(choices)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(
            f'"choices" in {folder / RUN_FILE} were not written by evonnx, or were changed since: {reason}. '
            "Put back what was there, or begin another run with another --out."
        ) from error
    return dict(choices)


def _check(choices: Any) -> None:
    """What single timings hold is for `Timings` to refuse, which can have them taken again."""
    if not isinstance(choices, dict):
        raise TypeError(f"they are {choices!s:.40}")
    for name in _TABLES:
        if not isinstance(table := choices.get(name, {}), dict):
            raise TypeError(f"{name} are {table!s:.40}")
    align = choices["align"]
    if type(align) is not int or align < 1:
        raise ValueError(f"align is {align!s:.40}, and no whole number from 1 on")
    remedies = Remedies(choices.get("remedies", {}))
    for key in choices.get("remedies", {}):
        remedies.known(key, TrainingBudget())
    if (latency := choices.get("latency")) is not None:
        latency_budget(latency)
        for one in (latency["ancestor_ms"], *latency.get("corrections", {}).values()):
            if type(one) not in (int, float) or one <= 0:
                raise ValueError(f"latency says {one!s:.40} for a time")
