"""An exception on its way from one process to another."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass

from evonnx.durable import is_storage_failure
from evonnx.errors import ExecutorError


class WorkerTraceback(Exception):
    """Where a worker was, as text: the cause of what it raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class Failure:
    """What a call raised, such that it can be raised again elsewhere."""

    error: Exception
    """Without causes, which pickle leaves behind."""
    trace: str
    disk: tuple[int, str] | None = None
    """Number and words of the operating system, where it comes from a disk."""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """For an exception that was caught."""
        trace = "".join(traceback.format_exception(error))
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        disk = None
        if is_storage_failure(error) and cause is not None and cause.errno is not None:
            disk = (cause.errno, cause.strerror or "")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # such as one whose constructor wants more than it keeps
            error = ExecutorError(f"A worker failed with {type(error).__name__}: {error}")
        return cls(error, trace, disk)

    def exception(self) -> Exception:
        """To be raised; its cause tells where the worker was, or which disk failed."""
        self.error.__cause__ = OSError(*self.disk) if self.disk else WorkerTraceback(self.trace)
        return self.error
