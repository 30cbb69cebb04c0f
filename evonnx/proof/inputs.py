"""What the proof feeds: sizes that the model accepts on its dynamic axes, and random inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from evonnx.network import Array
from evonnx.sessions import InputSpec, random_array

Shapes = Mapping[str, tuple[int, ...]]
"""Concrete shape by input name."""

_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
_INDEX_KEEPING = ("Cast", "Identity", "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Slice", "Expand", "Clip")

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


@dataclass(frozen=True)
class Source:
    """What an integer input is, from what the graph does with it and from its name."""

    kind: Literal["ids", "positions", "mask"]
    below: int = 2
    """Ids are smaller: rows of the smallest table that they are looked up in."""


def sources_of(model: onnx.ModelProto) -> dict[str, Source]:
    """What the integer inputs of a model are, as far as it shows: rows of a table, positions, masks."""
    rows = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    reached = {
        value.name: {value.name}
        for value in model.graph.input
        if value.type.tensor_type.elem_type in _INTEGERS and value.name not in rows
    }
    tables: dict[str, int] = {}
    for node in model.graph.node:
        for name, names in reached.items():
            if node.op_type in _INDEX_KEEPING and node.input and node.input[0] in names:
                names.update(node.output)
            if node.op_type == "Gather" and node.input[1] in names and node.input[0] in rows:
                axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
                tables[name] = min(rows[node.input[0]][axis], tables.get(name, 1 << 31))
    found: dict[str, Source] = {}
    for name in reached:
        if "mask" in name.lower():
            found[name] = Source("mask")
        elif name in tables:
            found[name] = Source("positions" if "position" in name.lower() else "ids", tables[name])
    return found


def feed(
    specs: Sequence[InputSpec],
    shapes: Shapes,
    rng: np.random.Generator,
    scale: float,
    sources: Mapping[str, Source] | None = None,
) -> dict[str, Array]:
    """Random inputs; floats get a level per example and channel on top, which survives averaging.

    Args:
        specs: the inputs.
        shapes: concrete, by name.
        rng: of the draws.
        scale: standard deviation of floating-point inputs.
        sources: what integer inputs are; others get 0 or 1, or any 8-bit value.
    """
    feeds: dict[str, Array] = {}
    for spec in specs:
        source = (sources or {}).get(spec.name)
        if source is not None:
            feeds[spec.name] = _integers(source, shapes[spec.name], rng).astype(spec.dtype)
            continue
        values = random_array(spec, shapes[spec.name], rng, scale)
        if values.ndim > 2 and values.dtype.kind == "f":
            level = scale * rng.standard_normal(values.shape[:2] + (1,) * (values.ndim - 2))
            values = np.add(values, level).astype(spec.dtype)
        feeds[spec.name] = values
    return feeds


def _integers(source: Source, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if source.kind == "ids":
        return rng.integers(0, source.below, size=shape)
    if not shape:
        return np.ones((), dtype=np.int64)
    places = np.broadcast_to(np.arange(shape[-1]), shape)
    if source.kind == "positions":
        return places % source.below
    # A mask leaves at least half of every sequence, from its start, as padding at the end does.
    lengths = rng.integers((shape[-1] + 1) // 2, shape[-1] + 1, size=(*shape[:-1], 1))
    return (places < lengths).astype(np.int64)


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
