"""A run directory: safe to kill at any moment.

`gen-NN` folders are written beside and renamed into place once complete, and are immutable from then on;
`run.json`, `best.onnx` and the reports are derived from them and replaced atomically. `checkpoints` is
where an adapter keeps the progress of an unfinished retraining. Who writes holds the folder's lock
(`evonnx.locking`).
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from evonnx.durable import PARTIAL, clear_partials, copy_whole, sync_folder, write_whole
from evonnx.errors import RunError
from evonnx.locking import LOCK_FILE
from evonnx.masks import Masks
from evonnx.untrusted import fault_of_file, find_link

Row = dict[str, Any]
"""One generation's figures: what `metrics.json` holds (design: section 5)."""

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
MASKED_FILE = "masked.onnx"
COMPACT_FILE = "compact.onnx"
MASKS_FILE = "masks.safetensors"
LINEAGE_FILE = "lineage.safetensors"
BEST_FILE = "best.onnx"
_LARGEST_JSON = 1 << 28
_LARGEST_TENSORS = 1 << 36
"""Bytes; what evonnx writes itself stays far below."""


def generation_name(generation: int) -> str:
    """Of a generation's folder."""
    return f"gen-{generation:02d}"


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
        if fault := fault_of_file(path, _LARGEST_JSON):
            raise RunError(f"{path} {fault}; it was not written by evonnx.")
        text = path.read_text(encoding="utf-8")
        document = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError as error:
        raise RunError(
            f"{path} does not exist; is {path.parent} a run directory of evonnx evolve?"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read as JSON ({error}); it was not written by evonnx.") from error
    if not isinstance(document, dict):
        raise RunError(f"{path} holds no JSON object; it was not written by evonnx.")
    return document


def _finite(text: str) -> float:
    """A number of a JSON document; `json` alone takes NaN, Infinity and 1e999."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


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
        if fault := fault_of_file(path, _LARGEST_TENSORS):
            raise RunError(f"{path} {fault}; it was not written by evonnx.")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read ({error}).") from error


_FIGURES = ("score", "score_ancestor", "score_validation", "synapses", "parameters", "bytes")


def check_rows(rows: Sequence[Row], folder: Path) -> None:
    """Hold generations' figures against what a resumed run relies on.

    Raises:
        RunError: they are another generation's, or one is missing or no number.
    """
    for number, row in enumerate(rows, 1):
        wrong = [name for name in _FIGURES if type(row.get(name)) not in (int, float)]
        if row.get("generation") != number or wrong:
            what = f"{wrong[0]!r} is no number" if wrong else f"it says generation {row.get('generation')!r}"
            raise RunError(
                f"{METRICS_FILE} of generation {number} in {folder} was not written by evonnx, or was "
                f"changed since: {what}. Remove the folders of this generation and of those after it to have "
                "them made again."
            )


@contextlib.contextmanager
def of_row(folder: Path, row: Row) -> Iterator[None]:
    """What goes wrong inside is the fault of a generation's figures.

    Raises:
        RunError: saying which.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{METRICS_FILE} of generation {row['generation']} in {folder} was not written by evonnx, or was "
            f"changed since ({type(error).__name__}: {error}). Remove the folders of this generation and of "
            "those after it to have them made again."
        ) from error


def refuse_links(folder: Path) -> None:
    """See to it that whatever is written or removed in a run directory is inside it.

    Raises:
        RunError: there is a symbolic link.
    """
    link = find_link(folder)
    if link is not None:
        raise RunError(
            f"{link} is a symbolic link. evonnx makes none in a run directory and follows none, for they may "
            "lead outside of it. If you made it, put in its place what it points to."
        )


