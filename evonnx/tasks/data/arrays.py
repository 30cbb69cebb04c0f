"""Arrays out of .npz, IDX, CIFAR-10 and STL-10 files that are not trusted to say how large they are.

A size is believed only after it has been held against the file and the memory limit; nothing is unpickled.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array

GIB = 2**30
_CHUNK = 2**20

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Type code of an IDX header (third byte) -> numpy dtype, as the MNIST page gives them."""

CIFAR10_RECORD = 1 + 3 * 32 * 32
STL10_IMAGE = 3 * 96 * 96


def human(size: int) -> str:
    """A byte count for people."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB // 10 else f"{size:,} bytes"


def check_size(size: int, limit: int, what: str) -> None:
    """Refuse what would not fit before any of it is allocated.

    Raises:
        TaskError: `size` is above `limit` (both in bytes).
    """
    if size > limit:
        raise TaskError(
            f"{what} says that it holds {human(size)}, more than the limit of {human(limit)}. Is the file "
            "damaged? "
            "If the data really is that large, raise `memory_gib` in [task]."
        )


def npz_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an .npz file.

    Raises:
        TaskError: the file is not an .npz file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise TaskError(f"{path} is not a readable .npz file: {error}.") from error


def read_npz(path: Path, name: str, limit: int) -> Array:
    """One array of an .npz file; `limit` in bytes.

    Raises:
        TaskError: no such array, pickled objects, damaged, or larger than the limit or than it can be.
    """
    names = npz_names(path)
    if name not in names:
        raise TaskError(f"{path} has no array {name!r}; it has {', '.join(names) or 'none'}.")
    what = f"{path}, array {name!r},"
    try:
        with zipfile.ZipFile(path) as archive:
            member = name + ".npy" if name + ".npy" in archive.namelist() else name
            with archive.open(member) as file:
                size = _npy_size(file, what)
                start = file.tell()
            check_size(size, limit, what)
            if start + size != archive.getinfo(member).file_size:
                raise TaskError(
                    f"{what} is damaged: its header promises {human(size)} and the file does not hold that."
                )
            with archive.open(member) as file:
                array: Array = np.lib.format.read_array(file, allow_pickle=False)
                return array
    except (
        OSError,
        ValueError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise TaskError(f"{what} cannot be read: {error}.") from error


def _npy_size(file: IO[bytes], what: str) -> int:
    """Bytes of data after the header, by the header."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"its .npy version is {version}, not 1.0 or 2.0")
    except Exception as error:  # a damaged header makes numpy's parser raise errors of many kinds
        raise TaskError(f"{what} cannot be read: {error}. Save it again with numpy.savez.") from error
    if dtype.hasobject:
        raise TaskError(
            f"{what} holds pickled Python objects, which are never loaded because they can run code. "
            "Save a plain numeric array."
        )
    return math.prod(shape) * dtype.itemsize


def read_idx(path: Path, limit: int) -> Array:
    """The array of an IDX file, plain or gzipped; `limit` in bytes.

    Raises:
        TaskError: not IDX, truncated, or larger than the limit or than the file.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        if packed:
            with gzip.GzipFile(path) as unpacked:
                return _read_idx(unpacked, path, limit, None)
        with path.open("rb") as file:
            return _read_idx(file, path, limit, path.stat().st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read: {error}.") from error


def _read_idx(file: BinaryIO | gzip.GzipFile, path: Path, limit: int, file_size: int | None) -> Array:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_DTYPES or head[3] == 0:
        raise TaskError(f"{path} is not an IDX file: its first bytes are {head.hex() or 'missing'}.")
    dimensions = head[3]
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise TaskError(f"{path} ends inside its IDX header.")
    shape = tuple(int.from_bytes(sizes[4 * axis : 4 * axis + 4], "big") for axis in range(dimensions))
    dtype = np.dtype(IDX_DTYPES[head[2]])
    size = math.prod(shape) * dtype.itemsize
    check_size(size, limit, f"{path}, of shape {list(shape)},")
    if file_size is not None and file_size != 4 + 4 * dimensions + size:
        raise TaskError(
            f"{path} is damaged: its header {list(shape)} promises {human(size)} of data, "
            f"the file holds {human(file_size - 4 - 4 * dimensions)}."
        )
    data = bytearray()
    while len(data) <= size and (piece := file.read(min(_CHUNK, size + 1 - len(data)))):
        data += piece
    if len(data) != size:
        more = "more than" if len(data) > size else f"{human(len(data))} instead of"
        raise TaskError(f"{path} is damaged: it holds {more} the {human(size)} that its header promises.")
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def read_cifar10(paths: Sequence[Path], limit: int) -> tuple[Array, NDArray[np.int64]]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) of CIFAR-10 binary files, in order; `limit` in bytes.

    Raises:
        TaskError: a file is not made of whole 3073-byte records, or all are larger than the limit.
    """
    sizes = [path.stat().st_size for path in paths]
    check_size(sum(sizes), limit, ", ".join(path.name for path in paths))
    for path, size in zip(paths, sizes, strict=True):
        if size == 0 or size % CIFAR10_RECORD:
            raise TaskError(
                f"{path} is not a CIFAR-10 binary file: {size:,} bytes are not a whole number of "
                f"{CIFAR10_RECORD}-byte records."
            )
    records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, CIFAR10_RECORD) for path in paths])
    images: Array = records[:, 1:].reshape(-1, 3, 32, 32)
    return images, records[:, 0].astype(np.int64)


def read_stl10(images: Path, labels: Path | None, limit: int) -> tuple[Array, NDArray[np.int64] | None]:
    """Images (N, 3, 96, 96) uint8 and labels (N,) from 0 of STL-10's binary files; `limit` in bytes.

    The files hold each image channel by channel and each channel column by column, and labels from 1 to 10
    (https://cs.stanford.edu/~acoates/stl10). The images are a view with rows before columns.

    Raises:
        TaskError: the images are not whole, larger than the limit, or not as many as the labels; a label is
            not from 1 to 10.
    """
    size = images.stat().st_size
    check_size(size, limit, images.name)
    if size == 0 or size % STL10_IMAGE:
        raise TaskError(
            f"{images} is not an STL-10 file of images: {size:,} bytes are not a whole number of "
            f"{STL10_IMAGE:,}-byte images."
        )
    count = size // STL10_IMAGE
    answers = None
    if labels is not None:
        if labels.stat().st_size != count:
            raise TaskError(
                f"{labels} holds {labels.stat().st_size:,} labels of one byte, but {images.name} holds "
                f"{count:,} images; there must be one each."
            )
        answers = np.fromfile(labels, np.uint8, count).astype(np.int64) - 1
        wrong = (answers < 0) | (answers > 9)
        if wrong.any():
            index = int(np.argmax(wrong))
            raise TaskError(
                f"{labels}: label {answers[index] + 1} at index {index}; STL-10's are from 1 to 10."
            )
    columns_first = np.fromfile(images, np.uint8, size).reshape(count, 3, 96, 96)
    return columns_first.transpose(0, 1, 3, 2), answers
