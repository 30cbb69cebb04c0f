"""The constants of a copy that the proof runs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from evonnx.network import Array
from evonnx.onnx_io import Detached


class Tensors:
    """The constants of a model's main graph, by name."""

    def __init__(self, model: Detached) -> None:
        self._model = model
        self._protos = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        for node in model.proto.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._protos[node.output[0]] = node.attribute[0].t

    def __contains__(self, name: str) -> bool:
        return name in self._protos

    def __iter__(self) -> Iterator[str]:
        return iter(self._protos)

    def is_float(self, name: str) -> bool:
        """Whether a constant holds float32 or float64 values."""
        return self._protos[name].data_type in (TensorProto.FLOAT, TensorProto.DOUBLE)

    def shape(self, name: str) -> tuple[int, ...]:
        """A constant's shape."""
        return tuple(self._protos[name].dims)

    def get(self, name: str) -> Array:
        """A constant's values; not to be written to."""
        return self._model.values(self._protos[name])

    def set(self, name: str, values: Array) -> None:
        """Write a constant's values."""
        self._model.set_values(self._protos[name], values)


def scattered(like: Array, deviation: float, rng: np.random.Generator) -> Array:
    """Uniform values around 0, in an array's shape and precision (float32, or float64): for the proof as good
    as normal ones, and drawn in a third of the time."""
    wide = like.dtype.itemsize == 8
    drawn: Array = rng.random(like.shape) if wide else rng.random(like.shape, np.float32)
    np.subtract(drawn, 0.5, out=drawn)
    np.multiply(drawn, math.sqrt(12) * deviation, out=drawn)
    return drawn
