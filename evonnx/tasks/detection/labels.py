"""Label files of detection data sets: KITTI (one object a line, pixels) and YOLO (one a line, shares of the
image).

KITTI (the development kit's readme, 15 fields or more, separated by spaces): type, truncated, occluded,
alpha, then the box in pixels of the image as left, top, right, bottom; the rest is not read. `DontCare`
marks regions whose objects nobody labelled.

YOLO: class index, then the box as centre x, centre y, width, height in shares of the image's width and
height.

Both are read into boxes x1, y1, x2, y2 in shares of the image, cut at its border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError

LARGEST_FILE = 2**20
"""Bytes of one label file; real ones have a few thousand."""

_YOLO_FIELDS = 5
_KITTI_FIELDS = 15
_SLACK = 0.01
"""How far a YOLO number may lie outside [0, 1], for rounding."""


@dataclass(frozen=True)
class Objects:
    """What is to be found in one image."""

    boxes: NDArray[np.float64]
    """(n, 4): x1, y1, x2, y2 in shares of width and height, in [0, 1], x1 < x2 and y1 < y2."""
    classes: NDArray[np.int64]
    """(n,): class index; -1 is a region to ignore: finding something there is neither right nor wrong."""

    def __len__(self) -> int:
        return len(self.classes)


NOTHING = Objects(np.zeros((0, 4)), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Vocabulary:
    """Which objects count."""

    names: tuple[str, ...]
    """As YOLO's indices count them."""
    ignored: frozenset[str] = frozenset({"DontCare"})
    """Names whose boxes are regions to ignore."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that are not ignored: one channel of coverage each, in this order."""
        return tuple(name for name in self.names if name not in self.ignored)

    def index(self, name: str) -> int:
        """A name's class index; -1 where it is ignored.

        Raises:
            ValueError: the name is neither a class nor ignored.
        """
        return -1 if name in self.ignored else self.classes.index(name)


def read_kitti(path: Path, size: tuple[int, int], vocabulary: Vocabulary) -> Objects:
    """Read a KITTI label file.

    Args:
        path: the file.
        size: (width, height) of the image in pixels.
        vocabulary: which types count. Types that it does not know are background.

    Raises:
        TaskError: a line is no KITTI label; names file and line.
    """
    found: list[tuple[int, tuple[float, ...]]] = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < _KITTI_FIELDS:
            raise _wrong(path, number, f"it has {len(fields)} fields, a KITTI label has {_KITTI_FIELDS}")
        kind = fields[0]
        left, top, right, bottom = _numbers(fields[4:8], path, number)
        if right < left or bottom < top:
            raise _wrong(path, number, f"the box {' '.join(fields[4:8])} ends before it begins")
        box = (left / size[0], top / size[1], right / size[0], bottom / size[1])
        if kind in vocabulary.names or kind in vocabulary.ignored:
            found.append((vocabulary.index(kind), box))
    return _objects(found)


def read_yolo(path: Path, vocabulary: Vocabulary) -> Objects:
    """Read a YOLO label file; class indices are places in `vocabulary.names`.

    Raises:
        TaskError: a line is no YOLO label, or its class is unknown; names file and line.
    """
    found: list[tuple[int, tuple[float, ...]]] = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != _YOLO_FIELDS:
            raise _wrong(path, number, f"it has {len(fields)} fields, a YOLO label has {_YOLO_FIELDS}")
        if not (fields[0].isascii() and fields[0].isdigit() and len(fields[0]) < 10):
            raise _wrong(path, number, f"its class {fields[0]!r} is not a whole number from 0 up")
        if int(fields[0]) >= len(vocabulary.names):
            names = ", ".join(f"{index} {name}" for index, name in enumerate(vocabulary.names))
            raise _wrong(path, number, f"its class is {fields[0]}, but class_names has {names}")
        x, y, width, height = _numbers(fields[1:], path, number)
        if not all(-_SLACK <= value <= 1 + _SLACK for value in (x, y, width, height)):
            raise _wrong(path, number, "a number is outside [0, 1]; YOLO boxes are shares of the image")
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        found.append((vocabulary.index(vocabulary.names[int(fields[0])]), box))
    return _objects(found)


def _lines(path: Path) -> Sequence[str]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise TaskError(f"The label file {path} cannot be read: {error.strerror or error}.") from error
    if len(data) > LARGEST_FILE:
        raise TaskError(
            f"The label file {path} is larger than {LARGEST_FILE:,} bytes, which no image's labels are."
        )
    try:
        return data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TaskError(f"The label file {path} is not text ({error}).") from error


def _numbers(fields: Sequence[str], path: Path, number: int) -> tuple[float, ...]:
    values = []
    for field in fields:
        try:
            value = float(field)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise _wrong(path, number, f"{field!r} is not a finite number")
        values.append(value)
    return tuple(values)


def _wrong(path: Path, number: int, what: str) -> TaskError:
    return TaskError(f"{path}, line {number}: {what}. Correct the line, or name another folder of labels.")


def _objects(found: Sequence[tuple[int, tuple[float, ...]]]) -> Objects:
    """Boxes cut at the image's border; what has no area inside is left out."""
    if not found:
        return NOTHING
    boxes = np.clip(np.array([box for _, box in found], np.float64), 0.0, 1.0)
    classes = np.array([kind for kind, _ in found], np.int64)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Objects(boxes[inside], classes[inside])
