"""The executor `local`: processes of this machine, each with a pipe of its own.

One process's death then breaks no other's work. Processes are spawned, not forked: frameworks have threads,
which do not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from evonnx.errors import ExecutorError
from evonnx.executors._base import (
    Call,
    Done,
    Event,
    Failed,
    Lost,
    News,
    Shared,
    Tell,
    checked_workers,
    cores,
)
from evonnx.executors.failures import Failure

_GRACE_SECONDS = 3.0
"""For a worker to end by itself when it is told to."""


@dataclass(frozen=True)
class Place:
    """Files where they are."""

    path: str

    def folder(self) -> Path:
        """The same folder."""
        return Path(self.path)


class _Worker:
    """A process and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far,), name="evonnx-worker")
        with _without_interrupts():  # Ctrl-C reaches all processes of a terminal, also one that just begins
            self.process.start()
        far.close()  # so that the pipe ends with the process
        self.number: int | None = None
        """Of the call that it makes."""

    def end(self) -> None:
        self.process.join(_GRACE_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.pipe.close()
        self.process.close()


class LocalExecutor:
    """Runs calls in a pool of processes, started when there is work for them."""

    name = "local"
    same_disk = True

    def __init__(self, workers: int | None = None, threads: int = 1, address: str | None = None) -> None:
        """See `Executor`.

        Raises:
            ExecutorError: the number of workers is out of range, or there is an address.
        """
        if address is not None:
            raise ExecutorError(
                f"The local executor runs on this machine and takes no address ({address!r}); leave "
                "--address out, or choose another executor, such as ray."
            )
        self.workers = checked_workers(workers) or max(1, cores() // threads)
        self._pool: list[_Worker] = []
        self._waiting: deque[tuple[int, Call]] = deque()

    def share(self, folder: Path, names: Sequence[str]) -> Shared:
        """Files stay where they are."""
        return Place(str(folder.absolute()))

    def submit(self, number: int, call: Call) -> None:
        """See `Executor`."""
        self._waiting.append((number, call))
        self._hand_out()

    def wait(self) -> Event:
        """See `Executor`.

        Raises:
            ExecutorError: no call is under way.
        """
        busy = [one for one in self._pool if one.number is not None]
        if not busy:
            raise ExecutorError("The local executor was asked to wait for calls, and none is under way.")
        # A dead worker's own children may hold its pipe open.
        ready = set(wait([one.pipe for one in busy] + [one.process.sentinel for one in busy]))
        worker = next(one for one in busy if {one.pipe, one.process.sentinel} & ready)
        assert worker.number is not None
        number = worker.number
        try:
            if not worker.pipe.poll():
                return self._lost(worker, number)
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            return self._lost(worker, number)
        if kind == "news":
            return News(number, value)
        worker.number = None
        self._hand_out()
        if kind == "done":
            return Done(number, value)
        return Failed(number, value.exception())

    def _lost(self, worker: _Worker, number: int) -> Lost:
        process = worker.process
        process.join(_GRACE_SECONDS)
        pid, code = process.pid, process.exitcode
        self._pool.remove(worker)
        worker.end()
        self._hand_out()
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return Lost(number, f"process {pid} {how}")

    def _hand_out(self) -> None:
        while self._waiting:
            free = next((one for one in self._pool if one.number is None), None)
            if free is None and len(self._pool) < self.workers:
                free = _Worker()
                self._pool.append(free)
            if free is None:
                return
            free.number, call = self._waiting.popleft()
            with contextlib.suppress(OSError):  # it is gone; `wait` sees that
                free.pipe.send(call)

    def close(self) -> None:
        """See `Executor`."""
        pool, self._pool = self._pool, []
        self._waiting.clear()
        for one in pool:
            with contextlib.suppress(OSError, ValueError):
                one.process.terminate()
        for one in pool:
            one.end()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Inside, SIGINT waits; what is started keeps it so."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(pipe: Connection) -> None:
    """Be a worker: make one call after another until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process tells the others
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_follow, name="evonnx-follow", daemon=True).start()
    # Standard output may be one JSON document of the first process's.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        os.dup2(2, 1)

    def tell(word: Any) -> None:
        pipe.send(("news", word))

    with contextlib.suppress(EOFError, BrokenPipeError):  # the first process is gone
        while True:
            outcome = _outcome(pipe.recv(), tell)
            try:
                pipe.send(outcome)
            except (AttributeError, TypeError, pickle.PicklingError) as error:
                pipe.send(("failed", Failure.of(error)))


def _follow() -> None:
    """Whoever is left alone ends, also in the middle of a call."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _outcome(call: Call, tell: Tell) -> tuple[str, Any]:
    try:
        return "done", call.work(call.argument, tell)
    except Exception as error:
        return "failed", Failure.of(error)
