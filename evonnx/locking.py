"""One writer per folder: a lock of the operating system's, which dies with its process, in a file that names
its owner.

filelock, the usual library, empties the file whenever somebody tries to lock it, and with it the owner's
name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from evonnx.errors import RunError

LOCK_FILE = ".lock"
"""Holds "<process id> <host>" while somebody writes in the folder."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems answer that have no locks."""

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool | None:
        """Whether it is ours now; None: there are no locks here."""
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind the name, which others are to read
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool | None:
        """Whether it is ours now; None: there are no locks here."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
        return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder for the time of the block.

    Where the file system has no locks (some network drives), the name in the file has to do: an owner on this
    machine that is gone is passed over, one on another machine is believed.

    Args:
        folder: exists.

    Raises:
        RunError: another process has it, and the message names that process and its machine; or the lock
            cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        descriptor = _acquire(path)
    except OSError as error:
        raise RunError(
            f"Cannot write {path}, which keeps other processes away: {error.strerror or error}. Check the "
            "folder and the free space."
        ) from error
    try:
        yield
    finally:
        _release(path, descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            free = _try_lock(descriptor)
            if free is not True:
                _refuse_if_owned(path, descriptor, certain=free is False)
            if _is_still(path, descriptor):
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                return descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file was not removed by its owner between being opened and locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _refuse_if_owned(path: Path, descriptor: int, certain: bool) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    owner = os.read(descriptor, 300).decode(errors="replace").split()
    if not certain and not _may_live(owner):
        return
    who = f"process {owner[0]} on {owner[1]}" if len(owner) == 2 else "another process"
    advice = "Wait until it ends, or end it."
    if not certain:
        advice = f"This file system has no locks: if you know that it has ended, remove {path}."
    raise RunError(
        f"{path.parent} is being written by {who}, and two processes cannot write one run. {advice}"
    )


def _may_live(owner: list[str]) -> bool:
    """Whether a process that left its id and host may still be there."""
    if len(owner) != 2 or not owner[0].isdecimal():
        return False
    if owner[1] != socket.gethostname():
        return True
    try:
        os.kill(int(owner[0]), 0)  # asks only; Windows, where it would do more, has locks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _release(path: Path, descriptor: int) -> None:
    # Removed while it is held, where that is possible, so that nobody can have locked it in between.
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        os.close(descriptor)
