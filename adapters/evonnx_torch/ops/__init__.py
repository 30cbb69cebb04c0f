"""Operators: one file per family, each registering builders in the shared table."""

from evonnx_torch.ops import (
    attention,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resizing,
    sampling,
    scattering,
    shaping,
    softmax,
)
from evonnx_torch.ops._base import BUILDERS, Builder, Call, Emit, Unsupported, Value

__all__ = [
    "BUILDERS",
    "Builder",
    "Call",
    "Emit",
    "Unsupported",
    "Value",
    "attention",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resizing",
    "sampling",
    "scattering",
    "shaping",
    "softmax",
]
