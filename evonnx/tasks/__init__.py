"""Tasks: task files, the built-in kinds (`evonnx plugins` lists them), classes of your own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evonnx.errors import EvonnxError, PluginError, TaskError
from evonnx.network import Network
from evonnx.plugins import get, load_object
from evonnx.task import Loss, Metric, Task
from evonnx.tasks._guarded import guarded
from evonnx.tasks.taskfile import TaskFile, read_task_file

__all__ = [
    "FoundTask",
    "TaskFile",
    "build_task",
    "find_task",
    "find_task_file",
    "load_task",
    "read_task_file",
]

_MEMBERS: Mapping[str, type | None] = {
    "name": str,
    "metric": Metric,
    "loss": Loss,
    "describe": None,
    "size": None,
    "batches": None,
    "score": None,
}
"""Members of the task protocol with their types; None: a method."""


DATA_FREE_RETRAIN: Mapping[str, Any] = {"epochs": 5, "recovery_epochs": 10}
"""Without data: few inputs are synthesised, so one epoch would be a handful of steps."""


class FoundTask(NamedTuple):
    """A task, how it was found, and its retraining defaults."""

    task: Task
    how: str
    """A sentence for screen and report."""
    retrain: dict[str, Any]
    """The [retrain] table: fields of `TrainingBudget` and `recovery_epochs`; `DATA_FREE_RETRAIN`
    without a task file."""


def load_task(path: str | Path, network: Network) -> Task:
    """Build the task that a task file describes, for a model.

    Raises:
        TaskError: the file, its data or its class is wrong, or does not fit the model.
    """
    return build_task(read_task_file(Path(path)), network)


def find_task_file(model_path: str | Path, explicit: str | Path | None = None) -> Path | None:
    """The task file to use: the one that is named, else `<model stem>.toml` beside the model, else None."""
    if explicit is not None:
        return Path(explicit)
    beside = Path(model_path).with_suffix(".toml")
    return beside if beside.is_file() else None


def find_task(model_path: str | Path, network: Network, explicit: str | Path | None = None) -> FoundTask:
    """The task for a model: from `find_task_file`, else data-free self-distillation.

    Raises:
        TaskError: as `load_task`.
    """
    path = find_task_file(model_path, explicit)
    if path is None:
        name = Path(model_path).with_suffix(".toml").name
        how = (
            f"No task was given and there is no {name} beside the model: data-free self-distillation, "
            "trained and "
            "scored on synthesised inputs by agreement with the ancestor, which says nothing about accuracy "
            "on real data."
        )
        task = _construct("distillation", get("tasks", "distillation"), {}, network)
        return FoundTask(task, how, dict(DATA_FREE_RETRAIN))
    file = read_task_file(path)
    how = f"Task from {path.name}, " + ("as given." if explicit is not None else "found beside the model.")
    return FoundTask(build_task(file, network), how, dict(file.retrain))


def build_task(file: TaskFile, network: Network) -> Task:
    """Construct the task of a parsed task file: `kind`'s class with the [task] table and the network.

    The table is passed as a dict with two more keys: `file` (the task file's name) and `directory` (the
    folder that relative paths are relative to).

    Raises:
        TaskError: unknown kind, the class cannot be loaded or constructed, or it is not a task.
    """
    for reserved in ("file", "directory"):
        if reserved in file.settings:
            raise TaskError(
                f"{file.path.name}, [task]: the key {reserved!r} is evonnx's own; use another name."
            )
    directory = file.path.resolve().parent
    try:
        made = load_object(file.kind, directory) if ":" in file.kind else get("tasks", file.kind)
    except PluginError as error:
        raise TaskError(f"{file.path.name}, [task]: kind = {file.kind!r} cannot be used. {error}") from error
    config = {**file.settings, "file": file.path.name, "directory": str(directory)}
    return _construct(file.kind, made, config, network)


def _construct(kind: str, made: Any, config: dict[str, Any], network: Network) -> Task:
    if not callable(made):
        raise TaskError(f"kind = {kind!r} names {type(made).__name__} {made!r}; it must name a class.")
    try:
        task = made(config, network)
    except EvonnxError:
        raise
    except Exception as error:
        raise TaskError(
            f"The task class {kind!r} could not be constructed as {getattr(made, '__name__', made)}(config, "
            "network): "
            f"{type(error).__name__}: {error}."
        ) from error
    check_protocol(task, kind)
    if not isinstance(task, Task):  # what `check_protocol` has just established, for the type checker
        raise TaskError(f"The task class {kind!r} is not a task.")
    return task if type(task).__module__.startswith("evonnx.") else guarded(task)


def check_protocol(task: object, kind: str) -> None:
    """Hold an object to the task protocol.

    Raises:
        TaskError: with every member that is missing or of the wrong type.
    """
    faults = []
    for name, want in _MEMBERS.items():
        if not hasattr(task, name):
            faults.append(f"{name} is missing")
        elif want is None and not callable(getattr(task, name)):
            faults.append(f"{name} is not a method")
        elif want is not None and not isinstance(getattr(task, name), want):
            faults.append(f"{name} is not a {want.__name__}")
    if faults:
        raise TaskError(
            f"The task class {kind!r} does not follow the task protocol (evonnx.task.Task): "
            f"{'; '.join(faults)}."
        )
