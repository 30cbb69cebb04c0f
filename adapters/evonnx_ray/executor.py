"""Calls as Ray tasks; their words come back through an actor."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evonnx.errors import ExecutorError
from evonnx.executors import Call, Done, Event, Failed, Lost, News, Shared, checked_workers, cores
from evonnx.executors.failures import Failure
from evonnx_ray.connecting import connect
from evonnx_ray.objects import Objects

_LOOK_EVERY = 0.2
"""Seconds: how late words may be."""
_LOOK_AT_NODES_EVERY = 5.0
_PATIENCE = 60.0
"""Seconds without a node that has room for a call."""
_LOST = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)


class Mailbox:
    """Words of all calls, until they are taken."""

    def __init__(self) -> None:
        self.words: list[tuple[int, Any]] = []

    def put(self, attempt: int, word: Any) -> None:
        """Add one."""
        self.words.append((attempt, word))

    def take(self) -> list[tuple[int, Any]]:
        """All that came since the last time."""
        taken, self.words = self.words, []
        return taken


def perform(call: Call, attempt: int, mailbox: Any) -> tuple[str, Any]:
    """In a worker: make a call."""
    last: list[Any] = []

    def tell(word: Any) -> None:
        last[:] = [mailbox.put.remote(attempt, word)]

    try:
        return "done", call.work(call.argument, tell)
    except Exception as error:
        return "failed", Failure.of(error)
    finally:
        with contextlib.suppress(RayError):
            ray.get(last)  # words come before the end


@dataclass(frozen=True)
class _Attempt:
    """A task that was handed to Ray."""

    number: int
    """Of the call."""
    attempt: int
    """Of no other task."""


class RayExecutor:
    """Runs calls on a Ray cluster: the one at an address, else one of this machine's cores that ends with the
    run.

    A call is given `threads` CPUs and, where the cluster has GPUs, its share of these. Ray repeats nothing by
    itself.
    """

    name = "ray"
    same_disk = False

    def __init__(self, workers: int | None = None, threads: int = 1, address: str | None = None) -> None:
        """See `Executor`.

        Raises:
            ExecutorError: the number of workers is out of range, there is no such cluster, or no node of it
                has that many CPUs.
        """
        checked_workers(workers)
        wanted = workers or max(1, cores() // threads)
        self._threads = threads
        self._connected = connect(address, wanted * threads)
        try:
            total = ray.cluster_resources()
            self.workers = workers or max(1, int(total.get("CPU", 0)) // threads)
            if not self._has_room():
                raise self._no_room()
            share = min(1.0, total.get("GPU", 0) / self.workers)
            self._task = ray.remote(perform).options(
                num_cpus=threads, num_gpus=int(share * 1e4) / 1e4, max_retries=0
            )
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        except BaseException:
            self._disconnect()
            raise
        self._count = itertools.count()
        self._flying: dict[Any, _Attempt] = {}
        self._waiting: deque[tuple[int, Call]] = deque()
        self._events: deque[Event] = deque()

    def share(self, folder: Path, names: Sequence[str]) -> Shared:
        """Files become objects of the store."""
        return Objects.put(folder, names)

    def submit(self, number: int, call: Call) -> None:
        """See `Executor`."""
        self._waiting.append((number, call))
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and len(self._flying) < self.workers:
            number, call = self._waiting.popleft()
            attempt = next(self._count)
            reference = self._task.remote(call, attempt, self._mailbox)
            self._flying[reference] = _Attempt(number, attempt)

    def wait(self) -> Event:
        """See `Executor`.

        Raises:
            ExecutorError: no call is under way, or for a minute no node has room for one.
        """
        looked = roomy = time.monotonic()
        while not self._events:
            if not self._flying:
                raise ExecutorError("The Ray executor was asked to wait for calls, and none is under way.")
            ended, _ = ray.wait(list(self._flying), num_returns=1, timeout=_LOOK_EVERY)
            by_attempt = {one.attempt: one.number for one in self._flying.values()}
            for attempt, word in ray.get(self._mailbox.take.remote()):
                if attempt in by_attempt:  # not of one that was lost
                    self._events.append(News(by_attempt[attempt], word))
            for reference in ended:
                self._events.append(_end(self._flying.pop(reference).number, reference))
            self._hand_out()
            now = time.monotonic()
            if not self._events and now - looked > _LOOK_AT_NODES_EVERY:
                looked = now
                if self._has_room():
                    roomy = now
                elif now - roomy > _PATIENCE:
                    raise self._no_room()
        return self._events.popleft()

    def _has_room(self) -> bool:
        """Whether there is a node that could have a call, if it had nothing else to do."""
        return any(node["Alive"] and node["Resources"].get("CPU", 0) >= self._threads for node in ray.nodes())

    def _no_room(self) -> ExecutorError:
        return ExecutorError(
            f"No node of the Ray cluster has {self._threads} CPUs, which each worker is to have. Use fewer "
            "--threads, or add nodes."
        )

    def close(self) -> None:
        """See `Executor`."""
        self._waiting.clear()
        self._events.clear()
        flying, self._flying = list(self._flying), {}
        if not ray.is_initialized():
            return
        with contextlib.suppress(RayError):
            for reference in flying:
                ray.cancel(reference, force=True)
            ray.kill(self._mailbox)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connected:
            self._connected = False
            ray.shutdown()


def _end(number: int, reference: Any) -> Event:
    """What a task that ended came to."""
    try:
        kind, value = ray.get(reference)
    except _LOST as error:
        return Lost(number, _clause(error))
    except RayTaskError as error:  # before or behind the call itself, such as code that a node does not have
        return Failed(number, ExecutorError(f"A worker of Ray could not do its work: {_clause(error.cause)}"))
    except RayError as error:
        return Failed(number, ExecutorError(f"Ray could not run the work: {_clause(error)}"))
    return Done(number, value) if kind == "done" else Failed(number, value.exception())


def _clause(error: BaseException) -> str:
    """Its first sentence; Ray explains at length."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words.split('. ')[0].rstrip('.')}"
