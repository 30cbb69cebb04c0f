"""Recognising numbers without keeping them: a tensor as a few sums that tell it from any other.

A sketch is the norm of a tensor, its inner products with four fixed waves and its first four numbers. Two
tensors that differ by rounding have sketches alike; one weight that is off by a thousandth of the norm shows.
Exact digests would not do: exporters fold normalisations with another order of operations than ours.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Sketch = NDArray[np.float64]
"""Shape (9,): norm, four inner products, four numbers."""

SIZE = 9
_WAVES = (0.7390851, 1.3247179, 2.2360679, 2.6651441)
"""Radians per element; any that are no simple fractions of a circle."""
_TOLERANCE = 4e-6
"""Of the norm: float32 rounding adds up to a tenth of it."""


def sketch(array: NDArray[np.generic]) -> Sketch:
    """The sketch of an array of any shape, its elements in C order."""
    flat = np.ascontiguousarray(array).reshape(-1).astype(np.float64)
    places = np.arange(1, flat.size + 1, dtype=np.float64)
    found = np.zeros(SIZE, dtype=np.float64)
    found[0] = np.linalg.norm(flat)
    found[1:5] = [flat @ np.cos(places * wave) for wave in _WAVES]
    found[5 : 5 + min(4, flat.size)] = flat[:4]
    return found


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is of floating point, as numpy and ml_dtypes know it."""
    return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def starts_like(one: Sketch, array: NDArray[np.generic]) -> bool:
    """Whether an array may have a sketch: a look at its first numbers, which costs nothing."""
    head = np.ascontiguousarray(array.reshape(-1)[:4]).astype(np.float64)
    return bool(np.all(np.abs(one[5 : 5 + head.size] - head) <= _TOLERANCE * one[0]))


def is_same(one: Sketch, other: Sketch) -> bool:
    """Whether two sketches are of the same numbers, but for rounding."""
    return bool(np.all(np.abs(one - other) <= _TOLERANCE * max(one[0], other[0])))
