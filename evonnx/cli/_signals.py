"""Being told to stop: Ctrl-C, SIGTERM and a terminal that goes away end a command in the same orderly way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_UNCLAIMED = (signal.SIG_DFL, signal.default_int_handler)
"""Handlers that nobody chose: a signal that the caller ignores (nohup) stays ignored."""


class Stopped(KeyboardInterrupt):
    """A signal said that the process is to end."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


@dataclass
class Heard:
    """What came in."""

    stop: Stopped | None = None
    """Raised wherever the process was; libraries turn it into errors of their own now and then."""


@contextlib.contextmanager
def stoppable() -> Iterator[Heard]:
    """Inside, a signal to end raises `Stopped`; a second one ends the process at once."""
    heard = Heard()
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        heard.stop = Stopped(number)
        raise heard.stop

    if threading.current_thread() is threading.main_thread():
        before = {one: signal.getsignal(one) for one in _SIGNALS if signal.getsignal(one) in _UNCLAIMED}
        for one in before:
            signal.signal(one, stop)
    try:
        yield heard
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def what_happened(stop: KeyboardInterrupt) -> tuple[str, int]:
    """(a sentence, the exit code that shells expect)."""
    number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
    words = "Interrupted." if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}."
    return words, 128 + number
