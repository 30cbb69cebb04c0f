"""Arrays that are kept in a temporary file instead of memory, and mapped from there.

Copies of a large model, each with weights of its own, do not fit into memory side by side. In a file they
take room on disk, and memory only while somebody looks at them (see `mapping.forget_pages`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_GROWTH = 4
"""How many times its model's weights a spool has room for: int8 that becomes float32 needs the most."""
_ROOM = 1 << 20
"""Bytes for the gaps between a few small arrays."""


class Spool:
    """A file of arrays by name. It goes when the spool does; arrays that came from it stay valid."""

    def __init__(self, folder: Path, size: int) -> None:
        """
        Args:
            folder: where the file is made.
            size: bytes of the model's weights. More room than that is reserved, but none of it taken.

        Raises:
            OSError: there can't be a file.
        """
        self._folder, self._size = folder, size
        handle, name = tempfile.mkstemp(prefix=".evonnx-", suffix=".weights", dir=folder)
        self.path = Path(name)
        self._file = os.fdopen(handle, "r+b")
        self._gone = weakref.finalize(self, _remove, self.path, self._file)
        self._file.truncate(_GROWTH * size + _ROOM)
        self._mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def another(self) -> Spool:
        """An empty one in the same folder, for as much."""
        return Spool(self._folder, self._size)

    def put(self, name: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Keep an array; what was here under its name is no longer to be used.

        Returns:
            The same values, mapped and read-only; the array itself where the spool is full.

        Raises:
            OSError: the disk is full.
        """
        offset, length = self._places.get(name, (self._end, 0))
        if not array.nbytes:
            return array
        if length != array.nbytes:
            offset = self._end + -self._end % mmap.PAGESIZE
            if offset + array.nbytes > len(self._mapping):
                self._places.pop(name, None)
                return array
            self._end = offset + array.nbytes
        self._file.seek(offset)
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._file.flush()
        self._places[name] = (offset, array.nbytes)
        kept = np.frombuffer(self._mapping, array.dtype, array.size, offset)
        return kept.reshape(array.shape)

    def place(self, name: str) -> tuple[int, int] | None:
        """Where in the file an array begins, and how many bytes it has; None if it is not there."""
        return self._places.get(name)


def _remove(path: Path, file: BinaryIO) -> None:
    file.close()
    with contextlib.suppress(OSError):  # Windows keeps a file while it is mapped
        path.unlink()
