"""Files that are there whole or not at all, also after a power loss."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

Buffer = bytes | memoryview
PARTIAL = ".partial-"
"""What the names of unfinished files and folders begin with."""


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


def sync_folder(folder: Path) -> None:
    """Make a rename durable; not every platform can open a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)
