"""A run directory: safe to kill at any moment.

`gen-NN` folders are written beside and renamed into place once complete, and are immutable from then on;
`run.json`, `best.onnx` and the reports are derived from them and replaced atomically. `checkpoints` is
where an adapter keeps the progress of an unfinished retraining.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from evonnx.durable import PARTIAL, sync_folder, write_whole
from evonnx.errors import RunError
from evonnx.masks import Masks

Row = dict[str, Any]
"""One generation's figures: what `metrics.json` holds (design: section 5)."""

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
MASKED_FILE = "masked.onnx"
COMPACT_FILE = "compact.onnx"
MASKS_FILE = "masks.safetensors"
LINEAGE_FILE = "lineage.safetensors"
BEST_FILE = "best.onnx"


def write_atomic(path: Path, data: bytes) -> None:
    """Put a file in place whole.

    Raises:
        RunError: it cannot be written; what was there before is untouched.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}. Check the folder and the free space."
        ) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document atomically; NaN is not JSON and is refused."""
    write_atomic(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: the file is missing, unreadable or holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{path} does not exist; is {path.parent} a run directory of evonnx evolve?"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON ({error}); it was not written by evonnx.") from error
    if not isinstance(document, dict):
        raise RunError(f"{path} holds no JSON object; it was not written by evonnx.")
    return document


def save_masks(path: Path, masks: Masks) -> None:
    """Masks as boolean tensors by initializer name."""
    write_atomic(path, save({name: np.ascontiguousarray(masks[name]) for name in sorted(masks)}))


def save_lineage(path: Path, lineage: Mapping[tuple[str, int], np.ndarray[Any, np.dtype[np.int64]]]) -> None:
    """Kept ancestor indices as int64 tensors named `initializer:axis`."""
    named = {
        f"{name}:{axis}": np.ascontiguousarray(kept, dtype=np.int64) for (name, axis), kept in lineage.items()
    }
    write_atomic(path, save(dict(sorted(named.items()))))


def load_tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read a safetensors file of a run.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read ({error}).") from error


class RunStore:
    """One run directory."""

    def __init__(self, folder: Path) -> None:
        """Open a folder; nothing is written yet."""
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, run: Mapping[str, Any]) -> RunStore:
        """Start a new run.

        Raises:
            RunError: the folder holds a run already, or cannot be written.
        """
        if (folder / RUN_FILE).exists():
            raise RunError(
                f"{folder} already holds a run. Continue it with --resume, or name another folder with --out."
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} exists and is not an empty folder. Name another one with --out.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"Cannot create {folder}: {error.strerror or error}. Name another folder with --out."
            ) from error
        store = cls(folder)
        store.write_run(run)
        return store

    @classmethod
    def resume(cls, folder: Path) -> RunStore:
        """Open a run that was begun, and clear what a killed process left half-written."""
        store = cls(folder)
        store.read_run()
        for partial in folder.glob(f"{PARTIAL}*"):
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink()
        return store

    def read_run(self) -> dict[str, Any]:
        """run.json as it stands."""
        return read_json(self.folder / RUN_FILE)

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.folder / RUN_FILE, run)

    def record_choices(self, choices: Mapping[str, Any]) -> None:
        """Replace what run.json says of choices, and leave the rest of it as it stands."""
        self.write_run({**self.read_run(), "choices": choices})

    def abandon_if_empty(self) -> None:
        """Remove a run that ended in an error before its first generation: there is nothing to continue."""
        if self.generation_folder(1).exists():
            return
        self.drop_checkpoints()
        (self.folder / RUN_FILE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    @property
    def checkpoints(self) -> Path:
        """Where unfinished retrainings keep their progress; may not exist."""
        return self.folder / "checkpoints"

    def drop_checkpoints(self) -> None:
        """What was being retrained is in place."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def generation_folder(self, generation: int) -> Path:
        """Where an offspring lives once it is complete."""
        return self.folder / f"gen-{generation:02d}"

    def rows(self) -> list[Row]:
        """Figures of all complete generations, in order, read from their own immutable files."""
        rows: list[Row] = []
        while (folder := self.generation_folder(len(rows) + 1)).is_dir():
            rows.append(read_json(folder / METRICS_FILE))
        return rows

    def workspace(self, label: str) -> Path:
        """An empty folder inside the run for work in progress; gone with `discard` or at the next resume."""
        folder = self.folder / f"{PARTIAL}{label}"
        if folder.exists():
            shutil.rmtree(folder)
        try:
            folder.mkdir()
        except OSError as error:
            raise RunError(f"Cannot write in {self.folder}: {error.strerror or error}.") from error
        return folder

    def discard(self, workspace: Path) -> None:
        """Remove a workspace."""
        shutil.rmtree(workspace, ignore_errors=True)

    @contextlib.contextmanager
    def new_generation(self, generation: int) -> Iterator[Path]:
        """A folder to fill with a generation's files; it is renamed into place when the block ends well.

        `gen-NN` appears complete or not at all, whenever the process dies.
        """
        partial = self.workspace(f"gen-{generation:02d}")
        try:
            yield partial
        except BaseException:
            self.discard(partial)
            raise
        sync_folder(partial)
        final = self.generation_folder(generation)
        try:
            partial.rename(final)
        except OSError as error:
            raise RunError(f"Cannot put {final} into place: {error.strerror or error}.") from error
        sync_folder(self.folder)
        self.drop_checkpoints()
