"""Label maps: a class index per pixel, from arrays or from pictures whose pixel values are the indices
(greyscale, or the palette's places)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array
from evonnx.tasks.data.geometry import Geometry
from evonnx.tasks.data.images import CACHE_BYTES
from evonnx.tasks.data.tables import Column

Labels = NDArray[np.int64]

_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
"""Of Pillow's images with one number per pixel."""
_CHECKED_AT_A_TIME = 2**24


@dataclass(frozen=True)
class Legend:
    """What the numbers in label maps mean."""

    classes: int
    ignored: int
    """The number of pixels that count for nothing."""
    values: tuple[int, ...] | None = None
    """The number of each class, in their order; all others are ignored. None: the class index itself."""

    def __call__(self, stored: Array, label: str) -> Labels:
        """Class indices, -1 where ignored.

        Raises:
            TaskError: a number means nothing.
        """
        numbers = stored.astype(np.int64)
        if self.values is not None:
            order = np.argsort(self.values)
            known = np.asarray(self.values)[order]
            places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
            found: Labels = np.where(known[places] == numbers, order[places], -1)
            return found
        wrong = ((numbers < 0) | (numbers >= self.classes)) & (numbers != self.ignored)
        if wrong.any():
            raise TaskError(
                f"{label}: label {int(numbers[wrong][0])} ({int(wrong.sum())} pixels are out of range); "
                f"the output knows classes from 0 to {self.classes - 1}, and ignore_index = {self.ignored}. "
                "Set label_values = [...], the number of each class, if others are meant."
            )
        return np.where(numbers == self.ignored, -1, numbers)


@dataclass
class LabelMaps:
    """Class indices of pictures, (rows, columns) each as the output gives them.

    Args:
        column: label maps.
        label: what to call them in messages.
        geometry: how the pictures that they belong to are resized and cut.
        always: whether arrays are, too; else they must have the pictures' size.
        size: (rows, columns) of the output.
        shrink: whether they may be resized (nearest) from the pictures' size to the output's.
        legend: what the numbers mean.
    """

    column: Column
    label: str
    geometry: Geometry
    always: bool
    size: tuple[int, int]
    shrink: bool
    legend: Legend
    _cache: NDArray[np.int16] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        image = (self.geometry.height, self.geometry.width)
        stored = image
        if isinstance(self.column, np.ndarray):
            self.column = self._maps(self.column)
            stored = image if self.always else self.column.shape[1:]
            if stored not in (image, self.size):
                raise TaskError(
                    f"{self.label} are {stored[0]} x {stored[1]}, the pictures {image[0]} x {image[1]}; "
                    "label maps have the size of their pictures, or that of the output."
                )
            step = max(1, _CHECKED_AT_A_TIME // max(1, int(np.prod(self.column.shape[1:]))))
            for start in range(0, len(self.column), step):
                self.legend(self.column[start : start + step], self.label)
        if stored != self.size and not self.shrink:
            raise TaskError(
                f"{self.label} are {stored[0]} x {stored[1]}, the output {self.size[0]} x {self.size[1]}; "
                "set resize_labels = true to have the nearest label taken, which is then trained and scored."
            )
        count = len(self) * self.size[0] * self.size[1] * 2
        if not isinstance(self.column, np.ndarray) and count <= CACHE_BYTES:
            self._cache = np.zeros((len(self), *self.size), np.int16)
        self._cached = np.zeros(len(self), np.bool_)

    def _maps(self, array: Array) -> Array:
        """(N, rows, columns) of whole numbers, without a channel axis of one."""
        if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
            array = array.reshape(len(array), *(array.shape[2:] if array.shape[1] == 1 else array.shape[1:3]))
        if array.ndim != 3 or array.dtype.kind not in "iub":
            raise TaskError(
                f"{self.label} hold {array.dtype}{list(array.shape[1:])}; label maps are whole numbers, "
                "[N, rows, columns] (for one-hot maps: y.argmax(axis=1))."
            )
        return array

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return self.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always int64."""
        return np.dtype(np.int64)

    def __len__(self) -> int:
        return len(self.column)

    def take(self, indices: NDArray[np.int64]) -> Array:
        """Class indices, (len(indices), rows, columns), -1 where ignored.

        Raises:
            TaskError: a picture cannot be read, or holds no class indices; the message names it.
        """
        if isinstance(self.column, np.ndarray):
            stored: Array = self.column[indices]
            if self.always:
                stored = self.geometry.arrays(stored, channels_first=False, nearest=True)
            return self._nearest(self.legend(stored, self.label))
        found = np.empty((len(indices), *self.size), np.int64)
        for place, index in enumerate(indices):
            if self._cache is not None and self._cached[index]:
                found[place] = self._cache[index]
                continue
            found[place] = self._decoded(int(index))
            if self._cache is not None:
                self._cache[index], self._cached[index] = found[place], True
        return found

    def _decoded(self, index: int) -> Labels:
        assert not isinstance(self.column, np.ndarray)
        name = self.column.name(index)
        with self.column.opened(index) as image:
            if image.mode not in _MODES:
                raise TaskError(
                    f"The label map {name} is a picture in colours ({image.mode}); save class indices "
                    "instead, one number per pixel (greyscale or palette)."
                )
            plain = image.convert("I") if image.mode.startswith("I;") else image
            numbers = np.asarray(self.geometry(plain, nearest=True))
        found: Labels = self._nearest(self.legend(numbers[None], f"The label map {name}"))[0]
        return found

    def _nearest(self, labels: Labels) -> Labels:
        """(B, rows, columns) of the pictures to those of the output: the label at each pixel's centre."""
        rows, columns = (
            ((np.arange(want) + 0.5) * have / want).astype(np.int64)
            for want, have in zip(self.size, labels.shape[1:], strict=True)
        )
        return labels[:, rows[:, None], columns] if labels.shape[1:] != self.size else labels
