"""Augmentation: images moved by a few pixels and mirrored.

An example has finitely many views, each with a number, so that whoever computes something per view (the
teacher's outputs) can keep it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx.task import Batch

_USUAL_REACH = 2
_LARGEST_REACH = 32
_NAME = re.compile(r"(flip-)?shift(?::(\d{1,3}))?(?:/(\d{1,4}))?")
_IMAGE_CHANNELS = (1, 3)


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

        All images of one example (inputs of rank 4) get the same view.

        Raises:
            AdapterError: targets are given by output, so they may be places in the image, which would not
                move along.
        """
        if self.views == 1 or not any(np.ndim(array) == 4 for array in batch.inputs.values()):
            return batch, None
        if isinstance(batch.targets, Mapping):
            raise AdapterError(
                'Augmentation would move the images but not their targets; set augment = "none" in [retrain].'
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
        return Batch(inputs, batch.targets, batch.size), numbers

    def _moved(
        self,
        images: Array,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        mirrored: NDArray[np.bool_] | None,
    ) -> Array:
        """The window of each padded image that starts at (rows, columns); images as (B, C, H, W) or
        (B, H, W, C)."""
        last = images.shape[3] in _IMAGE_CHANNELS and images.shape[1] not in _IMAGE_CHANNELS
        axes = (1, 2) if last else (2, 3)
        height, width = (images.shape[axis] for axis in axes)
        grown = [n + 2 * self.reach if axis in axes else n for axis, n in enumerate(images.shape)]
        padded = np.zeros(grown, images.dtype)
        inner = slice(self.reach, self.reach + height), slice(self.reach, self.reach + width)
        padded[(slice(None), *inner) if last else (slice(None), slice(None), *inner)] = images
        # (B, the two other axes' places, windows along both axes): one strided copy per image.
        windows = sliding_window_view(padded, (height, width), axes)
        examples = np.arange(len(images))
        moved: Array = windows[examples, rows, columns] if last else windows[examples, :, rows, columns]
        if mirrored is not None:
            moved[mirrored] = moved[mirrored][..., ::-1]
        return np.moveaxis(moved, 1, 3) if last else moved


def read_augmentation(name: str) -> Augmentation:
    """The augmentation of a name: "none", "shift", "flip-shift", or one of these two with the reach in
    pixels, such as "flip-shift:4" (2 where none is given), and with the number of views to use, such as
    "flip-shift:4/16".

    Raises:
        AdapterError: there is none of that name.
    """
    if name == "none":
        return Augmentation()
    found = _NAME.fullmatch(name)
    reach = int(found[2] or _USUAL_REACH) if found else 0
    most = int(found[3]) if found and found[3] else None
    if found is None or reach > _LARGEST_REACH or most == 0:
        raise AdapterError(
            f"Unknown augmentation {name!r}; there are: none, shift, flip-shift, and these two "
            f"with the most pixels to move by, at most {_LARGEST_REACH}, such as flip-shift:4, and the "
            "number of views to use of each image, such as flip-shift:4/16."
        )
    return Augmentation(reach, found[1] is not None, most)
