"""Quantisation, computed in floats: whole numbers for integers, gradients as without rounding."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from jax import Array, lax

from evonnx_jax.ops._base import Call, Unsupported, operator


def _spread(call: Call, index: int, x: Array) -> Array:
    """A scale or zero point in a form that broadcasts with x: one number, one per entry along an axis, or one
    per block along it."""
    value = call.data(index)
    if value.size == 1:
        return value.reshape(())
    axis = call.axis(1, x.ndim)
    if block := int(call.attr("block_size", 0)):
        return lax.slice_in_dim(jnp.repeat(value, block, axis), 0, x.shape[axis], axis=axis)
    return value.reshape([-1 if place == axis else 1 for place in range(x.ndim)])


def _limits(call: Call) -> tuple[float, float]:
    """The smallest and largest number of the type that is quantised to."""
    number: Any = call.value(2).dtype if call.has(2) else None
    if number is None:
        asked = int(call.attr("output_dtype", 0)) or onnx.TensorProto.UINT8
        number = onnx.helper.tensor_dtype_to_np_dtype(asked)
    if not np.issubdtype(number, np.integer):
        raise Unsupported(f"quantisation to {number}")
    found = np.iinfo(number)
    return float(found.min), float(found.max)


@operator("QuantizeLinear")
def quantize(call: Call) -> Array:
    """round(x / scale) + zero point, kept in range; the gradient is that of the line between the limits."""
    x = call.data()
    zero = _spread(call, 2, x).astype(x.dtype) if call.has(2) else 0.0
    place, limits = x / _spread(call, 1, x), _limits(call)
    line = jnp.clip(place + zero, *limits)
    return line + lax.stop_gradient(jnp.clip(jnp.round(place) + zero, *limits) - line)


@operator("DequantizeLinear")
def dequantize(call: Call) -> Array:
    """(x - zero point) * scale."""
    x = call.data().astype(jnp.float32)
    zero = _spread(call, 2, x).astype(x.dtype) if call.has(2) else 0.0
    return (x - zero) * _spread(call, 1, x)
