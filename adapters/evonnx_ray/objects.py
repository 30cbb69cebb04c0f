"""Files that travel through Ray's object store: put there once, written once by each worker."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from evonnx.errors import ExecutorError

_KEPT = 4
"""Folders that a worker keeps: ancestor, parent, a masked offspring, and one to spare."""


class _Shelf:
    """A worker's own folders, the ones used last; gone with the process if that ends well."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="evonnx-worker-"))
        self.folders: OrderedDict[str, Path] = OrderedDict()
        weakref.finalize(self, shutil.rmtree, self.home, ignore_errors=True)

    def folder(self, key: str, files: Mapping[str, Any]) -> Path:
        """The folder of that key, written if it is not there."""
        if key not in self.folders:
            folder = self.home / key
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    file.write(memoryview(ray.get(content)))
            self.folders[key] = folder
        self.folders.move_to_end(key)
        while len(self.folders) > _KEPT:
            shutil.rmtree(self.folders.popitem(last=False)[1], ignore_errors=True)
        return self.folders[key]


_shelves: list[_Shelf] = []
"""One, in a worker that was given files."""


@dataclass(frozen=True)
class Objects:
    """Files as objects of the store, which live as long as somebody has this."""

    key: str
    files: Mapping[str, Any]
    """By name: a reference to the bytes."""

    @classmethod
    def put(cls, folder: Path, names: Sequence[str]) -> Objects:
        """Copy files into the store.

        Raises:
            ExecutorError: the store is full.
        """
        try:
            files = {name: ray.put(np.fromfile(folder / name, np.uint8)) for name in names}
        except ray.exceptions.ObjectStoreFullError as error:
            raise ExecutorError(
                "Ray's object store is too small for the models: start the cluster with a larger "
                "--object-store-memory."
            ) from error
        return cls("-".join(reference.hex() for reference in list(files.values())[:1]), files)

    def folder(self) -> Path:
        """See `evonnx.executors.Shared`."""
        if not _shelves:
            _shelves.append(_Shelf())
        return _shelves[0].folder(self.key, self.files)
