"""A process in which everything is imported: it forks a run of the command line for each line of JSON that it
reads, kills it when told to, and answers how it ended. Starting Python anew would take most of the time.

    {"words": [...], "folder": "where", "log": "file", "kill_after": 0.5, "signal": 9, "disk": {...}}
    -> {"code": 0, "seconds": 1.5}
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import time
from typing import Any

POLL_SECONDS = 0.001
MODULES = ("evonnx.cli", "evonnx.cli._live", "evonnx.report", "evonnx.testing", "evonnx.tasks.classification")


def preload(more: list[str]) -> None:
    for name in (*MODULES, *more):
        importlib.import_module(name)
    loop = importlib.import_module("evonnx.evolution.loop")
    # What the clock says of a finished run is not compared; a tenth of the rounds is enough.
    loop.bench = functools.partial(loop.bench, rounds=10)  # type: ignore[attr-defined]


def child(order: dict[str, Any]) -> None:
    """Be the command line."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir(order["folder"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever pytest was started with
        signal.signal(number, signal.SIG_DFL)
    sys.argv = ["evonnx", *order["words"]]
    if order.get("disk"):
        from disk import Disk

        Disk(**order["disk"]).install()
    code: Any = 0
    try:
        importlib.import_module("evonnx.cli").main()
    except SystemExit as left:
        code = left.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


def watch(pid: int, kill_after: float | None, number: int) -> dict[str, Any]:
    """How it ends."""
    begun = time.monotonic()
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begun}
        if kill_after is not None and time.monotonic() - begun >= kill_after:
            os.kill(pid, number)
            kill_after = None
        time.sleep(POLL_SECONDS)


def main() -> None:
    preload(sys.argv[1:])
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                child(order)
            finally:
                os._exit(99)
        print(
            json.dumps(watch(pid, order.get("kill_after"), order.get("signal", signal.SIGKILL))), flush=True
        )


if __name__ == "__main__":
    main()
