"""A run of a session: outputs by name, and an end to what takes too long."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evonnx.errors import ModelError, ModelMemoryError
from evonnx.network import Array
from evonnx.sessions.log import clean_message

_NO_MEMORY = re.compile(r"bad.alloc|allocate memory|out of memory", re.IGNORECASE)
"""As onnxruntime's arena, C++'s allocator and CUDA say it."""

LOOP_SECONDS = 20.0
"""What one example may take of a model that loops."""


class EndlessError(ModelError):
    """A run did not end in the time that it was given."""


def run_session(
    session: Any,
    feeds: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
    seconds: float | None = None,
) -> dict[str, Array]:
    """Run once; outputs by name.

    Args:
        session: to run.
        feeds: inputs by name.
        outputs: names; None: all.
        seconds: after which the run is ended, once the node that is running has; None: whenever it is done.

    Raises:
        EndlessError: it took too long.
        ModelMemoryError: there is not enough memory.
        ModelError: onnxruntime fails otherwise, with its own words.
    """
    names = list(outputs) if outputs is not None else [output.name for output in session.get_outputs()]
    ended = threading.Event()
    try:
        with _ended_after(seconds, ended) as options:
            values = session.run(names, dict(feeds), *options)
    except Exception as error:  # onnxruntime's classes share no base but Exception
        if ended.is_set():
            raise EndlessError(
                f"The model does not end within {seconds:.0f} s. Look for a Loop that "
                "runs very often, or give smaller inputs with --input-shape."
            ) from error
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            raise ModelMemoryError(
                f"There is not enough memory to run the model on {shapes}. Run less at a time, or close what "
                "else takes memory."
            ) from error
        raise ModelError(
            f"onnxruntime cannot run the model on {shapes}: {clean_message(error)}. Where these sizes were "
            "assumed for open dimensions, give ones the model accepts with --input-shape NAME=1,3,224,224."
        ) from error
    return dict(zip(names, values, strict=True))


@contextlib.contextmanager
def _ended_after(seconds: float | None, ended: threading.Event) -> Iterator[tuple[Any, ...]]:
    """onnxruntime's options, if any, for a run ended from outside; `ended` is set when that was done."""
    if seconds is None:
        yield ()
        return
    import onnxruntime as ort

    options = ort.RunOptions()

    def end() -> None:
        ended.set()
        options.terminate = True

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield (options,)
    finally:
        timer.cancel()
