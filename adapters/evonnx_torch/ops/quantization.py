"""Quantisation simulated in float, so that gradients pass.

QuantizeLinear:   q = clamp(round(x / scale) + zero, low, high), rounding half to even
DequantizeLinear: x = (q - zero) * scale

q keeps its integer value in a float32 tensor (exact for 16 bits and less). Rounding counts as the identity
for gradients (straight-through, Bengio et al. 2013, arXiv 1308.3432), clamping stops them outside the range.
Scale and zero point are per tensor, per entry of one axis, or per block of it. Scales are never trained, and
stored integers stay as they are: only what is stored as a float can be.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder

_RANGES: dict[str, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
    "uint2": (0, 3),
    "int2": (-2, 1),
}
_ELEMENT_TYPES: dict[int, str] = {
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    21: "uint4",
    22: "int4",
    25: "uint2",
    26: "int2",
}


def _spread(call: Call) -> Callable[[Tensor], Tensor]:
    """How a scale or zero point is laid over the first operand: per tensor, axis entry or block."""
    rank, dims = call.rank(0), call.rank(1)
    if dims == 0 or call.example(1).numel() == 1:
        return lambda parameter: parameter.reshape(())
    axis = call.axis(int(call.attr("axis", 1)))
    block = int(call.attr("block_size", 0))
    if block:
        length = call.shape(0)[axis]
        return lambda parameter: parameter.repeat_interleave(block, axis).narrow(axis, 0, length)
    if dims != 1:
        raise Unsupported(f"a scale of {dims} axes without block_size")
    shape = [-1 if i == axis else 1 for i in range(rank)]
    return lambda parameter: parameter.reshape(shape)


@builder("QuantizeLinear")
def quantize_linear(call: Call) -> Emit:
    """To the integers of the zero point's type (or output_dtype), as float values."""
    spread = _spread(call)
    asked = int(call.attr("output_dtype", 0))
    kind = call.stored_type(2) if call.has(2) else _ELEMENT_TYPES.get(asked or 2, "")
    if kind not in _RANGES:
        raise Unsupported(f"quantisation to {kind or f'element type {asked}'}")
    low, high = _RANGES[kind]

    def kernel(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        steps = x.to(torch.float32) / spread(scale)
        # The difference of a float and its nearest integer is exact, so the sum is that integer.
        whole = steps + (steps.round() - steps).detach()
        whole = whole if zero is None else whole + spread(zero).to(torch.float32)
        return whole.clamp(low, high)

    return call.emit(kernel)


@builder("DequantizeLinear")
def dequantize_linear(call: Call) -> Emit:
    """(x - zero point) * scale."""
    spread = _spread(call)

    def kernel(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        y = x.to(torch.float32)
        y = y if zero is None else y - spread(zero).to(torch.float32)
        return y * spread(scale)

    return call.emit(kernel)
