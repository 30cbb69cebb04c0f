"""Calls for the contract of executors: any worker that has evonnx can make them."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence

from evonnx.errors import AdapterMemoryError, RunError
from evonnx.executors import Shared, Tell


def echo(argument: object, tell: Tell) -> object:
    """What it was given."""
    return argument


def who(argument: object, tell: Tell) -> int:
    """The worker's process, after so many seconds."""
    if isinstance(argument, float):
        time.sleep(argument)
    return os.getpid()


def speak(words: Sequence[object], tell: Tell) -> int:
    """Tell words, one after another; how many there were."""
    for word in words:
        tell(word)
    return len(words)


def fail(reason: str, tell: Tell) -> None:
    """Raise an error of evonnx's own, one with a full disk as its cause, or one that pickle cannot take."""
    if reason == "disk":
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RunError("Cannot write it.") from error
    if reason == "unpicklable":
        raise Awkward(1, 2)
    raise AdapterMemoryError(reason)


class Awkward(Exception):
    """Pickle gives its constructor one argument."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def unpicklable(argument: object, tell: Tell) -> object:
    """A result that cannot be sent."""
    return threading.Lock()


def die(code: int, tell: Tell) -> None:
    """End the process, as somebody else might."""
    os._exit(code)


def read(files: tuple[Shared, Sequence[str]], tell: Tell) -> list[bytes]:
    """What shared files hold."""
    shared, names = files
    return [(shared.folder() / name).read_bytes() for name in names]
