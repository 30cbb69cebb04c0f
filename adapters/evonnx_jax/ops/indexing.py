"""Operators that pick entries, and that put them somewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from evonnx_jax.ops._base import Call, Unsupported, operator


@operator("Slice")
def cut(call: Call) -> Array:
    """A range per axis, perhaps backwards."""
    x = call.data()
    starts, ends = call.ints_from("starts", 1) or (), call.ints_from("ends", 2) or ()
    axes = call.ints_from("axes", 3) or tuple(range(len(starts)))
    steps = call.ints(4) if call.has(4) else (1,) * len(starts)
    ranges = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = x.shape[axis % x.ndim]
        # A backwards range that ends before the first entry has no number for its end in Python.
        before_all = step < 0 and end < -length
        ranges[axis % x.ndim] = slice(start, None if before_all else end, step)
    return x[tuple(ranges)]


def _counted(places: Any, length: int) -> Array:
    """Places that count from the end too."""
    places = jnp.asarray(places)
    return jnp.where(places < 0, places + length, places)


@operator("Gather")
def gather(call: Call) -> Array:
    """Entries along an axis, by their places."""
    x, axis = call.data(), call.axis(0)
    return jnp.take(x, _counted(call.value(1), x.shape[axis]), axis, mode="clip")


@operator("GatherElements")
def gather_elements(call: Call) -> Array:
    """One entry along an axis for each place."""
    x, axis = call.data(), call.axis(0)
    places = _counted(call.value(1), x.shape[axis])
    # Along the other axes the places may be fewer than the entries.
    few = tuple(
        slice(None) if i == axis else slice(0, n) for i, n in zip(range(x.ndim), places.shape, strict=True)
    )
    return jnp.take_along_axis(x[few], places, axis)


@operator("GatherND")
def gather_nd(call: Call) -> Array:
    """Slices by tuples of places."""

    def pick(x: Array, places: Array) -> Array:
        return x[_tuple(places, x.shape)]

    for _ in range(int(call.attr("batch_dims", 0))):
        pick = jax.vmap(pick)
    return pick(call.data(0), call.data(1))


def _tuple(places: Array, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(_counted(places[..., i], shape[i]) for i in range(places.shape[-1]))


def _put(x: Array, where: tuple[Array, ...], values: Array, reduction: str) -> Array:
    at = x.at[where]
    kinds: dict[str, Callable[[Array], Array]] = {
        "none": at.set,
        "add": at.add,
        "mul": at.multiply,
        "max": at.max,
        "min": at.min,
    }
    if reduction not in kinds:
        raise Unsupported(f"reduction {reduction!r}")
    return kinds[reduction](values)


@operator("ScatterND")
def scatter_nd(call: Call) -> Array:
    """Slices put where tuples of places say."""
    x, places = call.data(0), call.data(1)
    return _put(x, _tuple(places, x.shape), call.data(2), call.attr("reduction", "none"))


@operator("ScatterElements")
def scatter_elements(call: Call) -> Array:
    """One entry along an axis put for each place."""
    x, axis = call.data(0), call.axis(0)
    places = call.data(1)
    where = [jnp.asarray(grid) for grid in np.indices(places.shape)]
    where[axis] = _counted(places, x.shape[axis])
    return _put(x, tuple(where), call.data(2), call.attr("reduction", "none"))


@operator("OneHot")
def one_hot(call: Call) -> Array:
    """`values[1]` where a place is named along a new axis, `values[0]` elsewhere."""
    places, (depth,), values = call.data(0), call.ints(1), call.data(2)
    axis = int(call.attr("axis", -1)) % (places.ndim + 1)
    named = jax.nn.one_hot(_counted(places.astype(jnp.int32), depth), depth, axis=axis, dtype=jnp.bool_)
    return jnp.where(named, values[1], values[0])
