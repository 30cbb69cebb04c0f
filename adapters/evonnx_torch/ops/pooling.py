"""Pooling. What torch cannot pad or count as ONNX does is padded explicitly or divided by a constant count
map."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder, spatial_pads, torch_pads

_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Window:
    """Kernel, strides, dilations and padding per spatial axis; `tail` is what ceil_mode adds after the end
    pads."""

    def __init__(self, call: Call) -> None:
        sizes = call.shape(0)[2:]
        dims = len(sizes)
        if dims not in _MAX:
            raise Unsupported(f"{dims} spatial dimensions")
        self.dims = dims
        self.kernel = tuple(call.attr("kernel_shape"))
        self.strides = tuple(call.attr("strides") or (1,) * dims)
        self.dilations = tuple(call.attr("dilations") or (1,) * dims)
        self.begins, self.ends = spatial_pads(call, sizes, self.kernel, self.strides, self.dilations)
        self.tail = [0] * dims
        if call.attr("ceil_mode", 0):
            for i, size in enumerate(sizes):
                padded = size + self.begins[i] + self.ends[i]
                reach = (self.kernel[i] - 1) * self.dilations[i] + 1
                count = -(-(padded - reach) // self.strides[i]) + 1
                if (count - 1) * self.strides[i] >= size + self.begins[i]:
                    count -= 1  # a window must start inside the input or its left padding
                self.tail[i] = max(0, (count - 1) * self.strides[i] + reach - padded)

    @property
    def simple(self) -> bool:
        """Whether torch's own padding can express it."""
        halves = all(2 * p <= k for p, k in zip(self.begins, self.kernel, strict=True))
        return self.begins == self.ends and not any(self.tail) and halves

    def explicit(self) -> list[int]:
        """All padding, for `F.pad`."""
        return torch_pads(self.begins, [e + t for e, t in zip(self.ends, self.tail, strict=True)])


@builder("MaxPool")
def max_pool(call: Call) -> Emit:
    """Largest value in each window; padding never wins. Its place counts through the whole tensor."""
    window = _Window(call)
    if any(call.outputs[1:]):
        return _max_pool_with_places(call, window)
    pool, kernel, strides, dilations = _MAX[window.dims], window.kernel, window.strides, window.dilations
    if window.simple:
        padding = tuple(window.begins)
        return call.emit(lambda x: pool(x, kernel, strides, padding, dilations))
    pads = window.explicit()
    return call.emit(lambda x: pool(F.pad(x, pads, value=float("-inf")), kernel, strides, 0, dilations))


def _max_pool_with_places(call: Call, window: _Window) -> Emit:
    if not window.simple or call.attr("storage_order", 0):
        raise Unsupported("the output Indices with uneven padding, ceil_mode or storage_order")
    n, c, *sizes = call.shape(0)
    volume = math.prod(sizes)
    planes = torch.arange(n * c, device=call.example(0).device).reshape(n, c, *(1,) * window.dims) * volume
    pool, padding = _MAX[window.dims], tuple(window.begins)

    def kernel(x: Tensor) -> tuple[Tensor, Tensor]:
        y, places = pool(x, window.kernel, window.strides, padding, window.dilations, return_indices=True)
        return y, places + planes

    return call.emit(kernel, 0)


@builder("MaxUnpool")
def max_unpool(call: Call) -> Emit:
    """Values at the places they came from, zeros elsewhere."""
    taps = tuple(call.attr("kernel_shape"))
    strides = tuple(call.attr("strides") or (1,) * len(taps))
    pads = tuple(call.attr("pads") or (0,) * (2 * len(taps)))
    cut = [begin + end for begin, end in zip(pads[: len(taps)], pads[len(taps) :], strict=True)]
    sizes = zip(call.shape(0)[2:], taps, strides, cut, strict=True)
    inferred = [(size - 1) * stride + tap - less for size, tap, stride, less in sizes]
    target = call.ints(2) if call.has(2) else (*call.shape(0)[:2], *inferred)
    elements = math.prod(target)

    def kernel(x: Tensor, places: Tensor) -> Tensor:
        return x.new_zeros(elements).index_copy(0, places.reshape(-1), x.reshape(-1)).reshape(target)

    return call.emit(kernel, 0, 1)


@builder("AveragePool")
def average_pool(call: Call) -> Emit:
    """Mean of each window; padding counts only with count_include_pad, ceil_mode's tail never."""
    window = _Window(call)
    if any(d != 1 for d in window.dilations):
        raise Unsupported("dilations")
    pool, kernel, strides = _AVERAGE[window.dims], window.kernel, window.strides
    include = bool(call.attr("count_include_pad", 0))
    if window.simple and (include or not any(window.begins)):
        padding = tuple(window.begins)
        return call.emit(lambda x: pool(x, kernel, strides, padding))
    pads = window.explicit()
    ones = torch.ones(1, 1, *call.shape(0)[2:])
    if include:
        ones = F.pad(ones, torch_pads(window.begins, window.ends), value=1.0)
        ones = F.pad(ones, torch_pads([0] * window.dims, window.tail))
    else:
        ones = F.pad(ones, pads)
    correction = (1.0 / pool(ones, kernel, strides)).to(call.example(0).device)

    def kernel_(x: Tensor) -> Tensor:
        return pool(F.pad(x, pads), kernel, strides) * correction

    return call.emit(kernel_)


@builder("GlobalAveragePool")
def global_average_pool(call: Call) -> Emit:
    """Mean over all spatial axes, kept as size 1."""
    axes = tuple(range(2, call.rank(0)))
    return call.emit(lambda x: x.mean(axes, keepdim=True))


@builder("GlobalMaxPool")
def global_max_pool(call: Call) -> Emit:
    """Maximum over all spatial axes, kept as size 1."""
    axes = tuple(range(2, call.rank(0)))
    return call.emit(lambda x: x.amax(axes, keepdim=True))