class RunStore:
    """One run directory."""

    def __init__(self, folder: Path) -> None:
        """Open a folder; nothing is written yet."""
        self.folder = folder

    @classmethod
    def prepare(cls, folder: Path) -> None:
        """Make the folder of a new run, or take one in which nothing but a lock and partial files is.

        Raises:
            RunError: the folder holds a run already or anything else, or cannot be made.
        """
        if (folder / RUN_FILE).exists():
            raise RunError(
                f"{folder} already holds a run. Continue it with --resume, or name another folder with --out."
            )
        try:
            if not folder.exists():
                folder.mkdir(parents=True, exist_ok=True)
                sync_folder(folder.parent)
            elif not is_blank(folder):
                raise RunError(f"{folder} exists and is not an empty folder. Name another one with --out.")
        except OSError as error:
            raise RunError(
                f"Cannot create {folder}: {error.strerror or error}. Name another folder with --out."
            ) from error

    @classmethod
    def create(cls, folder: Path, run: Mapping[str, Any]) -> RunStore:
        """Start a new run.

        Raises:
            RunError: the folder holds a run already, or cannot be written.
        """
        cls.prepare(folder)
        store = cls(folder)
        store.clear_partials()
        store.write_run(run)
        return store

    @classmethod
    def resume(cls, folder: Path) -> RunStore:
        """Open a run that was begun, and clear what a killed process left half-written.

        Raises:
            RunError: there is no run, or a symbolic link in it, through which something would be written
                elsewhere.
        """
        refuse_links(folder)
        store = cls(folder)
        store.read_run()
        store.clear_partials()
        return store

    def clear_partials(self) -> None:
        """Remove what killed processes left half-written.

        Raises:
            RunError: it cannot be removed.
        """
        try:
            for place in (self.folder, self.checkpoints):
                clear_partials(place)
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def read_run(self) -> dict[str, Any]:
        """run.json as it stands."""
        return read_json(self.folder / RUN_FILE)

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.folder / RUN_FILE, run)

    def record_choices(self, choices: Mapping[str, Any]) -> None:
        """Replace what run.json says of choices, and leave the rest of it as it stands."""
        self.write_run({**self.read_run(), "choices": choices})

    def began(self) -> bool:
        """Whether there is anything to continue: a generation, or the progress of a retraining."""
        kept = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return kept or self.generation_folder(1).exists()

    def abandon_if_empty(self) -> None:
        """Remove a run that ended in an error before there was anything to continue."""
        if self.began():
            return
        self.drop_checkpoints()
        with contextlib.suppress(OSError):
            (self.folder / RUN_FILE).unlink(missing_ok=True)
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
        return self.folder / generation_name(generation)

    def rows(self) -> list[Row]:
        """Figures of all complete generations, in order, read from their own immutable files."""
        rows: list[Row] = []
        while (folder := self.generation_folder(len(rows) + 1)).is_dir():
            try:
                rows.append(read_json(folder / METRICS_FILE))
            except RunError as error:
                raise RunError(
                    f"{folder} is damaged, though it was complete once: {error} Remove it and the "
                    "generations after it, and they are made again."
                ) from error
        return rows

    def workspace(self, label: str) -> Path:
        """An empty folder inside the run for work in progress; gone with `discard` or at the next resume."""
        folder = self.folder / f"{PARTIAL}{label}"
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
        except OSError as error:
            raise disk_error(self.folder, error) from error
        return folder

    def discard(self, workspace: Path) -> None:
        """Remove a workspace."""
        shutil.rmtree(workspace, ignore_errors=True)

    @contextlib.contextmanager
    def scratch(self, label: str) -> Iterator[Path]:
        """A workspace for the time of the block."""
        folder = self.workspace(label)
        try:
            yield folder
        finally:
            self.discard(folder)

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
        final = self.generation_folder(generation)
        try:
            sync_folder(partial)
            partial.rename(final)
            sync_folder(self.folder)
        except OSError as error:
            raise RunError(f"Cannot put {final} into place: {error.strerror or error}.") from error
        self.drop_checkpoints()

    def keep_as_best(self, model: Path) -> None:
        """Put a model into place as best.onnx, with the file of its weights if they are outside; the model's
        own file stays.

        Raises:
            RunError: it cannot be written.
        """
        try:
            for beside in sorted(model.parent.glob(f"{model.name}.data")):
                copy_whole(beside, self.folder / beside.name)
            copy_whole(model, self.folder / BEST_FILE)
        except OSError as error:
            raise disk_error(self.folder, error) from error


def is_blank(folder: Path) -> bool:
    """Whether a folder is there and holds nothing, or only what a process leaves that is killed before it has
    written run.json."""
    return folder.is_dir() and all(
        path.name == LOCK_FILE or path.name.startswith(PARTIAL) for path in folder.iterdir()
    )


def disk_error(folder: Path, error: OSError) -> RunError:
    """What a user is told when a run's folder cannot be written."""
    where = f"{error.filename}: " if error.filename else ""
    return RunError(
        f"Cannot write in {folder}: {where}{error.strerror or error}. Check the folder and the free space; "
        "complete generations are safe."
    )
