"""Operators: one file per family, each registering builders in the shared table."""

from evonnx_torch.ops import (
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    resizing,
    shaping,
)
from evonnx_torch.ops._base import BUILDERS, Builder, Call, Emit, Unsupported, Value

__all__ = [
    "BUILDERS",
    "Builder",
    "Call",
    "Emit",
    "Unsupported",
    "Value",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "resizing",
    "shaping",
]
