"""Columns of Arrow data: folders that Hugging Face's `save_to_disk` wrote, and Parquet files. Needs pyarrow.

Only data is read: nothing is unpickled, no code of a data set is run, and no file is opened but those in the
folder itself. Arrow files are mapped, so that pictures stay on disk until they are decoded; numbers, and
whatever a Parquet file holds, are read into memory within the limit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evonnx.errors import TaskError
from evonnx.network import Array
from evonnx.tasks.data.arrays import check_size
from evonnx.tasks.data.images import opened_image
from evonnx.untrusted import fault_of_file

STATE, SPLITS = "state.json", "dataset_dict.json"
LARGEST_STATE = 2**22
"""Bytes of the files that say which ones hold the data."""
LARGEST_CELL = 2**28
"""Bytes of one picture or sound."""
DEEPEST = 8
"""Lists within lists."""

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
"""What data sets call a split."""


def is_arrow(path: Path) -> bool:
    """Whether a path names columns of Arrow data."""
    if path.suffix.lower() in (".parquet", ".arrow"):
        return True
    return any((path / name).is_file() for name in (STATE, SPLITS))


def open_arrow(path: Path, split: str, limit: int) -> ArrowTable:
    """The columns of a file or folder.

    Args:
        path: see the head of this module.
        split: of a folder with several.
        limit: bytes in memory.

    Raises:
        TaskError: pyarrow is missing, or the data cannot be read; the message names the file.
    """
    require_pyarrow()
    if path.suffix.lower() == ".parquet":
        return ArrowTable(path, (path,), limit)
    if path.is_file():
        return ArrowTable(path, (path,), limit)
    if (path / SPLITS).is_file():
        path = _split_folder(path, split)
    state = _json(path / STATE)
    found = state.get("_data_files")
    listed = found if isinstance(found, list) else []
    names = [one["filename"] for one in listed if isinstance(one, dict) and "filename" in one]
    if not names:
        raise TaskError(f"{path / STATE} names no data files; save the data set again with save_to_disk.")
    return ArrowTable(path, tuple(_inside(path, name) for name in names), limit)


def _split_folder(path: Path, split: str) -> Path:
    names = _json(path / SPLITS).get("splits")
    listed = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    for name in SPLIT_NAMES[split]:
        if name in listed:
            return _inside(path, name)
    raise TaskError(
        f"{path} has the splits {', '.join(listed) or 'none'}, none of which is called {split}; name the "
        f'folder of one: {split} = "{path.name}/{listed[0] if listed else "..."}".'
    )


def _inside(folder: Path, name: object) -> Path:
    """A file or folder directly in `folder`.

    Raises:
        TaskError: the name leads elsewhere.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise TaskError(f"{folder} names {name!r} as its own, which leads out of it; do not use it.")
    path = folder / name
    if path.is_symlink():
        raise TaskError(f"{path} is a link; put the file itself there.")
    if not path.exists():
        raise TaskError(f"{path} is missing, which its folder says holds data; copy the whole folder.")
    return path


