"""A disk that is watched, fills up, fails, goes away, or on which the process dies, at the n-th change to it.

Installed in a process that is about to run evonnx: every call with which Python changes files below a folder
goes through here first.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = ("open", "write", "fsync", "mkdir", "rename")
"""What is counted."""
KINDS = ("watch", "kill before", "kill after", "full", "error", "lost")


class Disk:
    """Stands between the process and a folder.

    Args:
        folder: whatever lies elsewhere is left alone.
        kind: "watch" only writes down; "kill before" and "kill after" end the process around the n-th change
            (in the middle of it where it is a write); "full": from then on there is no space; "error": that
            change fails, the next ones do not; "lost": from then on nothing can be changed or read.
        at: number of the change, from 1.
        trace: file outside the folder that gets a line of JSON for every change: [what, path, other path].
    """

    def __init__(self, folder: str, kind: str = "watch", at: int = 0, trace: str | None = None) -> None:
        assert kind in KINDS
        self.folder, self.kind, self.at = os.path.realpath(folder), kind, at
        self.trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.count = 0
        self.real: dict[str, Callable[..., Any]] = {
            name: getattr(os, name)
            for name in ("open", "write", "ftruncate", "fsync", "mkdir", "rename", "replace", "sendfile")
        }
        self.real |= {name: getattr(os, name) for name in ("unlink", "rmdir", "stat", "scandir", "listdir")}

    def install(self) -> None:
        """From here on."""
        opened = io.open

        def open_file(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            if not self.holds(file):
                return opened(file, mode, *more, **named)
            if not set(mode) & set("wax+"):
                self.read(file)
                return opened(file, mode, *more, **named)
            if "r" in mode:  # to be flushed
                return opened(file, mode, *more, **named)
            return _File(self, self.change("open", lambda: opened(file, mode, *more, **named), file))

        builtins.open = io.open = open_file  # type: ignore[assignment]
        for name, what in (
            ("mkdir", "mkdir"), ("rename", "rename"), ("replace", "rename"), ("fsync", "fsync"),
            ("write", "write"), ("ftruncate", "write"), ("sendfile", "write"),
        ):  # fmt: skip
            setattr(os, name, self._changing(name, what))
        for name in ("unlink", "rmdir", "stat", "scandir", "listdir"):
            setattr(os, name, self._reading(name))
        os.open = self._os_open
        shutil._USE_CP_SENDFILE = False  # copies go through files that are watched

    def _changing(self, name: str, what: str) -> Callable[..., Any]:
        real = self.real[name]

        def changing(*given: Any, **named: Any) -> Any:
            if not self.holds(given[0]):
                return real(*given, **named)
            return self.change(what, lambda: real(*given, **named), *given[: 2 if what == "rename" else 1])

        return changing

    def _reading(self, name: str) -> Callable[..., Any]:
        real = self.real[name]

        def reading(*given: Any, **named: Any) -> Any:
            if given and self.holds(given[0]):
                self.read(given[0])
            return real(*given, **named)

        return reading

    def _os_open(self, path: Any, flags: int, *more: Any, **named: Any) -> Any:
        if not self.holds(path):
            return self.real["open"](path, flags, *more, **named)
        if flags & os.O_CREAT:
            return self.change("open", lambda: self.real["open"](path, flags, *more, **named), path)
        self.read(path)
        return self.real["open"](path, flags, *more, **named)

    def holds(self, place: Any) -> bool:
        """Whether a path or descriptor is below the folder, or is the folder."""
        found = self.path(place)
        return found == self.folder or found.startswith(self.folder + os.sep)

    def path(self, place: Any) -> str:
        """Where it is."""
        if isinstance(place, int):
            try:
                return os.readlink(f"/proc/self/fd/{place}")  # noqa: PTH115
            except OSError:
                return ""
        if not isinstance(place, str | os.PathLike):
            return ""
        return os.path.abspath(os.fspath(place))  # noqa: PTH100 (links in it are none of its business)

    def read(self, place: Any) -> None:
        """Fail where the disk is gone."""
        if self.kind == "lost" and self.count >= self.at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.path(place))

    def change(self, what: str, do: Callable[[], Any], *places: Any) -> Any:
        """Count a change, and do it or not."""
        self.count += 1
        where = self.path(places[0])
        if self.count == self.at and self.kind == "kill before":
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.kind in ("full", "lost") and self.count >= self.at) or (
            self.kind == "error" and self.count == self.at
        ):
            number = errno.ENOSPC if self.kind == "full" else errno.EIO
            raise OSError(number, os.strerror(number), where)
        result = do()
        if self.count == self.at and self.kind == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trace is not None:
            line = json.dumps([what, where, *map(self.path, places[1:])]) + "\n"
            self.real["write"](self.trace, line.encode())
        return result


class _File:
    """An open file whose writes are changes."""

    def __init__(self, disk: Disk, file: Any) -> None:
        self.disk, self.file = disk, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def write(self, data: Any) -> int:
        if self.disk.count + 1 == self.disk.at:  # half of it arrives before anything goes wrong
            half = len(data) // 2
            self.file.write(data[:half])
            self.file.flush()
            data = data[half:]
        written: int = self.disk.change("write", lambda: self.file.write(data), self.file.fileno())
        return written

    def writelines(self, chunks: Any) -> None:
        self.write(b"".join(chunks))  # as it arrives at the disk


def changes(trace: Path) -> list[tuple[str, ...]]:
    """What was written down: (what, path, other path of a rename)."""
    return [tuple(json.loads(line)) for line in trace.read_text().splitlines()]
