"""Slice, Gather and Pad: indices are worked out once, per axis."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder

_PAD_MODES = ("reflect", "edge", "wrap")


@builder("Slice")
def slice_(call: Call) -> Emit:
    """Attributes before opset 10, inputs since; steps may be negative."""
    starts = call.ints_from("starts", 1) or ()
    ends = call.ints_from("ends", 2) or ()
    axes = call.ints_from("axes", 3) or tuple(range(len(starts)))
    steps = (call.ints(4) if call.has(4) else None) or (1,) * len(starts)
    cuts: list[slice] = [slice(None)] * call.rank(0)
    flips = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = call.axis(axis)
        begin, stop, step = slice(start, _end(end, step), step).indices(call.shape(0)[axis])
        if step > 0:
            cuts[axis] = slice(begin, stop, step)
        else:
            picked = range(begin, stop, step)
            # The same elements forward, then reversed: torch has no negative steps.
            cuts[axis] = slice(picked[-1], picked[0] + 1, -step) if len(picked) else slice(0, 0)
            flips.append(axis)
    index = tuple(cuts)
    if flips:
        return call.emit(lambda x: x[index].flip(flips), 0)
    return call.emit(lambda x: x[index], 0)


def _end(end: int, step: int) -> int | None:
    """A huge negative end with a negative step means: to the very first element."""
    return None if step < 0 and end < -(2**31) + 2 else end


@builder("Gather")
def gather(call: Call) -> Emit:
    """numpy.take along an axis."""
    axis = call.axis(int(call.attr("axis", 0)))
    size = call.shape(0)[axis]
    shape = (*call.shape(0)[:axis], *call.shape(1), *call.shape(0)[axis + 1 :])
    if call.known(1):
        index = call.content(1).to(torch.int64)
        index = torch.where(index < 0, index + size, index)
        if index.ndim == 0:
            at = int(index)
            return call.emit(lambda x: x.select(axis, at), 0)
        flat = index.reshape(-1)
        if len(flat) and bool((flat.diff() == 1).all()) and index.ndim == 1:
            cut, length = int(flat[0]), len(flat)
            return call.emit(lambda x: x.narrow(axis, cut, length), 0)
        flat = flat.to(call.example(0).device)
        return call.emit(lambda x: x.index_select(axis, flat).reshape(shape), 0)

    def by_data(x: Tensor, index: Tensor) -> Tensor:
        index = torch.where(index < 0, index + size, index).reshape(-1)
        return x.index_select(axis, index).reshape(shape)

    return call.emit(by_data, 0, 1)


@builder("GatherElements")
def gather_elements(call: Call) -> Emit:
    """numpy.take_along_axis."""
    axis = call.axis(int(call.attr("axis", 0)))
    size = call.shape(0)[axis]
    return call.emit(
        lambda x, i: torch.gather(x, axis, torch.where(i < 0, i + size, i).to(torch.int64)), 0, 1
    )


@builder("Pad")
def pad(call: Call) -> Emit:
    """Constant, reflect, edge or wrap; constant pads may be negative."""
    rank = call.rank(0)
    amounts = call.ints_from("pads", 1) or (0,) * (2 * rank)
    axes = tuple(call.axis(a) for a in call.ints(3)) if call.has(3) else tuple(range(rank))
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = amounts[place], amounts[len(axes) + place]
    mode = call.attr("mode", "constant")
    if mode == "constant":
        fill = call.floats(2)[0] if call.has(2) else float(call.attr("value", 0.0))
        pads = [p for i in reversed(range(rank)) for p in (before[i], after[i])]
        if not any(pads):
            return call.emit(lambda x: x, 0)
        value: float = fill if call.example(0).is_floating_point() else int(fill)
        return call.emit(lambda x: F.pad(x, pads, value=value), 0)
    if mode not in _PAD_MODES:
        raise Unsupported(f"mode {mode!r}")
    device = call.example(0).device
    picks = [
        (i, torch.from_numpy(_padded(call.shape(0)[i], before[i], after[i], mode)).to(device))
        for i in range(rank)
        if before[i] or after[i]
    ]

    def kernel(x: Tensor) -> Tensor:
        for axis, index in picks:
            x = x.index_select(axis, index)
        return x

    return call.emit(kernel, 0)


def _padded(size: int, before: int, after: int, mode: str) -> NDArray[np.int64]:
    """Which entry each place of a padded axis repeats; negative pads cut first."""
    left = np.arange(size, dtype=np.int64)[max(0, -before) : size - max(0, -after)]
    pads = (max(0, before), max(0, after))
    return np.pad(left, pads, mode)  # type: ignore[call-overload, no-any-return]


@builder("NonZero")
def non_zero(call: Call) -> Emit:
    """Indices of non-zero entries of a known tensor; of data, their number would not be known."""
    found = torch.nonzero(call.content(0)).t().contiguous()
    return Emit(lambda: found, ())


@builder("OneHot")
def one_hot(call: Call) -> Emit:
    """`on` at the index, `off` elsewhere, along a new axis."""
    depth, axis = call.ints(1)[0], int(call.attr("axis", -1))
    off, on = call.content(2).tolist()
    dtype, rank = call.example(2).dtype, call.rank(0) + 1

    def kernel(index: Tensor) -> Tensor:
        hot = F.one_hot(index.to(torch.int64) % depth, depth).movedim(-1, axis % rank)
        filled: Tensor = hot * (on - off) + off
        return filled.to(dtype)

    return call.emit(kernel, 0)
