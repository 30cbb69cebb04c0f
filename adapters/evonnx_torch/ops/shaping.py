"""Shapes and layouts. Shape and Size are known once input shapes are, so what is computed from them is a
constant."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder


@builder("Shape")
def shape(call: Call) -> Emit:
    """The operand's shape, from `start` to `end`."""
    dims = torch.tensor(call.shape(0)[call.attr("start", 0) : call.attr("end", None)], dtype=torch.int64)
    return Emit(lambda: dims, ())


@builder("Size")
def size(call: Call) -> Emit:
    """Number of elements."""
    count = torch.tensor(call.example(0).numel(), dtype=torch.int64)
    return Emit(lambda: count, ())


@builder("Reshape")
def reshape(call: Call) -> Emit:
    """To known dimensions; 0 copies one (unless allowzero), -1 takes the rest."""
    dims = list(call.ints_from("shape", 1) or ())
    # A target computed from run-time shapes follows the batch by itself.
    computed = len(call.inputs) > 1 and call.inputs[1] is not None and call.inputs[1].from_data
    before = None if computed or not call.batch else call.declared_shape
    if not call.attr("allowzero", 0):
        dims = [(before or call.shape(0))[i] if d == 0 else d for i, d in enumerate(dims)]
    if call.batch and before is not None:
        dims = _relaxed(dims, before, call.shape(0), *call.batch)
    if -1 in dims and math.prod(d for d in dims if d != -1) == 0:
        raise Unsupported("a -1 beside an empty dimension")
    target = tuple(dims)
    return call.emit(lambda x: x.reshape(target), 0)


def _relaxed(
    dims: list[int], before: tuple[int, ...], have: tuple[int, ...], declared: int, actual: int
) -> list[int]:
    """A target that was written for the declared batch, for the actual one: [1, 256] becomes [N, 256], and
    windows of images, [64, 49, 32], become [64 N, 49, 32].

    `before` and `have` are the operand's shapes for the declared and the actual batch. They differ in the
    axis that the batch leads; the target's entry that starts at the same place of the flat order takes it.
    Whether the batch did lead there is found out by comparing results (`feeding.accepted_chunk`).
    """
    axis = next((i for i, (b, h) in enumerate(zip(before, have, strict=True)) if b != h), None)
    if axis is None:
        return dims
    start, passed = math.prod(before[:axis]), 1
    known = math.prod(d for d in dims if d != -1)
    for place, dim in enumerate(dims):
        size = math.prod(before) // max(known, 1) if dim == -1 else dim
        if passed <= start < passed * size or (declared == 1 and passed == start):
            grown = -1 if dim == -1 else dim * actual // declared
            return [*dims[:place], grown, *dims[place + 1 :]]
        passed *= size
    return dims


@builder("Flatten")
def flatten(call: Call) -> Emit:
    """To two axes, split at `axis`."""
    axis = int(call.attr("axis", 1))
    dims = call.shape(0)
    axis = axis + len(dims) if axis < 0 else axis
    if axis == 1 and len(dims) > 1:
        return call.emit(lambda x: x.flatten(1))
    target = (math.prod(dims[:axis]), math.prod(dims[axis:]))
    return call.emit(lambda x: x.reshape(target))


@builder("Transpose")
def transpose(call: Call) -> Emit:
    """Permute axes; reversed by default."""
    order = tuple(call.attr("perm") or reversed(range(call.rank(0))))
    return call.emit(lambda x: x.permute(order))


@builder("Squeeze")
def squeeze(call: Call) -> Emit:
    """Drop axes of size 1."""
    axes = call.ints_from("axes", 1)
    dims = call.shape(0)
    drop = {call.axis(a) for a in axes} if axes is not None else {i for i, d in enumerate(dims) if d == 1}
    if any(dims[i] != 1 for i in drop):
        raise Unsupported(f"axes {sorted(drop)} of shape {list(dims)} are not all 1")
    target = tuple(d for i, d in enumerate(dims) if i not in drop)
    return call.emit(lambda x: x.reshape(target), 0)


