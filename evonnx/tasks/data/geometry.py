"""How a picture becomes rows and columns of pixels: resized, then cut out of the middle.

`resize` is one number, to which the shorter side is brought with proportions kept, or [height, width] without
regard to them; what then is larger than the model's input is cut evenly on both sides. Without `resize` a
picture is brought to the input's size straight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array
from evonnx.tasks._settings import Settings

INTERPOLATIONS = ("bilinear", "nearest", "bicubic", "box", "lanczos")
LARGEST_SIDE = 2**15
"""Of a resized picture, in pixels: a narrow one could become as long as its file says."""


@dataclass(frozen=True)
class Geometry:
    """See the head of this module."""

    height: int
    width: int
    resize: int | tuple[int, int] | None = None
    """The shorter side, (height, width), or None: straight to the size."""
    interpolation: str = "bilinear"

    def __call__(self, image: Any, *, nearest: bool = False) -> Any:
        """A Pillow image of `width` x `height`; `nearest` for class indices, which have no mean.

        Raises:
            TaskError: what is resized is smaller than what is to be cut out of it, or too long.
        """
        ways = _ways()
        way = ways["nearest"] if nearest else ways[self.interpolation]
        width, height = self._resized(*image.size)
        if max(width, height) > LARGEST_SIDE:
            raise TaskError(
                f"A picture of {image.size[0]} x {image.size[1]} pixels would become {width} x {height}, "
                f"which is more than {LARGEST_SIDE} along a side; remove it, or set resize = [height, width]."
            )
        if (width, height) != image.size:
            image = image.resize((width, height), way)
        if (width, height) == (self.width, self.height):
            return image
        if width < self.width or height < self.height:
            raise TaskError(
                f"resize makes pictures of {height} x {width} pixels, from which {self.height} x "
                f"{self.width} cannot be cut; set a larger resize."
            )
        left, top = round((width - self.width) / 2), round((height - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after resizing."""
        if self.resize is None:
            return self.width, self.height
        if not isinstance(self.resize, int):
            return self.resize[1], self.resize[0]
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def arrays(self, stored: Array, *, channels_first: bool, nearest: bool = False) -> Array:
        """The same for (B, H, W), (B, H, W, C) or (B, C, H, W) arrays; dtypes stay.

        uint8 goes as it is, other numbers as float32, plane by plane.
        """
        from PIL import Image  # asked for by `read_geometry`

        planes = stored if channels_first or stored.ndim == 3 else np.moveaxis(stored, 3, 1)
        flat = planes.reshape(-1, *planes.shape[-2:])
        kind = np.uint8 if stored.dtype == np.uint8 else np.int32 if nearest else np.float32
        found = np.empty((len(flat), self.height, self.width), kind)
        for place, plane in enumerate(flat):
            found[place] = np.asarray(self(Image.fromarray(plane.astype(kind)), nearest=nearest))
        shaped = found.reshape(*planes.shape[:-2], self.height, self.width)
        if not channels_first and stored.ndim == 4:
            shaped = np.moveaxis(shaped, 1, 3)
        if stored.dtype.kind in "iu" and shaped.dtype.kind == "f":
            shaped = np.rint(shaped)
        return shaped.astype(stored.dtype, copy=False)


def _ways() -> dict[str, Any]:
    from PIL.Image import Resampling

    return {name: Resampling[name.upper()] for name in INTERPOLATIONS}


def read_geometry(settings: Settings, size: tuple[int, int]) -> Geometry:
    """What `resize` and `interpolation` say, towards (height, width) pixels.

    Raises:
        TaskError: a value is wrong.
    """
    given = settings.numbers("resize")
    resize: int | tuple[int, int] | None = None
    if given is not None:
        if len(given) > 2 or any(side < 1 or side != int(side) or side > LARGEST_SIDE for side in given):
            raise settings.wrong("resize", "the shorter side in pixels, or [height, width]")
        resize = int(given[0]) if len(given) == 1 else (int(given[0]), int(given[1]))
    interpolation = settings.text("interpolation", INTERPOLATIONS) or "bilinear"
    return Geometry(size[0], size[1], resize, interpolation)


@dataclass(frozen=True)
class FittedArrays:
    """Images of an array in memory, resized and cut as they are taken."""

    array: Array
    geometry: Geometry
    channels_first: bool

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one image, as stored but for its size."""
        size = (self.geometry.height, self.geometry.width)
        if self.array.ndim == 3:
            return size
        return (self.array.shape[1], *size) if self.channels_first else (*size, self.array.shape[3])

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def take(self, indices: NDArray[np.int64]) -> Array:
        """Images by index, in that order."""
        return self.geometry.arrays(self.array[indices], channels_first=self.channels_first)
