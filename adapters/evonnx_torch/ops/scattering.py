"""GatherND, ScatterND and ScatterElements: reads and writes at index tuples.

Indices may be data; gradients pass to what is kept and to what is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder

_REDUCTIONS: dict[str, str] = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _places(index: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Index tuples on the last axis as row numbers of what `dims` flattens to; negative entries count from
    the end."""
    rows = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
    for i, dim in enumerate(dims):
        entry = index[..., i].to(torch.int64)
        rows = rows * dim + torch.where(entry < 0, entry + dim, entry)
    return rows


@builder("GatherND")
def gather_nd(call: Call) -> Emit:
    """The slices that index tuples name, after `batch_dims` shared axes."""
    batch, dims, shape = int(call.attr("batch_dims", 0)), call.shape(0), call.shape(1)
    depth = shape[-1]
    lead, inner, rest = dims[:batch], dims[batch : batch + depth], dims[batch + depth :]
    batches, rows = math.prod(lead), math.prod(inner)
    target = (*shape[:-1], *rest)

    def kernel(x: Tensor, index: Tensor) -> Tensor:
        places = _places(index, inner).reshape(batches, -1)
        offsets = torch.arange(batches, device=places.device)[:, None] * rows
        flat = x.reshape(batches * rows, *rest)
        return flat.index_select(0, (places + offsets).reshape(-1)).reshape(target)

    return call.emit(kernel, 0, 1)


@builder("ScatterND")
def scatter_nd(call: Call) -> Emit:
    """A copy with slices replaced (or combined) at index tuples."""
    dims, depth = call.shape(0), call.shape(1)[-1]
    inner = dims[:depth]
    rows = math.prod(inner)
    write = _row_writer(call.attr("reduction", "none"))

    def kernel(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        places = _places(index, inner).reshape(-1)
        flat = x.reshape(rows, -1)
        return write(flat, places, updates.reshape(len(places), flat.shape[1])).reshape(dims)

    return call.emit(kernel, 0, 1, 2)


def _row_writer(reduction: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if reduction == "none":
        return lambda x, places, updates: x.index_copy(0, places, updates)
    if reduction == "add":
        return lambda x, places, updates: x.index_add(0, places, updates)
    if reduction not in _REDUCTIONS:
        raise Unsupported(f"reduction {reduction!r}")
    how = _REDUCTIONS[reduction]
    return lambda x, places, updates: x.scatter_reduce(0, places[:, None].expand_as(updates), updates, how)


@builder("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Emit:
    """A copy with single entries replaced (or combined) along an axis."""
    axis, reduction = call.axis(int(call.attr("axis", 0))), call.attr("reduction", "none")
    size = call.shape(0)[axis]
    if reduction != "none" and reduction not in _REDUCTIONS:
        raise Unsupported(f"reduction {reduction!r}")
    how = _REDUCTIONS.get(reduction)

    def kernel(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        places = torch.where(index < 0, index + size, index).to(torch.int64)
        if how is None:
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, how)

    return call.emit(kernel, 0, 1, 2)
