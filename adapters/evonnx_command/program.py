"""Run a program, pass its words on, read its progress, and end it when its time is up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable

from evonnx.adapter import EpochRecord, Progress
from evonnx.errors import AdapterError

TAIL_LINES = 20
"""Last lines of the program's output that an error shows."""

_PROGRESS = re.compile(
    r"epoch\s+(?P<epoch>\d+)\s*/\s*(?P<epochs>\d+)"
    r"(?:.*?step\s+(?P<step>\d+)\s*/\s*(?P<steps>\d+))?"
    r".*?loss\s*[:=]?\s*(?P<loss>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf)",
    re.IGNORECASE,
)
_RATE = re.compile(r"(?:\blr|learning[ _]rate)\s*[:=]?\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)", re.IGNORECASE)


def parse_progress(line: str) -> Progress | None:
    """News from a line such as `epoch 2/5 step 10/40 loss 0.31 lr 0.01`, else None. Step and lr may be
    missing."""
    found = _PROGRESS.search(line)
    if found is None:
        return None
    return Progress(
        epoch=int(found["epoch"]),
        epochs=int(found["epochs"]),
        step=int(found["step"] or 1),
        steps=int(found["steps"] or 1),
        loss=float(found["loss"]),
    )


def run_program(
    words: list[str], progress: Callable[[Progress], None], time_limit: float | None
) -> tuple[EpochRecord, ...]:
    """Run a program in the current folder until it ends well.

    Its output goes to stderr, except lines that tell progress, which go to `progress`.

    Args:
        words: the command line.
        progress: told of every line that tells progress.
        time_limit: seconds; None: none. The program and what it started are then killed.

    Returns:
        The last loss and learning rate (0 if never told) of every epoch that the program told of, in order.

    Raises:
        AdapterError: it cannot be started, takes too long, or ends with another code than 0; with its last
            words.
    """
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise AdapterError(
            f"The command's program {words[0]!r} cannot be started: {error.strerror or error}. "
            "Give its full path, or put it on PATH; shell syntax is not understood."
        ) from error
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    records: dict[int, EpochRecord] = {}
    late = threading.Event()

    def expire() -> None:
        late.set()
        _kill(process)

    clock = threading.Timer(time_limit, expire) if time_limit is not None else None
    if clock is not None:
        clock.start()
    try:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            tail.append(line)
            news = parse_progress(line)
            if news is None:
                print(line, file=sys.stderr, flush=True)
            else:
                rate = _RATE.search(line)
                records[news.epoch] = EpochRecord(news.epoch, news.loss, float(rate[1]) if rate else 0.0)
                progress(news)
        code = process.wait()
    except BaseException:
        _kill(process)
        process.wait()
        raise
    finally:
        if clock is not None:
            clock.cancel()
        if process.stdout is not None:
            process.stdout.close()
    if late.is_set():
        raise AdapterError(
            f"The program {words[0]!r} was ended after its time limit of {time_limit:g} s.{_quote(tail)}"
        )
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise AdapterError(f"The program {words[0]!r} {how}.{_quote(tail)}")
    return tuple(records[epoch] for epoch in sorted(records))


def _quote(tail: deque[str]) -> str:
    said = " | ".join(line for line in tail if line.strip())
    return f" Its last words: {said[-2000:]}" if said else " It said nothing."


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the program and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
