"""Those who help: an executor, and what its workers are told of a run."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evonnx.adapter import Adapter, TrainingBudget
from evonnx.environment import EnvironmentFactor
from evonnx.errors import ExecutorError
from evonnx.evolution.configuration import versions_of
from evonnx.executors import Executor, Shared, threads_of
from evonnx.network import load_network
from evonnx.onnx_io import external_files
from evonnx.plugins import get
from evonnx.speed import arithmetic_of
from evonnx.task import NeedsAncestor, Task
from evonnx.tasks import find_task


@dataclass(frozen=True)
class Placing:
    """Where a run's offspring are screened and raised. Decides no result but by the number of threads."""

    executor: str
    """Name of the plugin."""
    workers: int | None = None
    """None: as many as there are cores for."""
    address: str | None = None
    """Of what the executor is to connect to."""

    @property
    def threads(self) -> int:
        """Of each worker, where nobody said how many."""
        return threads_of(self.workers)


def placing_of(executor: str | None, workers: int | None, address: str | None) -> Placing | None:
    """What was asked for; None: everything is done in this process.

    Raises:
        PluginError: there is no such executor, or what it needs is missing.
        ExecutorError: workers or an address are given, and no executor.
    """
    if executor is not None:
        get("executors", executor)
        return Placing(executor, workers, address)
    for option, given in (("--workers", workers), ("--address", address)):
        if given is not None:
            raise ExecutorError(f"{option} is for an executor; choose one, such as `--executor local`.")
    return None


@contextlib.contextmanager
def opened(placing: Placing | None, threads: int) -> Iterator[Executor | None]:
    """An executor, whose workers are gone afterwards.

    Raises:
        ExecutorError: it cannot be had.
    """
    if placing is None:
        yield None
        return
    executor: Executor = get("executors", placing.executor)(placing.workers, threads, placing.address)
    try:
        yield executor
    finally:
        executor.close()


@dataclass(frozen=True)
class Circumstances:
    """What stays the same during a run, as data: workers make of it what they need (`upbringing`)."""

    run: str
    """Of no other run of this process."""
    ancestor: Shared
    ancestor_name: str
    """Of its file."""
    task_file: str | None
    """Read by each worker where it is; None: data-free distillation."""
    folder: str
    """What relative paths are relative to."""
    adapter: str
    adapter_options: Mapping[str, str]
    training: TrainingBudget
    threads: int
    input_shapes: Mapping[str, tuple[int, ...]]
    align: int
    """Wanted multiple of channels that removal keeps."""
    factor: str
    """Name of what offspring are told apart by."""
    warnings_ancestor: frozenset[str]
    timeout: float | None
    versions: Mapping[str, str]
    """That decide the result, by package."""
    machine: Mapping[str, str]


def share_model(executor: Executor, model: Path) -> Shared:
    """A model's files for workers; those that see this machine's find the external ones beside it."""
    outside = () if executor.same_disk else external_files(model)
    return executor.share(model.parent, [model.name, *outside])


@dataclass(frozen=True)
class Crew:
    """An executor that knows of a run."""

    executor: Executor
    circumstances: Circumstances
    checkpoints: Path | None
    """For workers that see this machine's files."""

    def share_model(self, model: Path) -> Shared:
        """A model's files for the workers."""
        return share_model(self.executor, model)

    def describe(self) -> str:
        """A sentence for screen and report."""
        threads = self.circumstances.threads
        return (
            f"Offspring are screened and raised by the {self.executor.name} executor: "
            f"{self.executor.workers} at a time, {threads} thread{'s' if threads > 1 else ''} each."
        )

    def to_json(self) -> dict[str, Any]:
        """As run.json has it."""
        threads = self.circumstances.threads
        return {"name": self.executor.name, "workers": self.executor.workers, "threads": threads}


@dataclass(frozen=True)
class Upbringing:
    """In a worker: what it needs for a run."""

    ancestor: Path
    task: Task
    adapter: Adapter
    factor: EnvironmentFactor
    notes: tuple[str, ...]
    """On how this machine differs from the one that decides."""


_known: dict[str, Upbringing] = {}
"""Of the run that this process works for."""


def upbringing(told: Circumstances) -> Upbringing:
    """In a worker: what is needed for a run, made once and kept.

    Raises:
        ExecutorError: this machine has other versions, or no task file at that place.
        EvonnxError: the task or the adapter is refused here.
    """
    ancestor = told.ancestor.folder() / told.ancestor_name  # asked for each time, so that it stays there
    if told.run not in _known:
        _known.clear()
        _known[told.run] = _upbringing(told, ancestor)
    return _known[told.run]


def _upbringing(told: Circumstances, ancestor: Path) -> Upbringing:
    if Path(told.folder).is_dir():
        os.chdir(told.folder)
    adapter = get("adapters", told.adapter)
    _check_versions(told.versions, versions_of(adapter))
    if told.task_file is not None and not Path(told.task_file).is_file():
        raise ExecutorError(
            f"A worker on {platform.node()} finds no task file {told.task_file}. A task's files must be "
            "readable under the same path on every machine that has workers: put them on a disk that all "
            "share, or copy them there."
        )
    task = find_task(ancestor, load_network(ancestor, told.input_shapes), told.task_file).task
    if isinstance(task, NeedsAncestor):
        task.bind_ancestor(str(ancestor))
    factor: EnvironmentFactor = get("environment_factors", told.factor)()
    return Upbringing(ancestor, task, adapter(), factor, _differences(told.machine, arithmetic_of()))


def _check_versions(wanted: Mapping[str, str], here: Mapping[str, str]) -> None:
    other = [
        f"{name} is {here.get(name, 'missing')} and should be {version}"
        for name, version in sorted(wanted.items())
        if here.get(name) != version
    ]
    if other:
        raise ExecutorError(
            f"A worker on {platform.node()} would come to another result: {'; '.join(other)}. Install the "
            "same versions on every machine that has workers."
        )


def _differences(wanted: Mapping[str, str], here: Mapping[str, str]) -> tuple[str, ...]:
    if here == wanted:
        return ()
    return (
        f"Raised on {here['processor']} ({platform.node()}); the run's own machine is a "
        f"{wanted['processor']}. Another processor rounds sums otherwise, so that the same seed may "
        "give other weights where other workers take part.",
    )
