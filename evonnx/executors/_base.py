"""The contract of an executor: calls go out, events come back.

An executor decides where a call runs. What is called, and what happens when a worker dies, is decided by
whoever submits it (`gathering`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from evonnx.errors import ExecutorError

MOST_WORKERS = 1024

Tell = Callable[[Any], None]
"""Sends a word from a running call to whoever submitted it; the word can be pickled."""


@dataclass(frozen=True)
class Call:
    """A call that any process can make."""

    work: Callable[[Any, Tell], Any]
    """A function at the top of a module that workers can import. Its result can be pickled."""
    argument: Any
    """Can be pickled; may hold `Shared` files."""


@dataclass(frozen=True)
class News:
    """A word from a call that goes on."""

    number: int
    word: Any


@dataclass(frozen=True)
class Done:
    """A call's result."""

    number: int
    value: Any


@dataclass(frozen=True)
class Failed:
    """A call raised; it would raise again."""

    number: int
    error: Exception


@dataclass(frozen=True)
class Lost:
    """Whoever made the call is gone, and nothing of it is left; it may be submitted again."""

    number: int
    reason: str
    """A clause: "its process was ended by signal 9"."""


Event = News | Done | Failed | Lost


@runtime_checkable
class Shared(Protocol):
    """Files for calls, handed to workers once and not with every call. Can be pickled."""

    def folder(self) -> Path:
        """Called in a worker: a folder with the files, under their names. They must only be read.

        Raises:
            ExecutorError: they are not to be had any more.
        """
        ...


@runtime_checkable
class Executor(Protocol):
    """The plugin that runs calls in other processes. Constructed as `Class(workers, threads, address)`:

    workers: calls at a time; None: as many as there are cores for. threads: that each call will use, at least
    1. address: of what it is to connect to, or None. The constructor raises `ExecutorError` where any of
    these is out of range or nothing can be reached; no more than one thread calls the methods.
    """

    name: str
    workers: int
    """Calls at a time."""
    same_disk: bool
    """Whether workers read and write this machine's files under the same paths."""

    def share(self, folder: Path, names: Sequence[str]) -> Shared:
        """Make files of a folder available to calls that are submitted later.

        Args:
            folder: where they are; they do not change while calls use them.
            names: of the files, relative to it.
        """
        ...

    def submit(self, number: int, call: Call) -> None:
        """Have a call made as soon as a worker is free, in the order of submission.

        Args:
            number: by which events name it; of no other call that has not ended.
            call: what to do.
        """
        ...

    def wait(self) -> Event:
        """The next event of the calls that have not ended; blocks until there is one.

        A call's news come in order, and none after its end.
        """
        ...

    def close(self) -> None:
        """End every worker, whatever it is doing. May be called again."""
        ...


def checked_workers(workers: int | None) -> int | None:
    """A number of workers, as it was asked for.

    Raises:
        ExecutorError: it is out of range.
    """
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise ExecutorError(
            f"{workers} workers were asked for; the number of workers lies between 1 and {MOST_WORKERS}."
        )
    return workers


def cores() -> int:
    """That this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def threads_of(workers: int | None) -> int:
    """Threads of each worker where nobody said how many: this machine's cores shared out among the workers;
    one where their number is left open too."""
    return max(1, cores() // workers) if workers else 1
