"""How large the slices of a tensor are, or how far two tensors are apart in each of them.

*Levels* are the largest magnitudes of the whole tensor and of its slices across every axis, where these have
enough elements to have a level of their own; each broadcasts to the tensor. There is at least one entry, [0]
for an empty tensor. They are found in one pass over memory, block by block, since a tensor of magnitudes
that does not fit a cache takes longer to write and read again than to make.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Array

Floats = NDArray[np.floating[Any]]

_ENOUGH = 16
"""Elements that a slice needs to have a level of its own."""
_BLOCK = 1 << 17
"""Elements looked at together."""


def sizes_of(array: Array) -> list[Floats]:
    """Levels of a tensor; what is not finite shows in the first, and makes others meaningless."""
    return _levels(array.shape, array.dtype, [array])


def gaps_between(one: Array, other: Array) -> list[Floats]:
    """Levels of the difference of two tensors of one shape, in the second's type; as for `sizes_of`."""
    return _levels(other.shape, other.dtype, [one, other])


def is_finite(levels: list[Floats]) -> bool:
    """Whether what levels are of was finite throughout."""
    return bool(np.isfinite(levels[0]).all())


def _levels(shape: tuple[int, ...], dtype: np.dtype[Any], terms: list[Array]) -> list[Floats]:
    rank, size = len(shape), math.prod(shape)
    if not size or rank < 2:
        largest = (
            np.zeros(1, dtype) if not size else _of_rows([one.reshape(1, -1) for one in terms], dtype)[0]
        )
        return [largest.reshape([1] * rank)]
    # Halves of the axes are reduced at once: going through a large tensor axis by axis takes several times as
    # long.
    cut = _middle(shape)
    ahead, behind = shape[:cut], shape[cut:]
    rows, columns = _of_rows([one.reshape(math.prod(ahead), -1) for one in terms], dtype)
    axes = [*_by_axis(rows.reshape(ahead)), *_by_axis(columns.reshape(behind))]
    return [
        rows.max().reshape([1] * rank),
        *(
            largest.reshape([-1 if other == axis else 1 for other in range(rank)])
            for axis, largest in enumerate(axes)
            if largest.size > 1 and size >= _ENOUGH * largest.size
        ),
    ]


def _of_rows(terms: list[Array], dtype: np.dtype[Any]) -> tuple[Floats, Floats]:
    """The largest magnitude in every row and in every column of a matrix, or of the difference of two."""
    count, width = terms[0].shape
    rows, columns = np.empty(count, dtype), np.zeros(width, dtype)
    step = min(count, max(1, _BLOCK // width))
    room = np.empty((step, width), dtype)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is for whoever asked to look into
        for part in _parts(count, step):
            block = room[: part.stop - part.start]
            if len(terms) == 2:
                np.subtract(terms[0][part], terms[1][part], out=block)
                np.abs(block, out=block)
            else:
                np.abs(terms[0][part], out=block)
            block.max(axis=1, out=rows[part])
            np.maximum(columns, block.max(axis=0), out=columns)
    return rows, columns


def _parts(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _middle(shape: tuple[int, ...]) -> int:
    """Where to cut a shape in two, so that neither part has many elements."""
    return min(range(1, len(shape)), key=lambda at: max(math.prod(shape[:at]), math.prod(shape[at:])))


def _by_axis(array: Floats) -> list[Floats]:
    """The largest of every slice, axis by axis."""
    shape = array.shape
    if len(shape) == 1:
        return [array]
    cut = _middle(shape)
    flat = array.reshape(math.prod(shape[:cut]), -1)
    return [
        *_by_axis(flat.max(axis=1).reshape(shape[:cut])),
        *_by_axis(flat.max(axis=0).reshape(shape[cut:])),
    ]
