"""Constants behind a DequantizeLinear: number = (stored - zero point) * scale, per tensor or along an axis.

Zero is stored as the zero point, so "exactly zero" and "stored as the zero point" are one thing, and a mask
writes the zero point. Scales and zero points that run along an axis are cut with it and never zeroed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.onnx_io import constant_tensor

Array = NDArray[np.generic]

_INTEGERS = frozenset(
    (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT32)
)


@dataclass(frozen=True)
class Quantization:
    """How a constant's stored integers become numbers. Constants are named as in the graph."""

    node: ir.Node
    """The DequantizeLinear: inputs 0, 1 and 2 are the stored integers, the scale and the zero point."""
    stored: str
    scale: str
    zero_point: str | None
    """None: zero is stored as 0."""
    axis: int | None
    """Axis of the stored tensor that scale and zero point run along; None: one pair for all of it."""

    def agrees(self, other: Quantization) -> bool:
        """Whether both read the same constants in the same way."""
        return (self.stored, self.scale, self.zero_point, self.axis) == (
            other.stored,
            other.scale,
            other.zero_point,
            other.axis,
        )

    def spread(self, vector: Array, rank: int) -> Array:
        """A scale or zero point in a shape that broadcasts over the stored tensor of this rank."""
        if self.axis is None:
            return vector.reshape(())
        return vector.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])

    def dequantize(self, stored: Array, scale: Array, zero_point: Array | None) -> Array:
        """Numbers in the scale's type, from stored integers of any shape that the parameters fit."""
        numbers = stored.astype(np.int32)
        if zero_point is not None:
            numbers = numbers - self.spread(zero_point, stored.ndim).astype(np.int32)
        factor = self.spread(scale, stored.ndim)
        return np.multiply(numbers.astype(factor.dtype), factor)


def quantization_of(value: ir.Value | None) -> tuple[Quantization | None, str]:
    """(how a value is dequantised from a constant, "") or (None, why it is not, "" where no one tried)."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
        return None, ""
    present = [operand for operand in node.inputs if operand is not None]
    tensors = [constant_tensor(operand) for operand in present]
    stored, scale = (tensors[0], tensors[1]) if len(tensors) > 1 else (None, None)
    if stored is None:
        return None, ""
    if scale is None or any(tensor is None for tensor in tensors):
        return None, "its scale or zero point is not a constant"
    if stored.dtype not in _INTEGERS:
        return None, f"it is stored as {stored.dtype.name} behind a DequantizeLinear"
    if node.attributes.get_int("block_size", 0):
        return None, "it is quantised in blocks along an axis"
    shape = tuple(int(dim) for dim in stored.shape.numpy())
    axis = (node.attributes.get_int("axis", 1) or 0) % max(1, len(shape))
    along = scale.size > 1
    if any(tensor is not None and tensor.size != scale.size for tensor in tensors[2:]) or (
        along and (axis >= len(shape) or len(scale.shape) != 1 or scale.size != shape[axis])
    ):
        return None, "its scale and zero point do not fit it"
    names = [str(operand.name) for operand in present]
    found = Quantization(
        node, names[0], names[1], names[2] if len(names) > 2 else None, axis if along else None
    )
    return found, ""


def quantized_constants(graph: ir.Graph) -> dict[str, Quantization]:
    """By name: every constant that is only ever read through DequantizeLinear, in one way."""
    found: dict[str, Quantization] = {}
    refused: set[str] = set()
    for node in graph:
        if node.op_type != "DequantizeLinear":
            continue
        one, _ = quantization_of(node.outputs[0])
        name = str(node.inputs[0].name) if node.inputs and node.inputs[0] is not None else ""
        if one is None or not found.setdefault(name, one).agrees(one):
            refused.add(name)
    for name, one in found.items():
        value = one.node.inputs[0]
        uses = () if value is None else value.uses()
        if any(use.node.op_type != "DequantizeLinear" or use.idx != 0 for use in uses):
            refused.add(name)
    return {name: one for name, one in found.items() if name not in refused}
