"""Pooling over windows and over whole maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from evonnx_jax.ops._base import Call, operator, spatial, spatial_pads


@dataclass(frozen=True)
class _Windows:
    """Of a map: all per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: list[tuple[int, int]]
    spill: list[int]
    """How far the last window reaches beyond the padding, where sizes are rounded up."""

    def reduce(self, x: Array, start: Any, combine: Callable[..., Any], padded: bool = False) -> Array:
        """Windows of x (N, C, ...) combined; `padded`: x has its padding already."""
        pads = [
            (0 if padded else begin, spill + (0 if padded else end))
            for (begin, end), spill in zip(self.pads, self.spill, strict=True)
        ]
        found: Array = lax.reduce_window(
            x,
            start,
            combine,
            (1, 1, *self.kernel),
            (1, 1, *self.strides),
            [(0, 0), (0, 0), *pads],
            window_dilation=(1, 1, *self.dilations),
        )
        return found


def _windows(call: Call, sizes: tuple[int, ...]) -> _Windows:
    rank = len(sizes)
    kernel = tuple(int(k) for k in call.attr("kernel_shape"))
    strides, dilations = spatial(call, "strides", rank), spatial(call, "dilations", rank)
    pads = spatial_pads(call, sizes, kernel, strides, dilations)
    spill = [0] * rank
    if call.attr("ceil_mode", 0):
        for place, (size, k, stride, dilation, (begin, end)) in enumerate(
            zip(sizes, kernel, strides, dilations, pads, strict=True)
        ):
            reach = (k - 1) * dilation + 1
            steps = -(-(size + begin + end - reach) // stride)
            if steps * stride >= size + begin:  # a window may not start beyond the map
                steps -= 1
            spill[place] = max(0, steps * stride + reach - (size + begin + end))
    return _Windows(kernel, strides, dilations, pads, spill)


@operator("MaxPool")
def max_pool(call: Call) -> Array:
    """The largest entry of each window."""
    call.only_first_output()
    x = call.data()
    windows = _windows(call, x.shape[2:])
    if all(d == 1 for d in windows.dilations):
        return windows.reduce(x, -jnp.inf, lax.max)
    # XLA does not differentiate windows with gaps; the patches of few pixels that they take are cheap.
    pads = [(b, e + s) for (b, e), s in zip(windows.pads, windows.spill, strict=True)]
    filled = jnp.pad(x, [(0, 0), (0, 0), *pads], constant_values=-jnp.inf)
    parts = []
    for offsets in np.ndindex(*windows.kernel):
        cut = [slice(None), slice(None)]
        for size, k, d, s, at in zip(
            filled.shape[2:], windows.kernel, windows.dilations, windows.strides, offsets, strict=True
        ):
            cut.append(slice(at * d, size - (k - 1 - at) * d, s))
        parts.append(filled[tuple(cut)])
    return jnp.stack(parts).max(0)


@operator("AveragePool")
def average_pool(call: Call) -> Array:
    """The mean of each window; padding counts only where the node says so."""
    x = call.data()
    windows = _windows(call, x.shape[2:])
    counted = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    padded = bool(call.attr("count_include_pad", 0))
    if padded:
        counted = jnp.pad(counted, [(0, 0), (0, 0), *windows.pads], constant_values=1)
    return windows.reduce(x, 0.0, lax.add) / windows.reduce(counted, 0.0, lax.add, padded)


@operator("GlobalAveragePool")
def global_average_pool(call: Call) -> Array:
    """The mean of each map."""
    x = call.data()
    return x.mean(tuple(range(2, x.ndim)), keepdims=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call) -> Array:
    """The largest entry of each map."""
    x = call.data()
    return x.max(tuple(range(2, x.ndim)), keepdims=True)
