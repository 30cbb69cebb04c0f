"""Reductions, ArgMax/ArgMin, TopK and cumulative sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, builder

_REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: (
        x.mean(axes, keepdim=keep)
        if x.is_floating_point()
        else x.double().mean(axes, keepdim=keep).to(x.dtype)
    ),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype),
    # Unlike the root of a sum of squares, its gradient at 0 is 0.
    "ReduceL2": lambda x, axes, keep: (
        torch.linalg.vector_norm(x, 2, axes, keep)
        if x.is_floating_point()
        else x.square().sum(axes, keepdim=keep).sqrt().to(x.dtype)
    ),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}


@builder(*_REDUCTIONS)
def reduce(call: Call) -> Emit:
    """Over `axes` (attribute, later an input); all axes if none are given."""
    function = _REDUCTIONS[call.op_type]
    given = call.ints_from("axes", 1)
    if not given:
        if call.attr("noop_with_empty_axes", 0):
            return call.emit(lambda x: x, 0)
        given = tuple(range(call.rank(0)))
    axes = tuple(call.axis(a) for a in given)
    keep = bool(call.attr("keepdims", 1))
    if not axes:
        return call.emit(lambda x: x, 0)
    return call.emit(lambda x: function(x, axes, keep), 0)


@builder("ReduceProd")
def reduce_prod(call: Call) -> Emit:
    """Product over axes, one at a time as torch does it."""
    given = call.ints_from("axes", 1) or tuple(range(call.rank(0)))
    axes = sorted((call.axis(a) for a in given), reverse=True)
    keep = bool(call.attr("keepdims", 1))

    def kernel(x: Tensor) -> Tensor:
        for axis in axes:
            x = x.prod(axis, keepdim=keep, dtype=x.dtype)
        return x

    return call.emit(kernel, 0)


@builder("ArgMax", "ArgMin")
def arg_extreme(call: Call) -> Emit:
    """Index of the extreme, the first one unless select_last_index."""
    find: Any = torch.argmax if call.op_type == "ArgMax" else torch.argmin
    axis, keep = call.axis(int(call.attr("axis", 0))), bool(call.attr("keepdims", 1))
    if not call.attr("select_last_index", 0):
        return call.emit(lambda x: find(x, axis, keepdim=keep))
    last = call.shape(0)[axis] - 1
    return call.emit(lambda x: last - find(x.flip(axis), axis, keepdim=keep))


@builder("TopK")
def top_k(call: Call) -> Emit:
    """Largest (or smallest) k along an axis, with indices; of equal ones those that come first."""
    k = call.ints(1)[0] if call.has(1) else int(call.attr("k"))
    axis, largest = call.axis(int(call.attr("axis", -1))), bool(call.attr("largest", 1))

    def kernel(x: Tensor) -> tuple[Tensor, Tensor]:
        # torch.topk picks any of equal ones.
        values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, k), places.narrow(axis, 0, k)

    return call.emit(kernel, 0)


@builder("CumSum")
def cumulative_sum(call: Call) -> Emit:
    """Running sum along an axis, optionally exclusive or from the end."""
    axis = call.axis(call.ints(1)[0])
    exclusive, reverse = bool(call.attr("exclusive", 0)), bool(call.attr("reverse", 0))

    def kernel(x: Tensor) -> Tensor:
        flipped = x.flip(axis) if reverse else x
        total = flipped.cumsum(axis, dtype=x.dtype)
        total = total - flipped if exclusive else total
        return total.flip(axis) if reverse else total

    return call.emit(kernel, 0)


@builder("CumProd")
def cumulative_product(call: Call) -> Emit:
    """Running product along an axis, optionally exclusive or from the end."""
    axis = call.axis(call.ints(1)[0])
    exclusive, reverse = bool(call.attr("exclusive", 0)), bool(call.attr("reverse", 0))

    def kernel(x: Tensor) -> Tensor:
        x = x.flip(axis) if reverse else x
        if exclusive:
            x = torch.cat([torch.ones_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        total = x.cumprod(axis, dtype=x.dtype)
        return total.flip(axis) if reverse else total

    return call.emit(kernel, 0)
