"""One command on one hostile input, in a forked child with limits; what became of it is a verdict.

The parent has imported everything and made no session, so a child starts in milliseconds. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What one command may take."""

    seconds: float = 30.0
    address_bytes: int = 8 * GIB
    """Address space beside what the parent has."""
    resident_bytes: int = 2 * GIB
    """More than this is a finding, though nothing stops it."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    verdict: str
    """"done", "refused", or a finding: "crash", "hang", "traceback", "bug", "memory", "escape" or
    "leftover"; "long" is a run that was stopped because the model takes that long."""
    detail: str
    seconds: float
    resident_bytes: int

    @property
    def is_finding(self) -> bool:
        """Whether it must not happen."""
        return self.verdict not in ("done", "refused", "long")

    @property
    def signature(self) -> str:
        """Findings with equal signatures are one."""
        return re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "#", f"{self.verdict}: {self.detail}")[:160]


def run(folder: Path, words: Sequence[str], writes: Sequence[str], limits: Limits) -> Outcome:
    """Run `evonnx WORDS...` in a folder.

    Args:
        folder: holds the input; the command's working directory.
        words: arguments.
        writes: names below `folder` that the command may write to when it succeeds.
        limits: of the child.
    """
    before = _listing(folder)
    with _beside(folder) as (scratch, out, err):
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(folder, words, scratch, out, err, limits)
        code, usage = _wait(pid, limits.seconds)
        seconds = time.monotonic() - started
        text = err.read_text(errors="replace")
        escaped = [line for line in text.splitlines() if line.startswith("ESCAPE ")]
        left = sorted(path.name for path in scratch.iterdir())
        verdict, detail = _verdict(code, text, before, _listing(folder), writes)
    if escaped:
        verdict, detail = "escape", escaped[0]
    elif left and verdict in ("done", "refused"):
        verdict, detail = "leftover", f"temporary files stay: {left[0]}"
    elif usage > limits.resident_bytes and verdict in ("done", "refused"):
        verdict, detail = "memory", f"{usage >> 20} MiB resident"
    return Outcome(verdict, detail, seconds, usage)


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[tuple[Path, Path, Path]]:
    scratch = folder.with_name(f"{folder.name}-scratch")
    out, err = folder.with_name(f"{folder.name}-out"), folder.with_name(f"{folder.name}-err")
    scratch.mkdir()
    try:
        yield scratch, out, err
    finally:
        shutil.rmtree(scratch)
        out.unlink(missing_ok=True)
        err.unlink(missing_ok=True)


def _child(folder: Path, words: Sequence[str], scratch: Path, out: Path, err: Path, limits: Limits) -> None:
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        for number, path in ((1, out), (2, err)):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, number)
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
        _watch_writes((str(folder), str(scratch), os.devnull))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        total = pages * resource.getpagesize() + limits.address_bytes
        resource.setrlimit(resource.RLIMIT_AS, (total, total))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * GIB, 4 * GIB))

        from evonnx.cli import app

        try:
            app(list(words), prog_name="evonnx")
            code = 0
        except SystemExit as left:
            code = int(left.code or 0) if not isinstance(left.code, str) else 1
    except BaseException:
        import traceback

        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _watch_writes(allowed: Sequence[str]) -> None:
    """Say on standard error when anything is to be written, renamed or removed elsewhere."""
    changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    events = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1, "os.symlink": 2}

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            flags = args[2] if len(args) > 2 else 0
            paths = [args[0]] if isinstance(flags, int) and flags & changing else []
        elif event in events:
            paths = list(args[: events[event]])
        elif event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "pickle.find_class"):
            if args[0] != "uname":  # `platform.platform()` asks it for the processor
                os.write(2, f"ESCAPE {event} {str(args)[:200]}\n".encode(errors="replace"))
            return
        else:
            return
        for path in paths:
            if isinstance(path, str | bytes):
                real = os.path.realpath(os.fsdecode(path))
                if not any(real == one or real.startswith(one + "/") for one in allowed):
                    os.write(2, f"ESCAPE {event} {real}\n".encode(errors="replace"))

    sys.addaudithook(hook)


def _wait(pid: int, seconds: float) -> tuple[int, int]:
    """(exit code, or minus the signal, or -1000 where it was stopped for taking too long; peak memory)."""
    descriptor = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            os.killpg(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    finally:
        os.close(descriptor)
    return (os.waitstatus_to_exitcode(status) if ready else -1000), usage.ru_maxrss * 1024


def _verdict(
    code: int, text: str, before: dict[str, str], after: dict[str, str], writes: Sequence[str]
) -> tuple[str, str]:
    lines = [line for line in text.splitlines() if line.strip()]
    last = lines[-1][:500] if lines else ""
    if code == -1000:
        return "hang", last
    if code < 0:
        return "crash", f"signal {-code}"
    if "Traceback (most recent call last)" in text:
        return "traceback", last
    said = next((line for line in lines if line.startswith("evonnx: ")), "")
    if "bug in evonnx" in said:
        return "bug", said[:400]
    if "not enough memory" in said:
        return "memory", said
    if code not in (0, 1):
        return "bug", f"exit code {code}: {last}"
    if code == 1 and not said:
        return "bug", f"no message: {last}"
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    allowed = tuple(writes) if code == 0 else tuple(name for name in writes if name.endswith("/"))
    strange = sorted(name for name in changed if not _is_among(name, allowed))
    if strange:
        return "leftover", f"{'done' if code == 0 else 'refused'}, and {strange[0]} was changed"
    return ("refused", said[:300]) if code else ("done", "")


def _is_among(name: str, allowed: Sequence[str]) -> bool:
    return any(name == one or (one.endswith("/") and name.startswith(one)) for one in allowed)


def _listing(folder: Path) -> dict[str, str]:
    """Every path below a folder, with what tells whether it was changed; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else f"{stat.st_size}"
        found[str(path.relative_to(folder))] = kind if kind == "folder" else f"{kind} {stat.st_mtime_ns}"
    return found
