"""Operators: one file per family, each registering its functions in the shared table."""

from evonnx_jax.ops import (
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    shaping,
)
from evonnx_jax.ops._base import OPERATORS, Call, Context, Operator, Unsupported

__all__ = [
    "OPERATORS",
    "Call",
    "Context",
    "Operator",
    "Unsupported",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "shaping",
]
