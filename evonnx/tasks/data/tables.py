"""Files with named columns, one row per example: .npz (one array per column), .csv or .tsv (a line of names,
then numbers), and Arrow data (see `arrow`)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from evonnx.errors import TaskError
from evonnx.network import Array
from evonnx.tasks.data.arrays import npz_names, read_npz
from evonnx.tasks.data.arrow import is_arrow, open_arrow
from evonnx.tasks.data.images import Pictures
from evonnx.untrusted import fault_of_file

Column = Array | Pictures
"""Examples along axis 0, or an image file each."""

TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t"}
LONGEST_HEADER = 2**20
"""Characters of the line of names."""
_BYTES_PER_CHARACTER = 4
"""Most that reading takes: a one-digit number and its comma become eight bytes."""
_BYTES_PER_CHARACTER_OF_TEXT = 64
"""A short name and its comma become an object of some hundred bytes."""


class Table(Protocol):
    """Columns by name."""

    @property
    def path(self) -> Path:
        """For messages."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of its columns."""
        ...

    def read(self, names: Sequence[str]) -> Column:
        """One column; or several of numbers side by side, (rows, columns).

        Raises:
            TaskError: there is none of that name, or it cannot be read.
        """
        ...


@dataclass(frozen=True)
class NpzTable:
    """Arrays of an .npz file; `limit` in bytes."""

    path: Path
    limit: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of its arrays."""
        return npz_names(self.path)

    def read(self, names: Sequence[str]) -> Column:
        """See `Table`."""
        arrays = [read_npz(self.path, name, self.limit) for name in names]
        for name, array in zip(names, arrays, strict=True):
            if array.ndim == 0:
                raise TaskError(
                    f"{self.path}: array {name!r} is a single value; axis 0 must count the examples."
                )
        return side_by_side(arrays, names, self.path)


@dataclass(frozen=True)
class CsvTable:
    """A text file with a line of names, then a line of numbers per example; `limit` in bytes of memory."""

    path: Path
    limit: int

    @property
    def names(self) -> tuple[str, ...]:
        """What the first line says."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                line = file.readline(LONGEST_HEADER + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise TaskError(f"{self.path} cannot be read: {error}.") from error
        if len(line) > LONGEST_HEADER:
            raise TaskError(f"{self.path}: its first line is too long to hold the names of columns.")
        found = tuple(name.strip() for name in next(csv.reader([line], delimiter=self._delimiter), []))
        if len(set(found)) != len(found):
            twice = next(name for name in found if found.count(name) > 1)
            raise TaskError(f"{self.path}: two columns are called {twice!r}; name each differently.")
        return found

    def read(self, names: Sequence[str]) -> Column:
        """See `Table`."""
        header = self._header(names, _BYTES_PER_CHARACTER)
        try:
            numbers = np.loadtxt(
                self.path,
                np.float64,
                comments=None,
                delimiter=self._delimiter,
                skiprows=1,
                usecols=[header.index(name) for name in names],
                ndmin=2,
                encoding="utf-8-sig",
                quotechar='"',
            )
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise TaskError(
                f"{self.path} cannot be read as numbers (columns {', '.join(names)}): {error}. Rows are "
                "counted from 0 after the line of names; clean the file, or name other columns."
            ) from error
        return numbers[:, 0] if len(names) == 1 else numbers

    def words(self, name: str) -> list[str]:
        """One column as text, without the spaces around it; empty lines are left out.

        Raises:
            TaskError: there is none of that name, or it cannot be read.
        """
        place, found = self._header([name], _BYTES_PER_CHARACTER_OF_TEXT).index(name), []
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.reader(file, delimiter=self._delimiter, strict=True)
                next(rows, None)
                for row in rows:
                    if row and place >= len(row):
                        raise TaskError(f"{self.path}, line {rows.line_num}: it has no column {name!r}.")
                    if row:
                        found.append(row[place].strip())
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TaskError(f"{self.path} cannot be read: {error}.") from error
        return found

    def _header(self, names: Sequence[str], bytes_per_character: int) -> tuple[str, ...]:
        """Names of all columns, `names` among them, of a file that memory can hold."""
        header = self.names
        for name in names:
            if name not in header:
                raise TaskError(
                    f"{self.path} has no column {name!r}; its first line names {', '.join(header) or 'none'}."
                )
        if reason := fault_of_file(self.path, max(1, self.limit // bytes_per_character)):
            raise TaskError(f"{self.path} {reason}. Raise `memory_gib` in [task], or save it as .npz.")
        return header

    @property
    def _delimiter(self) -> str:
        return TEXT_SUFFIXES[self.path.suffix.lower()]


def is_columnar(path: Path) -> bool:
    """Whether a path names a table of text or of Arrow data."""
    return path.suffix.lower() in TEXT_SUFFIXES or is_arrow(path)


def open_table(path: Path, split: str, limit: int) -> Table:
    """The table that a file or folder holds; `split` is for folders with several, `limit` in bytes.

    Raises:
        TaskError: it holds none.
    """
    if is_arrow(path):
        return open_arrow(path, split, limit)
    if path.suffix.lower() in TEXT_SUFFIXES:
        return CsvTable(path, limit)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                return NpzTable(path, limit)
    raise TaskError(
        f"{path} has no named columns: it is neither .npz, .csv or .parquet, nor a folder that "
        "Hugging Face's save_to_disk wrote."
    )


def side_by_side(arrays: Sequence[Array], names: Sequence[str], path: Path) -> Array:
    """One array as it is; several of one number per example each as columns.

    Raises:
        TaskError: they are no single numbers, or differ in length.
    """
    if len(arrays) == 1:
        return arrays[0]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or any(len(shape) != 1 for shape in shapes):
        shown = ", ".join(f"{name} {list(array.shape)}" for name, array in zip(names, arrays, strict=True))
        raise TaskError(
            f"{path}: columns can be put side by side where each holds one number per example; there are "
            f"{shown}."
        )
    return np.stack(arrays, axis=1)
