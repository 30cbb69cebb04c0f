"""Files that are there whole or not at all, also after a power loss."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path

Buffer = bytes | memoryview
PARTIAL = ".partial-"
"""What the names of unfinished files and folders begin with."""
_STORAGE = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "ENXIO", "ENODEV"),
        *("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}
"""What a full or failing disk and a lost network drive answer."""
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems answer that cannot flush a folder."""


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_storage_failure(error: BaseException | None) -> bool:
    """Whether an error comes, directly or through its causes, from a disk that is full, fails or went away:
    one that the same command does not meet again once the disk is well."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _STORAGE:
            return True
        error = error.__cause__
    return False


def write_whole(path: Path, *data: Buffer) -> None:
    """Write beside, flush to disk, rename: readers see the old file or the new one, never a part.

    Args:
        path: where.
        data: chunks of the content, in order.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    if path.is_dir():  # "." has no name to write beside
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        with partial.open("wb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def copy_whole(source: Path, path: Path) -> None:
    """Put a copy of a file in place, as `write_whole` does.

    Raises:
        OSError: it cannot be read or written; what was there before is untouched.
    """
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        shutil.copyfile(source, partial)
        sync_file(partial)
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file that somebody else wrote to disk.

    Raises:
        OSError: the disk is full or fails.
    """
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make what was renamed or made in a folder durable, where the platform can do that.

    Raises:
        OSError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders; elsewhere one that may not be listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def clear_partials(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder.

    Raises:
        OSError: something cannot be removed.
    """
    for partial in folder.glob(f"{PARTIAL}*"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
