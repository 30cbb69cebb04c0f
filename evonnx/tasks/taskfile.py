"""Task files: TOML in, checked tables out. Nothing of the data is touched here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evonnx.errors import TaskError
from evonnx.tasks._settings import Settings


@dataclass(frozen=True)
class TaskFile:
    """A task file, parsed."""

    path: Path
    kind: str
    """Name of a task plugin, or `file.py:Class`."""
    settings: Mapping[str, Any]
    """The [task] table without `kind`; whoever builds the task checks it."""
    retrain: Mapping[str, Any]
    """The [retrain] table, checked: fields of `TrainingBudget` and `recovery_epochs`."""


def read_task_file(path: Path) -> TaskFile:
    """Read and check a task file.

    Raises:
        TaskError: no such file, not TOML, an unknown or missing key or table, or a value of the wrong type.
    """
    document = _read_toml(path)
    Settings(document, path.name, path.parent).only(("task", "retrain"))
    for name, table in document.items():
        if not isinstance(table, dict):
            raise TaskError(f"{path.name}: {name} must be a table; write `[{name}]` above its keys.")
    if "task" not in document:
        raise TaskError(
            f'{path.name} has no [task] table. It starts like this: `[task]`, `kind = "classification"`.'
        )
    table = Settings(document["task"], f"{path.name}, [task]", path.parent)
    kind = table.text("kind")
    if not kind:
        raise TaskError(
            f"{table.where}: the key 'kind' is missing. "
            'Write kind = "classification", "regression", "segmentation", "detection", "distillation" or '
            '"my_task.py:MyTask".'
        )
    settings = {key: value for key, value in table.table.items() if key != "kind"}
    retrain = _check_retrain(Settings(document.get("retrain", {}), f"{path.name}, [retrain]", path.parent))
    return TaskFile(path, kind, settings, retrain)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise TaskError(f"There is no task file {path}.") from None
    except OSError as error:
        raise TaskError(f"The task file {path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TaskError(f"{path.name} is not a task file: it is not valid TOML ({error}).") from error


def _check_retrain(table: Settings) -> dict[str, Any]:
    """Ranges of `TrainingBudget`'s fields; what the fields mean is said there."""

    def positive(value: float) -> bool:
        return value > 0

    def not_negative(value: float) -> bool:
        return value >= 0

    def share(value: float) -> bool:
        return 0 <= value <= 1

    values: dict[str, Any] = {
        "epochs": table.integer("epochs", 0),
        "recovery_epochs": table.integer("recovery_epochs", 0),
        "batch_size": table.integer("batch_size", 1),
        "threads": table.integer("threads", 1),
        "learning_rate": table.number("learning_rate", "a number above 0", positive),
        "optimizer": table.text("optimizer", ("sgd", "adam")),
        "weight_decay": table.number("weight_decay", "a number of at least 0", not_negative),
        "schedule": table.text("schedule", ("one-cycle", "cosine", "constant")),
        "warmup": table.number("warmup", "a share from 0 to 1", share),
        "clip_norm": table.number("clip_norm", "a number above 0", positive),
        "ema_decay": table.number(
            "ema_decay", "a number from 0 (off) to below 1", lambda value: 0 <= value < 1
        ),
        "distill": table.number("distill", "a share from 0 to 1", share),
        "temperature": table.number("temperature", "a number above 0", positive),
        "augment": table.text("augment"),
    }
    table.only(values)
    return {key: value for key, value in values.items() if value is not None}
