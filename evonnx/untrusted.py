"""Places that strangers filled: files that never end, and links that lead out of a folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def fault_of_file(path: Path, largest: int) -> str | None:
    """Why a file that is there should not be read: "is no regular file", "holds ... bytes, ..."; else None.

    Args:
        path: links to files are followed; what is missing or a folder is the reader's to refuse.
        largest: in bytes.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None if stat.S_ISDIR(found.st_mode) else "is no regular file (a device, a pipe or a socket)"
    return f"holds {found.st_size:,} bytes, more than {largest:,}" if found.st_size > largest else None


def find_link(folder: Path) -> Path | None:
    """The first symbolic link below a folder, by name; the folder itself may be one. None: there is none."""
    for place, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            if (path := Path(place) / name).is_symlink():
                return path
        folders.sort()
    return None