@builder("Unsqueeze")
def unsqueeze(call: Call) -> Emit:
    """Insert axes of size 1; indices refer to the result."""
    axes = call.ints_from("axes", 1) or ()
    rank = call.rank(0) + len(axes)
    places = {a % rank for a in axes}
    rest = iter(call.shape(0))
    target = tuple(1 if i in places else next(rest) for i in range(rank))
    return call.emit(lambda x: x.reshape(target), 0)


@builder("Concat")
def concat(call: Call) -> Emit:
    """Join along an axis."""
    axis = int(call.attr("axis", 1))
    return call.emit(lambda *operands: torch.cat(operands, axis))


@builder("Split")
def split(call: Call) -> Emit:
    """Cut along an axis: into given sizes, or as evenly as num_outputs (or the outputs) ask."""
    axis = call.axis(int(call.attr("axis", 0)))
    sizes = call.ints_from("split", 1)
    if sizes is None:
        parts, total = int(call.attr("num_outputs", len(call.outputs))), call.shape(0)[axis]
        each = -(-total // parts)
        sizes = tuple(min(each, total - i * each) for i in range(parts))
    lengths = list(sizes)
    return call.emit(lambda x: tuple(torch.split(x, lengths, axis)), 0)


@builder("Expand")
def expand(call: Call) -> Emit:
    """Broadcast with a shape, both ways."""
    asked = list(call.ints(1))
    if call.batch and len(asked) == call.rank(0) and (asked[0], call.shape(0)[0]) == call.batch:
        asked[0] = call.batch[1]
    target = np.broadcast_shapes(call.shape(0), asked)
    return call.emit(lambda x: x.expand(target), 0)


@builder("Tile")
def tile(call: Call) -> Emit:
    """Repeat per axis."""
    repeats = call.ints(1)
    return call.emit(lambda x: x.repeat(repeats), 0)


@builder("ConstantOfShape")
def constant_of_shape(call: Call) -> Emit:
    """A known shape filled with one value, float 0 by default."""
    dims = call.ints(0)
    value = call.attr("value")
    if value is None:
        filled = torch.zeros(dims)
    else:
        scalar = value.reshape(-1)[0].item()
        dtype = {"b": torch.bool, "i": torch.int64, "u": torch.int64}.get(value.dtype.kind, torch.float32)
        filled = torch.full(dims, scalar, dtype=dtype)
    return Emit(lambda: filled, ())


@builder("Range")
def arange(call: Call) -> Emit:
    """Known start, limit and step."""
    start, limit, delta = (call.content(i).reshape(()).item() for i in range(3))
    values = torch.arange(start, limit, delta, dtype=call.example(0).dtype)
    return Emit(lambda: values, ())


@builder("DepthToSpace")
def depth_to_space(call: Call) -> Emit:
    """Channels into blocks: depth-column-row or column-row-depth order."""
    n, c, h, w = call.shape(0)
    b = int(call.attr("blocksize"))
    if call.attr("mode", "DCR") == "CRD":
        return call.emit(lambda x: torch.nn.functional.pixel_shuffle(x, b))
    cut, done = (n, b, b, c // (b * b), h, w), (n, c // (b * b), h * b, w * b)
    return call.emit(lambda x: x.reshape(cut).permute(0, 3, 4, 1, 5, 2).reshape(done))


@builder("SpaceToDepth")
def space_to_depth(call: Call) -> Emit:
    """Blocks into channels."""
    n, c, h, w = call.shape(0)
    b = int(call.attr("blocksize"))
    cut, done = (n, c, h // b, b, w // b, b), (n, c * b * b, h // b, w // b)
    return call.emit(lambda x: x.reshape(cut).permute(0, 3, 5, 1, 2, 4).reshape(done))


@builder("Trilu")
def trilu(call: Call) -> Emit:
    """Upper or lower triangle."""
    offset = call.ints(1)[0] if call.has(1) else 0
    keep = torch.triu if call.attr("upper", 1) else torch.tril

    def kernel(x: Tensor) -> Tensor:
        return keep(x, offset)

    return call.emit(kernel, 0)