def _json(path: Path) -> dict[str, Any]:
    if reason := fault_of_file(path, LARGEST_STATE):
        raise TaskError(f"{path} {reason}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"{path} cannot be read: {error}. Save the data set again.") from error
    if not isinstance(found, dict):
        raise TaskError(f"{path} holds no JSON object; save the data set again with save_to_disk.")
    return found


@dataclass(frozen=True)
class ArrowTable:
    """See `tables.Table`."""

    path: Path
    files: tuple[Path, ...]
    limit: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of the first file, which the others must have too."""
        names: list[str] = self._told(self.files[0], lambda: _schema(self.files[0]).names)
        return tuple(names)

    def read(self, names: Sequence[str]) -> Array | Cells:
        """One column; or several of numbers side by side."""
        known = self.names
        for name in names:
            if name not in known:
                raise TaskError(f"{self.path} has no column {name!r}; it has {', '.join(known) or 'none'}.")
        columns = [self._column(name) for name in names]
        arrays = [column for column in columns if isinstance(column, np.ndarray)]
        if len(columns) == 1:
            return columns[0]
        if len(arrays) < len(columns) or any(array.ndim != 1 for array in arrays):
            raise TaskError(
                f"{self.path}: columns {', '.join(names)} can be put side by side only where each holds one "
                "number per example."
            )
        return np.stack(arrays, axis=1)

    def _column(self, name: str) -> Array | Cells:
        import pyarrow as pa

        chunks: list[Any] = []
        for file in self.files:
            chunks += self._told(file, partial(_chunks, file, name, self.limit))
        if not chunks:
            return np.zeros(0)
        label = f"{self.path}, column {name!r}"
        if len({str(chunk.type) for chunk in chunks}) > 1:
            raise TaskError(f"{label} has another type in some files than in others; save the data again.")
        kind = chunks[0].type
        if pa.types.is_struct(kind) and any(field.name == "bytes" for field in kind):
            return Cells([chunk.field("bytes") for chunk in chunks], label)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return Cells(chunks, label)
        check_size(sum(chunk.nbytes for chunk in chunks), self.limit, label)
        return np.concatenate(_of_one_shape([_numbers(chunk, label) for chunk in chunks], label))

    def _told(self, file: Path, work: Any) -> Any:
        """pyarrow's errors as the file's."""
        import pyarrow as pa

        if reason := fault_of_file(file, 2**62):
            raise TaskError(f"{file} {reason}.")
        try:
            return work()
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            first = (str(error).splitlines() or ["no reason given"])[0]
            raise TaskError(f"{file} cannot be read: {first}. Save the data again.") from error


@dataclass(frozen=True)
class Cells:
    """Pictures or sounds as bytes in a column; see `images.Pictures`."""

    chunks: Sequence[Any]
    label: str

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)

    def name(self, index: int) -> str:
        """The row."""
        return f"in row {index} of {self.label}"

    def opened(self, index: int) -> AbstractContextManager[Any]:
        """See `Pictures`."""
        return opened_image(self.stream(index), self.name(index))

    def stream(self, index: int) -> BinaryIO:
        """See `Pictures`."""
        place = index
        for chunk in self.chunks:
            if place < len(chunk):
                break
            place -= len(chunk)
        cell = chunk[place]
        if not cell.is_valid:
            raise TaskError(
                f"The file {self.name(index)} is not in the data (only its path may be); save the data with "
                "files embedded."
            )
        data = cell.as_buffer()
        if data.size > LARGEST_CELL:
            raise TaskError(f"The file {self.name(index)} takes {data.size:,} bytes; remove it.")
        return io.BytesIO(data.to_pybytes())


def _schema(file: Path) -> Any:
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return pq.ParquetFile(file).schema_arrow
    return _mapped(file).schema


def _mapped(file: Path) -> Any:
    """An Arrow file's table, whose buffers are the mapped file; stream or file format."""
    import pyarrow as pa

    source = pa.memory_map(str(file))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _chunks(file: Path, name: str, limit: int) -> list[Any]:
    """A column's parts, whose offsets have been checked."""
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        opened, found, size = pq.ParquetFile(file), [], 0
        for batch in opened.iter_batches(columns=[name], batch_size=1024):
            column = batch.column(0)
            size += column.nbytes
            check_size(size, limit, f"{file}, column {name!r},")
            found.append(column)
    else:
        found = _mapped(file).column(name).chunks
    for chunk in found:
        chunk.validate(full=True)
    return [chunk for chunk in found if len(chunk)]


def _numbers(chunk: Any, label: str) -> Array:
    """Numbers, or lists of equally many, as an array with examples along axis 0.

    Raises:
        TaskError: there are others, or some are missing.
    """
    import pyarrow as pa

    shape = [len(chunk)]
    for _ in range(DEEPEST):
        if isinstance(chunk.type, pa.ExtensionType):
            chunk = chunk.storage
        if chunk.null_count:
            raise TaskError(f"{label}: {chunk.null_count} values are missing; drop those rows, or fill them.")
        kind = chunk.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            break
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
        if len(set(lengths.tolist())) > 1:
            raise TaskError(
                f"{label}: its lists are {lengths.min()} to {lengths.max()} long; examples need one shape."
            )
        shape.append(int(lengths[0]) if len(lengths) else 0)
        chunk = chunk.flatten()
    kind = chunk.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise TaskError(f"{label} holds {kind}; numbers, lists of them, or pictures can be read.")
    found: Array = chunk.to_numpy(zero_copy_only=False)
    return found.reshape(shape)


def _of_one_shape(arrays: list[Array], label: str) -> list[Array]:
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise TaskError(f"{label}: its lists differ in length from row to row; examples need one shape.")
    return arrays


def require_pyarrow() -> None:
    """Say what is missing.

    Raises:
        TaskError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise TaskError(
            "Reading Hugging Face folders and Parquet files needs pyarrow, which is not installed: `pip "
            "install 'evonnx[datasets]'`, or give the data as an .npz or .csv file."
        ) from error
