"""Image folders: one sub-folder per class (or none, where labels are not wanted). Needs Pillow."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array
from evonnx.tasks.data.geometry import Geometry

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""By what a file holds, whatever its name is. Pillow knows others, of which EPS starts another program."""
_DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, AttributeError, TypeError),
    *(NotImplementedError, struct.error, zlib.error),
)
"""What Pillow's decoders raise over damaged files."""

CACHE_BYTES = 2**29
"""Decoded images up to this size are kept in memory; a larger folder is decoded anew in every pass."""


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def class_folders(folder: Path, fits: Callable[[Path], bool] = is_image) -> list[Path]:
    """Sub-folders that hold at least one file that fits (an image), by name."""
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [path for path in found if any(fits(file) for file in path.iterdir())]


def label_names(names: Sequence[str]) -> dict[str, int]:
    """Class index by folder name: the number where every name is one, else the place in sorted order."""
    if all(name.isascii() and name.isdigit() for name in names):
        return {name: int(name) for name in names}
    return {name: index for index, name in enumerate(sorted(names))}


class Pictures(Protocol):
    """Image files, wherever they are stored."""

    def __len__(self) -> int: ...

    def opened(self, index: int) -> AbstractContextManager[Any]:
        """One of them as a Pillow image; nothing is decoded before its pixels are asked for.

        Raises:
            TaskError: it cannot be read, here or in the block; the message names it.
        """
        ...

    def name(self, index: int) -> str:
        """For messages."""
        ...

    def stream(self, index: int) -> Path | BinaryIO:
        """One of them as a file or its bytes, whatever they hold.

        Raises:
            TaskError: it is not there; the message names it.
        """
        ...


@dataclass(frozen=True)
class Files:
    """Pictures in files of their own."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def opened(self, index: int) -> AbstractContextManager[Any]:
        """See `Pictures`."""
        return opened_image(self.paths[index])

    def name(self, index: int) -> str:
        """The file."""
        return str(self.paths[index])

    def stream(self, index: int) -> Path | BinaryIO:
        """See `Pictures`."""
        return self.paths[index]


@dataclass
class ImageFolder:
    """Pictures decoded on demand to (height, width, channels) uint8."""

    pictures: Pictures
    geometry: Geometry
    channels: int

    def __post_init__(self) -> None:
        require_pillow()
        size = len(self.pictures) * int(np.prod(self.sample_shape))
        self._cache: NDArray[np.uint8] | None = None
        if size <= CACHE_BYTES:
            self._cache = np.zeros((len(self.pictures), *self.sample_shape), np.uint8)
        self._cached = np.zeros(len(self.pictures), np.bool_)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return (self.geometry.height, self.geometry.width, self.channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, indices: NDArray[np.int64]) -> Array:
        """Images by index: (len(indices), height, width, channels) uint8.

        Raises:
            TaskError: a file cannot be decoded; the message names it.
        """
        images = np.empty((len(indices), *self.sample_shape), np.uint8)
        for place, index in enumerate(indices):
            if self._cache is not None and self._cached[index]:
                images[place] = self._cache[index]
                continue
            images[place] = self._decode(int(index))
            if self._cache is not None:
                self._cache[index] = images[place]
                self._cached[index] = True
        return images

    def _decode(self, index: int) -> NDArray[np.uint8]:
        with self.pictures.opened(index) as image:
            plain = self.geometry(image.convert("L" if self.channels == 1 else "RGB"))
        return np.asarray(plain, np.uint8).reshape(self.sample_shape)


@contextmanager
def opened_image(path: Path | BinaryIO, name: str = "") -> Iterator[Any]:
    """An image file; nothing is decoded before its pixels are asked for.

    Raises:
        TaskError: Pillow is missing, or the file cannot be read, here or in the block; `name` is for the
            message where it is not the path.
    """
    pillow = require_pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path, formats=_FORMATS) as image:
                yield image
    except (*_DAMAGED, pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise TaskError(f"The image {name or path} cannot be read: {error}. Remove or replace it.") from error


def require_pillow() -> Any:
    """Pillow's Image module.

    Raises:
        TaskError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise TaskError(
            "Reading images needs Pillow, which is not installed: `pip install 'evonnx[images]'`, "
            "or give the data as an .npz file where the task reads those."
        ) from error
    return Image
