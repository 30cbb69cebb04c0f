"""Calls into a tracker, from a thread of its own: slow or broken, it costs a note and never the run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

MOST_WAITING = 1000
"""Calls; a tracker that is further behind is given up on."""
Call = Callable[[], None]


class Worker:
    """A tracker's thread, which makes its calls in order until one fails.

    Args:
        name: of the tracker, for notes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._calls: queue.Queue[Call | None] = queue.Queue(MOST_WAITING)
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._gone = threading.Event()
        # A daemon: a server that never answers must not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"evonnx-track-{name}", daemon=True)
        self._thread.start()

    def ask(self, call: Call | None) -> None:
        """Make a call when those before it are made; None: the last one was made."""
        if self._gone.is_set():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._give_up(f"it is {MOST_WAITING} calls behind")

    def finish(self, seconds: float) -> None:
        """Wait for what is still to be told, for so long at most."""
        self.ask(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._give_up(f"it did not answer for {seconds:g} s")

    def notes(self) -> list[str]:
        """What there is to say since the last time."""
        found = []
        while not self._notes.empty():
            found.append(self._notes.get())
        return found

    def say(self, note: str) -> None:
        """Leave a note for the user."""
        self._notes.put(note)

    def _give_up(self, reason: str) -> None:
        if not self._gone.is_set():
            self._gone.set()
            self.say(f"The run is no longer tracked by {self.name}: {reason}. The run itself goes on.")

    def _work(self) -> None:
        while not self._gone.is_set():
            call = self._calls.get()
            if call is None:
                return
            try:
                call()
            except BaseException as error:
                # Whatever it is, it is the tracker's: also SystemExit and what libraries derive from it.
                reason = " ".join(str(error).split())[:300]
                self._give_up(f"{type(error).__name__}: {reason}" if reason else type(error).__name__)
