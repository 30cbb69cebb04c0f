"""What a session must be fed, and random values for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from evonnx.errors import ModelError
from evonnx.network import Array

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bool)": np.dtype(np.bool_),
    **{f"tensor({kind})": np.dtype(kind) for kind in ("int8", "int16", "int32", "int64")},
    **{f"tensor({kind})": np.dtype(kind) for kind in ("uint8", "uint16", "uint32", "uint64")},
}
_LARGEST_INPUT_BYTES = 1 << 29
"""Files are not trusted to say what is drawn for one input of one run."""


@dataclass(frozen=True)
class InputSpec:
    """One input that a session must be fed."""

    name: str
    shape: tuple[int | str | None, ...]
    """Dimensions; a string or None is dynamic."""
    dtype: np.dtype[Any]


def input_specs(session: Any) -> tuple[InputSpec, ...]:
    """The inputs a session must be fed (initializers that are also listed as inputs are not among them).

    Raises:
        ModelError: an input is not a numeric tensor.
    """
    return tuple(
        InputSpec(value.name, tuple(value.shape), _dtype_of(value.name, value.type))
        for value in session.get_inputs()
    )


def _dtype_of(name: str, kind: str) -> np.dtype[Any]:
    if kind not in _DTYPES:
        raise ModelError(f"Input {name!r} is {kind}; only numeric tensor inputs can be fed.")
    return _DTYPES[kind]


def concrete_shape(
    spec: InputSpec, sizes: Mapping[str, int] | None = None, batch: int = 1
) -> tuple[int, ...]:
    """A spec's shape with dynamic dimensions filled: by name from `sizes`, axis 0 with `batch`, else 1."""
    known = sizes or {}
    return tuple(
        dim if isinstance(dim, int) else known.get(dim or "", batch if axis == 0 else 1)
        for axis, dim in enumerate(spec.shape)
    )


def random_array(
    spec: InputSpec, shape: Sequence[int], rng: np.random.Generator, scale: float = 1.0
) -> Array:
    """Normal values of standard deviation `scale` for floats, 0 .. 255 for 8-bit, 0 or 1 for other integers.

    Wider integers are mostly ids and flags, where only small values are safe.

    Raises:
        ModelError: it would take more than 512 MiB.
    """
    size = tuple(shape)
    if math.prod(size) * spec.dtype.itemsize > _LARGEST_INPUT_BYTES:
        raise ModelError(
            f"Input {spec.name!r} of shape {list(size)} would take more than "
            f"{_LARGEST_INPUT_BYTES >> 20} MiB. If its axes are dynamic, give smaller ones with "
            "--input-shape; otherwise export the model for smaller inputs."
        )
    if spec.dtype.kind in "iu":
        high = 256 if spec.dtype == np.uint8 else 128 if spec.dtype == np.int8 else 2
        return rng.integers(0, high, size=size).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return rng.integers(0, 2, size=size).astype(np.bool_)
    return (scale * rng.standard_normal(size)).astype(spec.dtype)
