"""What the proof feeds: sizes that the model accepts on its dynamic axes, and random inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evonnx.network import Array
from evonnx.sessions import InputSpec, random_array

Shapes = Mapping[str, tuple[int, ...]]
"""Concrete shape by input name."""

_EXTENTS = (32, 64, 16, 96, 128, 224, 8, 320, 512, 576, 4, 2, 1)
"""Tried in turn for dynamic axes other than the batch, until the model runs."""


def has_dynamic_axes(specs: Sequence[InputSpec]) -> bool:
    """Whether any input may be fed in more than one shape."""
    return any(not isinstance(dim, int) for spec in specs for dim in spec.shape)


def first_sizes(specs: Sequence[InputSpec], given: Mapping[str, Sequence[int]]) -> Iterator[Shapes]:
    """Candidates for the first size, likeliest first: what was given, or a batch of 1 at usual extents.

    Extents of 1 are what a loader fills in where nothing is known, so they come last.
    """
    axes = _batch_axes(specs)
    complete = all(spec.name in given for spec in specs)
    chosen = {spec.name: tuple(given[spec.name]) for spec in specs} if complete else _shapes(specs, 1, 1)
    filled = all(
        isinstance(dim, int) or axis in axes[spec.name] or size > 1
        for spec in specs
        for axis, (dim, size) in enumerate(zip(spec.shape, chosen[spec.name], strict=True))
    )
    if filled:
        yield chosen
    if has_dynamic_axes(specs):
        for extent in _EXTENTS:
            yield _shapes(specs, 1, extent)
    if not filled:
        yield chosen


def second_sizes(specs: Sequence[InputSpec], first: Shapes) -> Iterator[Shapes]:
    """Candidates for a second size: another batch and other extents, then only one of the two."""
    if not has_dynamic_axes(specs):
        return
    grown, doubled = _grown(specs, first, 32), _grown(specs, first, 0)
    for batch in (3, 2):
        for base in (grown, doubled, first):
            yield _with_batch(specs, base, batch)
    yield grown
    yield doubled


def feed(
    specs: Sequence[InputSpec], shapes: Shapes, rng: np.random.Generator, scale: float
) -> dict[str, Array]:
    """Random inputs; floats get a level per example and channel on top, which survives averaging."""
    feeds: dict[str, Array] = {}
    for spec in specs:
        values = random_array(spec, shapes[spec.name], rng, scale)
        if values.ndim > 2 and values.dtype.kind == "f":
            level = scale * rng.standard_normal(values.shape[:2] + (1,) * (values.ndim - 2))
            values = np.add(values, level).astype(spec.dtype)
        feeds[spec.name] = values
    return feeds


def _batch_axes(specs: Sequence[InputSpec]) -> dict[str, set[int]]:
    """Axes that carry the batch: dynamic first axes, axes that share a symbol with one, and the second axis
    of (layers, batch, width), as recurrent states have it."""
    symbols = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    return {
        spec.name: {
            axis
            for axis, dim in enumerate(spec.shape)
            if (isinstance(dim, str) and dim in symbols)
            or (axis == 0 and not isinstance(dim, int))
            or (axis == 1 and dim is None and len(spec.shape) == 3 and isinstance(spec.shape[2], int))
        }
        for spec in specs
    }


def _shapes(specs: Sequence[InputSpec], batch: int, extent: int) -> Shapes:
    axes = _batch_axes(specs)
    return {
        spec.name: tuple(
            dim if isinstance(dim, int) else batch if axis in axes[spec.name] else extent
            for axis, dim in enumerate(spec.shape)
        )
        for spec in specs
    }


def _grown(specs: Sequence[InputSpec], shapes: Shapes, by: int) -> Shapes:
    """Dynamic axes other than the batch, larger by a number of steps, or doubled where that is 0."""
    axes = _batch_axes(specs)
    return {
        spec.name: tuple(
            size if isinstance(dim, int) or axis in axes[spec.name] else size + by if by else 2 * size
            for axis, (dim, size) in enumerate(zip(spec.shape, shapes[spec.name], strict=True))
        )
        for spec in specs
    }


def _with_batch(specs: Sequence[InputSpec], base: Shapes, batch: int) -> Shapes:
    axes = _batch_axes(specs)
    return {
        spec.name: tuple(
            batch if axis in axes[spec.name] else size for axis, size in enumerate(base[spec.name])
        )
        for spec in specs
    }
