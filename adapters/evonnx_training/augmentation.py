"""Augmentation: images moved by a few pixels and mirrored, and targets that lie on them alike; sounds
moved in time.

An example has finitely many views, each with a number, so that whoever computes something per view (the
teacher's outputs) can keep it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx.task import Batch, Target

_USUAL_REACH = 2
_LARGEST_REACH = 32
_NAME = re.compile(r"(flip-)?shift(?::(\d{1,3}))?(?:/(\d{1,4}))?")
_IMAGE_CHANNELS = (1, 3)

_TIME_NAME = re.compile(r"time-shift(?::(0?\.\d{1,4}))?")
_USUAL_SHARE = 0.1
_STEPS = 8
"""Places that a sound may move to on either side of its own."""


@dataclass(frozen=True)
class Augmentation:
    """Images move by up to `reach` pixels along both axes, what enters at the border is zero, and with `flip`
    every other one is mirrored.

    View ((reach + down) * (2 reach + 1) + reach + right) * (2 if flip else 1) + mirrored is the image moved
    by `down` and `right`, then mirrored. With `most`, only so many of them are used, always the same ones,
    the image as given among them; they are counted anew in that order.
    """

    reach: int = 0
    flip: bool = False
    most: int | None = None

    @property
    def views(self) -> int:
        """How many views an example has."""
        return len(self._used)

    @property
    def unmoved(self) -> int:
        """The number of the view that is the example as given."""
        return int(np.searchsorted(self._used, self._as_given))

    @property
    def _as_given(self) -> int:
        mirrorings = 2 if self.flip else 1
        return (2 * self.reach + 1) ** 2 // 2 * mirrorings

    @cached_property
    def _used(self) -> NDArray[np.int64]:
        """The views that are used, in rising order."""
        every = np.arange((2 * self.reach + 1) ** 2 * (2 if self.flip else 1))
        if self.most is None or self.most >= len(every):
            return every
        others = np.delete(every, self._as_given)
        chosen = np.random.default_rng(self.most).choice(others, self.most - 1, replace=False)
        return np.sort(np.append(chosen, self._as_given))

    def __call__(self, batch: Batch, rng: np.random.Generator) -> tuple[Batch, NDArray[np.int64] | None]:
        """Draw a view for every example: the batch of them, and their numbers (None: as given).

        All images of one example (inputs of rank 4) get the same view, and so do targets that lie on them
        (`Batch.spatial`): labels that enter at the border are -1, other values weigh nothing there.

        Raises:
            AdapterError: targets are given by output, and the task does not say how they follow; or they
                have another size than the images; or inputs are sounds.
        """
        if self.views > 1 and batch.time:
            raise AdapterError(
                f"Inputs {', '.join(sorted(batch.time))} are sounds, which are neither mirrored nor moved "
                'from pitch to pitch; set augment = "time-shift" or "none" in [retrain].'
            )
        if self.views == 1 or not any(np.ndim(array) == 4 for array in batch.inputs.values()):
            return batch, None
        if isinstance(batch.targets, Mapping) and (still := sorted(set(batch.targets) - set(batch.spatial))):
            raise AdapterError(
                f"Augmentation would move the images but not their targets for {still[0]!r}; set "
                'augment = "none" in [retrain].'
            )
        side = 2 * self.reach + 1
        # Drawn as a column: an example's view does not depend on how many others there are.
        numbers = rng.integers(0, self.views, (batch.size, 1))[:, 0]
        places = self._used[numbers]
        mirrored = places % 2 == 1 if self.flip else None
        rows, columns = np.divmod(places // 2 if self.flip else places, side)
        inputs = {
            name: self._moved(array, rows, columns, mirrored) if np.ndim(array) == 4 else array
            for name, array in batch.inputs.items()
        }
        if not isinstance(batch.targets, Mapping):
            return Batch(inputs, batch.targets, batch.size), numbers
        sizes = {_size(array) for array in batch.inputs.values() if np.ndim(array) == 4}
        targets = {}
        for name, target in batch.targets.items():
            axes = batch.spatial[name]
            if axes is not None:
                self._check_size(name, target, axes, sizes)
                target = self._moved_target(target, axes, rows, columns, mirrored)
            targets[name] = target
        return Batch(inputs, targets, batch.size, batch.spatial), numbers

    def _check_size(
        self, name: str, target: Target, axes: tuple[int, int], sizes: set[tuple[int, int]]
    ) -> None:
        """Targets of another size can be mirrored, but not moved by a pixel of the image."""
        own = tuple(target.values.shape[axis] for axis in axes)
        if self.reach and sizes != {own}:
            images = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
            raise AdapterError(
                f"Targets for {name!r} are {own[0]} x {own[1]}, the images {images}, so they cannot be moved "
                'alike, pixel by pixel; set augment = "flip-shift:0" (mirrored only) or "none" in [retrain].'
            )

    def _moved_target(
        self,
        target: Target,
        axes: tuple[int, int],
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        mirrored: NDArray[np.bool_] | None,
    ) -> Target:
        values, weights = target
        labels = values.dtype.kind in "iub"
        if weights is None and self.reach and not labels:
            weights = np.ones(values.shape, np.float32)
        moved = self._windows(
            values.astype(np.int64) if labels else values, axes, rows, columns, mirrored, -1 if labels else 0
        )
        if weights is None:
            return Target(moved)
        spread = np.broadcast_to(weights, values.shape)
        return Target(moved, self._windows(spread, axes, rows, columns, mirrored, 0))

    def _moved(
        self,
        images: Array,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        mirrored: NDArray[np.bool_] | None,
    ) -> Array:
        """Images as (B, C, H, W) or (B, H, W, C)."""
        return self._windows(images, _image_axes(images), rows, columns, mirrored, 0)

    def _windows(
        self,
        arrays: Array,
        axes: tuple[int, int],
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        mirrored: NDArray[np.bool_] | None,
        fill: int,
    ) -> Array:
        """The window of each array, padded with `fill` along two axes, that starts at (rows, columns)."""
        height, width = (arrays.shape[axis] for axis in axes)
        grown = [n + 2 * self.reach if axis in axes else n for axis, n in enumerate(arrays.shape)]
        padded = np.full(grown, fill, arrays.dtype)
        inner = [slice(None)] * arrays.ndim
        inner[axes[0]] = slice(self.reach, self.reach + height)
        inner[axes[1]] = slice(self.reach, self.reach + width)
        padded[tuple(inner)] = arrays
        # (B, the other axes' places, windows along both axes): one strided copy per array.
        windows = sliding_window_view(padded, (height, width), axes)
        where: list[Any] = [slice(None)] * arrays.ndim
        where[0], where[axes[0]], where[axes[1]] = np.arange(len(arrays)), rows, columns
        moved: Array = windows[tuple(where)]
        if mirrored is not None:
            moved[mirrored] = moved[mirrored][..., ::-1]
        return np.moveaxis(moved, (-2, -1), axes)


@dataclass(frozen=True)
class TimeShift:
    """Sounds move along time by up to `share` of their length, in even steps; inputs of one example alike.

    View v moves by share * (v - 8) / 8 of the length. What enters is silence: zeros in a waveform, the
    example's least value in features.
    """

    share: float = _USUAL_SHARE

    @property
    def views(self) -> int:
        """How many views an example has."""
        return 2 * _STEPS + 1

    @property
    def unmoved(self) -> int:
        """The number of the view that is the example as given."""
        return _STEPS

    def __call__(self, batch: Batch, rng: np.random.Generator) -> tuple[Batch, NDArray[np.int64] | None]:
        """See `Augmentation`.

        Raises:
            AdapterError: no input is a sound, or the task does not say that a target stays.
        """
        if not batch.time:
            raise AdapterError(
                "time-shift is for inputs that the task file says are sounds ([task.audio]); set augment = "
                '"shift", "flip-shift" or "none" in [retrain].'
            )
        named = batch.targets if isinstance(batch.targets, Mapping) else {}
        moving = sorted(name for name in named if batch.spatial.get(name, ()) is not None)
        if moving:
            raise AdapterError(
                f"time-shift would move the sounds but not their targets for {moving[0]!r}; where these stay "
                'as they are, set moves = false in [task], else augment = "none" in [retrain].'
            )
        numbers = rng.integers(0, self.views, (batch.size, 1))[:, 0]
        inputs = {
            name: self._moved(array, batch.time[name], numbers) if name in batch.time else array
            for name, array in batch.inputs.items()
        }
        return Batch(inputs, batch.targets, batch.size, batch.spatial, batch.time), numbers

    def _moved(self, sounds: Array, axis: int, numbers: NDArray[np.int64]) -> Array:
        length = sounds.shape[axis]
        by = np.rint(self.share * length * (numbers - _STEPS) / _STEPS).astype(np.int64)
        rows = np.moveaxis(sounds, axis, -1)
        moved = np.empty_like(rows)
        waveform = rows[0].size == length
        for row, into, step in zip(rows, moved, by, strict=True):
            into[...] = 0 if waveform else row.min()
            if step >= 0:
                into[..., step:] = row[..., : length - step]
            else:
                into[..., :step] = row[..., -step:]
        return np.ascontiguousarray(np.moveaxis(moved, -1, axis))


def _image_axes(images: Array) -> tuple[int, int]:
    """Rows and columns of (B, C, H, W) or (B, H, W, C)."""
    last = images.shape[3] in _IMAGE_CHANNELS and images.shape[1] not in _IMAGE_CHANNELS
    return (1, 2) if last else (2, 3)


def _size(images: Array) -> tuple[int, int]:
    rows, columns = _image_axes(images)
    return images.shape[rows], images.shape[columns]


def read_augmentation(name: str) -> Augmentation | TimeShift:
    """The augmentation of a name: "none", "shift", "flip-shift", or one of these two with the reach in
    pixels, such as "flip-shift:4" (2 where none is given), and with the number of views to use, such as
    "flip-shift:4/16"; of sounds "time-shift", also with a share of their length, "time-shift:0.05" (0.1).

    Raises:
        AdapterError: there is none of that name.
    """
    if name == "none":
        return Augmentation()
    if timed := _TIME_NAME.fullmatch(name):
        share = float(timed[1] or _USUAL_SHARE)
        if share > 0:
            return TimeShift(share)
    found = _NAME.fullmatch(name)
    reach = int(found[2] or _USUAL_REACH) if found else 0
    most = int(found[3]) if found and found[3] else None
    if found is None or reach > _LARGEST_REACH or most == 0:
        raise AdapterError(
            f"Unknown augmentation {name!r}; there are: none, shift, flip-shift, and these two "
            f"with the most pixels to move by, at most {_LARGEST_REACH}, such as flip-shift:4, and the "
            "number of views to use of each image, such as flip-shift:4/16; and of sounds time-shift, also "
            "with the share of their length to move by, such as time-shift:0.1."
        )
    return Augmentation(reach, found[1] is not None, most)
