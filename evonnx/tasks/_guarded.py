"""Tasks of others, held to the contract at every call: what they raise or get wrong is told as theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from evonnx.errors import EvonnxError, TaskError
from evonnx.network import Array
from evonnx.task import Batch, Detailed, Loss, Metric, NeedsAncestor, Split, Task

Answer = TypeVar("Answer")
Outputs = Iterator[tuple[Batch, Mapping[str, Array]]]


def guarded(task: Task) -> Task:
    """The same task, whose faults are `TaskError`s."""
    bases: tuple[type, ...] = (_Guarded,)
    if isinstance(task, NeedsAncestor):
        bases = (_Bound, *bases)
    if isinstance(task, Detailed):
        bases = (_WithDetails, *bases)
    made: Task = type("GuardedTask", bases, {})(task)
    return made


class _Guarded:
    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    @property
    def name(self) -> str:
        return str(self._task.name)

    @property
    def metric(self) -> Metric:
        return self._task.metric  # type: ignore[no-any-return]

    @property
    def loss(self) -> Loss:
        return self._task.loss  # type: ignore[no-any-return]

    def describe(self) -> str:
        return str(self._asked("describe", self._task.describe))

    def size(self, split: Split) -> int:
        answer = self._asked(f"size({split!r})", lambda: self._task.size(split))
        if not isinstance(answer, int | np.integer) or answer < 0:
            raise self._wrong(f"size({split!r})", f"it is {answer!r}, not a number of examples")
        return int(answer)

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        what = f"batches({split!r})"
        given = self._asked(what, lambda: iter(self._task.batches(split, batch_size, rng)))
        while True:
            batch = self._asked(what, lambda: next(given, None))
            if batch is None:
                return
            if reason := _fault(batch):
                raise self._wrong(what, reason)
            yield batch

    def score(self, split: Split, outputs: Outputs) -> float:
        return self._number(f"score({split!r})", lambda: self._task.score(split, outputs))

    def _number(self, what: str, call: Callable[[], Any]) -> float:
        answer = self._asked(what, call)
        try:
            return float(answer)
        except (TypeError, ValueError):
            raise self._wrong(what, f"it is {type(answer).__name__}, not a number") from None

    def _asked(self, what: str, call: Callable[[], Answer]) -> Answer:
        try:
            return call()
        except (EvonnxError, MemoryError):
            raise
        except Exception as error:
            reason = f"it raised {type(error).__name__}: {error}"
            raise self._wrong(what, reason) from error

    def _wrong(self, what: str, reason: str) -> TaskError:
        return TaskError(
            f"Task {self.name!r} ({type(self._task).__name__}) fails in {what}: {reason}. This is a fault of "
            "the task's own code or data; --debug shows where."
        )


class _Bound(_Guarded):
    def bind_ancestor(self, model_path: str) -> None:
        self._asked("bind_ancestor", lambda: self._task.bind_ancestor(model_path))


class _WithDetails(_Guarded):
    def details(self, split: Split, outputs: Outputs) -> dict[str, float]:
        what = f"details({split!r})"
        found = self._asked(what, lambda: dict(self._task.details(split, outputs)))
        return {str(name): self._number(what, lambda value=value: value) for name, value in found.items()}  # type: ignore[misc]


def _fault(batch: Any) -> str | None:
    """What is wrong with a batch, if anything."""
    if not isinstance(batch, Batch):
        return f"it yields {type(batch).__name__}, not a Batch"
    if not isinstance(batch.size, int | np.integer) or batch.size < 1:
        return f"it yields a batch of size {batch.size!r}"
    if not isinstance(batch.inputs, Mapping) or not batch.inputs:
        return f"it yields a batch whose inputs are {type(batch.inputs).__name__}, not arrays by input name"
    arrays = {f"input {name!r}": array for name, array in batch.inputs.items()}
    if isinstance(batch.targets, Mapping):
        arrays |= {f"target {name!r}": target.values for name, target in batch.targets.items()}
    elif batch.targets is not None:
        arrays["targets"] = batch.targets
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            return f"{name} of a batch is {type(array).__name__}, not a numpy array"
        if array.dtype.hasobject:
            return f"{name} of a batch holds Python objects, not numbers"
        if array.ndim and len(array) != batch.size:
            return f"{name} of a batch of {batch.size} has shape {list(array.shape)}"
    return None
