"""What rounding may do to a model, by way of example: results of models and inputs that are nudged a little.

Inputs alone do not tell: where signals have faded beside constants that cancel, what the sums of constants
lose shows only if weights are nudged too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evonnx.network import Array
from evonnx.onnx_io import Detached
from evonnx.proof.constants import Tensors, scattered
from evonnx.proof.copies import layer_constants

NUDGE = 1e-6
"""Relative change that stands for rounding: what sums in another order do to a layer."""
STEP_NUDGE = 1e-4
"""The same for inputs of quantised models: large enough that some numbers fall on another step."""


def nudged_weights(model: Detached, rng: np.random.Generator, size: float = NUDGE) -> Detached:
    """A copy whose layers' floating-point constants differ by a relative `size`; zeros stay zeros."""
    copy = model.copy()
    tensors = Tensors(copy)
    for name in layer_constants(copy):
        tensors.set(name, _nudged(tensors.get(name), rng, size))
    return copy


def nudged_inputs(
    feeds: Mapping[str, Array], rng: np.random.Generator, size: float = NUDGE
) -> dict[str, Array]:
    """Floating-point inputs that differ by a relative `size`; others as they are."""
    return {
        name: _nudged(array, rng, size) if array.dtype.kind == "f" else array for name, array in feeds.items()
    }


def _nudged(array: Array, rng: np.random.Generator, size: float) -> Array:
    moved = scattered(array, size, rng)
    np.multiply(moved, array, out=moved)
    return np.add(array, moved).astype(array.dtype, copy=False)
