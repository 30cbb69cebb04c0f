"""Splits out of tables and paired folders, whose columns are named after what the graph takes and gives.

A split is written as

    train = "train.npz"                                     or .csv, .tsv, .parquet: see `tables`
    train = "data/train"                                    a folder of Hugging Face's save_to_disk; or
                                                            "data", where it has a split of that name
    train = ["part1.npz", "part2.npz"]                      their rows in order
    train = { file = "all.csv", x = ["a", "b"], y = "c" }   columns of the one input and the one output
    train = { file = "all.csv", x = "file", folder = "clips" }   sounds that a column names, in that folder
    train = { images = "photos", targets = "masks" }        folders of pictures that share their names

Where a table does not say which columns, [task.inputs.NAME] and [task.outputs.NAME] do (`column` or
`columns`); else a single input reads "x", a single output "y", and several their own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evonnx.errors import TaskError
from evonnx.task import Split
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.images import Files, Pictures, is_image, require_pillow
from evonnx.tasks.data.tables import Column, CsvTable, Table, is_columnar, open_table

COLUMN_KEYS = ("column", "columns")
PAIR_KEYS = ("targets", "labels")
"""What the folder beside `images` may be called: one word for every kind of task would be wrong for some."""


@dataclass(frozen=True)
class Rows:
    """Columns of one split, all of one length."""

    name: str
    """As the user wrote it."""
    inputs: Mapping[str, Column]
    """By graph input."""
    targets: Mapping[str, Column]
    """By graph output."""
    size: int


@dataclass(frozen=True)
class RowReader:
    """How to read splits for one task."""

    settings: Settings
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """That have targets."""
    limit: int
    """Bytes that one array may take."""
    sounds: frozenset[str] = frozenset()
    """Inputs that are sounds: a column of text names their files."""
    class_names: tuple[str, ...] = ()
    """In class order, where targets are classes that a column may give by name."""

    def names_columns(self, split: Split) -> bool:
        """Whether a split is a table of text, or says which columns of a table make one input."""
        value = self.settings.table[split]
        if isinstance(value, dict):
            several = any(isinstance(value.get(key), list) for key in ("x", "y"))
            return several or ("file" in value and is_columnar(self._at(value["file"])))
        texts = value if isinstance(value, list) else [value]
        return bool(texts) and all(isinstance(one, str) and is_columnar(self._at(one)) for one in texts)

    def read(self, split: Split) -> Rows:
        """Read a split.

        Raises:
            TaskError: whatever is wrong with it; the file is named.
        """
        value = self.settings.table[split]
        if isinstance(value, str):
            return self._table(split, value, {}, None)
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return _joined([self._table(split, one, {}, None) for one in value], ", ".join(value))
        if isinstance(value, dict):
            table = Settings(value, f"{self.settings.where}, {split}", self.settings.folder)
            if "images" in value:
                return self._pairs(table)
            if "file" in value:
                table.only(("file", "x", "y", "folder"))
                given = {key: columns for key in ("x", "y") if (columns := table.names(key)) is not None}
                return self._table(split, table.text("file") or "", given, table.text("folder"))
        raise self.settings.wrong(
            split,
            'a file with columns (.npz, .csv), a list of them, {file = "...", x = "...", y = "..."} or '
            '{images = "folder", targets = "folder"}',
        )

    def _at(self, text: object) -> Path:
        return self.settings.folder / str(text)

    def _table(self, split: str, text: str, given: Mapping[str, tuple[str, ...]], folder: str | None) -> Rows:
        path = self._at(text)
        if not path.exists():
            raise TaskError(f"{self.settings.where}: {split} = {text!r} does not exist (looked for {path}).")
        table = open_table(path, split, self.limit)
        names = table.names
        if folder is not None and not (self.sounds and isinstance(table, CsvTable)):
            raise TaskError(
                f"{self.settings.where}: folder is for sounds that a column of a .csv file names; {text!r} "
                "is read otherwise."
            )
        inputs = {
            name: self._input(
                name,
                self._columns("inputs", name, self.inputs, names, given.get("x"), "x"),
                table,
                path.parent if folder is None else self._at(folder),
            )
            for name in self.inputs
        }
        targets = {
            name: self._target(
                self._columns("outputs", name, self.outputs, names, given.get("y"), "y"), table
            )
            for name in self.outputs
        }
        return _rows(text, inputs, targets, table)

    def _input(self, name: str, columns: tuple[str, ...], table: Table, folder: Path) -> Column:
        if name not in self.sounds or not isinstance(table, CsvTable):
            return table.read(columns)
        if len(columns) > 1:
            raise TaskError(
                f"{table.path}: the sounds of input {name!r} are named by one column, not by "
                f"{', '.join(columns)}."
            )
        return Files([_named(folder, one, table.path) for one in table.words(columns[0])])

    def _target(self, columns: tuple[str, ...], table: Table) -> Column:
        """A column of targets; of classes by their names where these are known."""
        if not self.class_names or len(columns) != 1 or not isinstance(table, CsvTable):
            return table.read(columns)
        words, known = table.words(columns[0]), {name: place for place, name in enumerate(self.class_names)}
        unknown = next((word for word in words if word not in known), None)
        if unknown is None:
            return np.array([known[word] for word in words], np.int64)
        if all(map(_is_number, words)):
            return table.read(columns)
        raise TaskError(
            f"{table.path}, column {columns[0]!r}: {unknown!r} is not among class_names, "
            f"{', '.join(self.class_names)}."
        )

    def _columns(
        self,
        key: str,
        name: str,
        among: Sequence[str],
        names: Sequence[str],
        given: tuple[str, ...] | None,
        usual: str,
    ) -> tuple[str, ...]:
        """Which columns hold what an input takes or an output should give."""
        own = self.settings.tables(key, among).get(name)
        said = None if own is None else own.names("columns") or own.names("column")
        if said is not None:
            return said
        if given is not None and len(among) == 1:
            return given
        if given is not None:
            raise TaskError(
                f"{self.settings.where}: there are {len(among)} {key} ({', '.join(among)}), so {usual} could "
                f"be any; name their columns: [task.{key}.{name}], column = ...."
            )
        return (usual,) if len(among) == 1 and (usual in names or name not in names) else (name,)

    def _pairs(self, table: Settings) -> Rows:
        table.only(("images", *PAIR_KEYS))
        key = next((key for key in PAIR_KEYS if key in table.table), None)
        if key is None or len(self.inputs) != 1 or len(self.outputs) != 1:
            raise TaskError(
                f"{table.where}: folders of images go in pairs, {{images = ..., targets = ...}}, for a task "
                f"of one input and one output; this one has {len(self.inputs)} and {len(self.outputs)}."
            )
        images, targets = (_pictures(table, one) for one in ("images", key))
        alone = sorted(set(images) ^ set(targets))
        if alone:
            where = table.text("images") if alone[0] in images else table.text(key)
            raise TaskError(
                f"{table.where}: {alone[0]!r} is in {where!r} only ({len(alone)} pictures have no "
                "counterpart); pairs have the same name but for the suffix."
            )
        require_pillow()
        order = sorted(images)
        return Rows(
            f"{table.text('images')}, {table.text(key)}",
            {self.inputs[0]: Files([images[name] for name in order])},
            {self.outputs[0]: Files([targets[name] for name in order])},
            len(order),
        )


def _pictures(table: Settings, key: str) -> dict[str, Path]:
    """Pictures below a folder, by their paths in it without suffix."""
    text = table.text(key) or ""
    folder = table.folder / text
    if not folder.is_dir():
        raise TaskError(f"{table.where}: {key} = {text!r} is no folder (looked for {folder}).")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if is_image(path) and path.is_file():
            name = str(path.relative_to(folder).with_suffix(""))
            if name in found:
                raise TaskError(f"{folder} has two pictures called {name}: {found[name].name}, {path.name}.")
            found[name] = path
    if not found:
        raise TaskError(f"{folder} has no images.")
    return found


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _named(folder: Path, name: str, table: Path) -> Path:
    """A file in a folder, by the name that a table gives.

    Raises:
        TaskError: there is none, or the name leads out of the folder.
    """
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        there = inside and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in a name, a loop of links
        raise TaskError(f"{table} names a file {name!r}, which cannot be: {error}.") from error
    if not inside:
        raise TaskError(
            f"{table} names a file {name!r}, which leads out of {folder}; put it there, or say another "
            "folder = ... beside file."
        )
    if not there:
        raise TaskError(f"{table} names a file {name!r}, which is not in {folder}.")
    return path


def _rows(text: str, inputs: dict[str, Column], targets: dict[str, Column], table: Table) -> Rows:
    sizes = {name: len(column) for name, column in (*inputs.items(), *targets.items())}
    if len(set(sizes.values())) > 1:
        raise TaskError(f"{table.path}: its columns differ in length: {sizes}; there must be one row each.")
    size = next(iter(sizes.values()))
    if size == 0:
        raise TaskError(f"{text} holds no examples.")
    return Rows(text, inputs, targets, size)


def _joined(parts: list[Rows], name: str) -> Rows:
    if len(parts) == 1:
        return parts[0]
    inputs = {key: _concatenated([part.inputs[key] for part in parts], name) for key in parts[0].inputs}
    targets = {key: _concatenated([part.targets[key] for part in parts], name) for key in parts[0].targets}
    return Rows(name, inputs, targets, sum(part.size for part in parts))


def _concatenated(columns: list[Column], name: str) -> Column:
    files = [column for column in columns if isinstance(column, Files)]
    if len(files) == len(columns):
        return Files([path for one in files for path in one.paths])
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    kinds = {(array.shape[1:], array.dtype) for array in arrays}
    if len(arrays) != len(columns) or len(kinds) > 1:
        raise TaskError(f"{name}: files of one split must hold the same kind of examples, shape and type.")
    return np.concatenate(arrays)


def picture_column(column: Column) -> Pictures | None:
    """The column, where it is one of image files."""
    return None if isinstance(column, np.ndarray) else column
