"""Calls into code of others: their exceptions are told as theirs, and silence counts as hanging."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from evonnx.errors import AdapterError, AdapterHungError, AdapterMemoryError, EvonnxError

Result = TypeVar("Result")
_LOOK_EVERY = 0.05
"""Seconds."""


def owned(call: Callable[[], Result], adapter: str, doing: str) -> Result:
    """Call an adapter; whatever it raises is an `AdapterError`.

    Args:
        call: into the adapter.
        adapter: its name.
        doing: such as "retraining compact.onnx".

    Raises:
        EvonnxError: as the adapter raised it.
        AdapterMemoryError: there was not enough memory.
        AdapterError: anything else that it raised.
    """
    try:
        return call()
    except EvonnxError:
        raise
    except MemoryError as error:
        raise AdapterMemoryError(f"Adapter {adapter!r} ran out of memory while {doing}.") from error
    except Exception as error:
        raise AdapterError(
            f"Adapter {adapter!r} failed while {doing}: {type(error).__name__}: {error}. This is a fault of "
            "the adapter; --debug shows where."
        ) from error


class Watch:
    """Limits the time that a call may be silent.

    Args:
        limit: seconds; None: any time.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit, self._heard = limit, 0.0

    def heard(self) -> None:
        """The call lives."""
        self._heard = time.monotonic()

    def over(self, call: Callable[[], Result], adapter: str, doing: str) -> Result:
        """Call, in a thread of its own if there is a limit: nothing else can leave a call that hangs.

        The thread of a call that was given up on stays, and ends with the process.

        Raises:
            AdapterHungError: it was silent for too long.
        """
        if self._limit is None:
            return call()
        results: list[Result] = []
        errors: list[BaseException] = []
        done = threading.Event()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                results.append(context.run(call))
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        self.heard()
        threading.Thread(target=work, name=f"evonnx-{adapter}", daemon=True).start()
        while not done.wait(_LOOK_EVERY):
            if time.monotonic() - self._heard > self._limit:
                raise AdapterHungError(
                    f"Adapter {adapter!r} gave no sign of progress for {self._limit:g} s while {doing}, and "
                    "was given up on. Give it more with --retrain-timeout, or look at what it waits for."
                )
        if errors:
            raise errors[0]
        return results[0]
