"""A model as a read-only view: prunable weights, how each node lays them out, shapes, names.

The graph stays the user's own (`Network.model`); nothing here changes it. Every array in genetics, counting
and liveness is seen in one canonical layout, (outputs O, inputs per group I, taps K), whatever the operator.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.errors import ModelError
from evonnx.network.folding import fold_constants
from evonnx.network.inference import Dim
from evonnx.network.quantization import Quantization, quantized_constants
from evonnx.network.shapes import infer_shapes
from evonnx.network.weights import Array, Unprunable, Weight, find_weights
from evonnx.onnx_io import (
    MappedTensor,
    constant_tensor,
    constant_values,
    forget_pages,
    load_model,
    model_label,
    node_labels,
    stored_bytes,
    written_bytes,
)


@dataclass(frozen=True)
class Network:
    """A loaded model and what evonnx knows of it. Treat `model` as read-only; clone before changing."""

    model: ir.Model
    source: str
    """The file it came from, for messages (never written into a model)."""
    weights: Mapping[str, Weight]
    """Prunable weights by tensor name, in graph order."""
    unprunable: tuple[Unprunable, ...] = ()
    notes: tuple[str, ...] = ()
    """What was folded or assumed while loading, one sentence each."""
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Concrete shapes for every graph input, symbolic dimensions filled (from the user, else 1)."""

    shapes: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)
    """Concrete shape by tensor name for `input_shapes`; None where a dimension is not known, no entry
    where the rank is not. The declared, symbolic shapes stay in each `ir.Value.shape`."""

    stored_bytes: int | None = None
    """Size of the file with its external data; None for a model that was not read from a file."""

    @cached_property
    def file_bytes(self) -> int:
        """Size of the file with its external data, or of the serialized model where there is no file."""
        return written_bytes(self.model) if self.stored_bytes is None else self.stored_bytes

    def array(self, name: str) -> Array:
        """The stored array of an initializer or Constant node, by tensor name.

        Raises:
            ModelError: no constant has that name.
        """
        tensor = constant_tensor(self._constants.get(name))
        if tensor is None:
            raise ModelError(f"{self.source} has no initializer or Constant node named {name!r}.")
        return tensor.numpy()

    def forget(self, name: str) -> None:
        """Let go of the memory of a constant in an external file, until it is asked for again."""
        tensor = constant_tensor(self._constants.get(name))
        if isinstance(tensor, MappedTensor):
            forget_pages(tensor.numpy())

    def values(self, name: str) -> Array:
        """The numbers that a constant stands for, in its stored shape: dequantised where it is quantised.

        Raises:
            ModelError: no constant has that name.
        """
        found = self._quantized.get(name)
        if found is None:
            return self.array(name)
        if name not in self._dequantized:
            zero = None if found.zero_point is None else self.array(found.zero_point)
            self._dequantized[name] = found.dequantize(self.array(name), self.array(found.scale), zero)
        return self._dequantized[name]

    def zero(self, name: str) -> Array:
        """How zero is stored: 0 or the zero point, in the constant's dtype, shaped to broadcast over it.

        Raises:
            ModelError: no constant has that name.
        """
        array, found = self.array(name), self._quantized.get(name)
        if found is None or found.zero_point is None:
            return np.zeros((), dtype=array.dtype)
        return found.spread(self.array(found.zero_point), array.ndim).astype(array.dtype)

    def live(self, name: str) -> NDArray[np.bool_]:
        """Where the numbers that a constant stands for are not exactly zero, in its stored shape.

        Raises:
            ModelError: no constant has that name.
        """
        return np.asarray((self.values(name) if name in self._quantized else self.array(name)) != 0)

    def quantization(self, name: str) -> Quantization | None:
        """How a constant (a weight or bias) that is only read through DequantizeLinear is quantised."""
        return self._quantized.get(name)

    def canonical(self, name: str) -> Array:
        """`weights[name].to_canonical(values(name))`."""
        return self.weights[name].to_canonical(self.values(name))

    def label(self, node: ir.Node) -> str:
        """`onnx_io.model_label` of a node of the main graph, looked up."""
        return self._labels.get(node) or model_label(node)

    @cached_property
    def _constants(self) -> dict[str, ir.Value]:
        return {name: value for name, value, _ in constant_values(self.model)}

    @cached_property
    def _quantized(self) -> dict[str, Quantization]:
        return quantized_constants(self.model.graph)

    @cached_property
    def _dequantized(self) -> dict[str, Array]:
        return {}

    @cached_property
    def _labels(self) -> dict[ir.Node, str]:
        return node_labels(self.model.graph)


def load_network(
    path: str | os.PathLike[str], input_shapes: Mapping[str, Sequence[int]] | None = None
) -> Network:
    """Read a file and find its prunable weights.

    Args:
        path: the ONNX file.
        input_shapes: concrete shapes for graph inputs with symbolic dimensions, by input name.

    Raises:
        ModelError: as `onnx_io.load_model`; an input shape does not fit; a prunable weight is not finite.
    """
    model = load_model(path)
    try:
        network = _network(model, os.fspath(path), input_shapes, own=True)
    except (TypeError, ValueError, LookupError) as error:  # attributes of the wrong kind, axes out of range
        raise ModelError(
            f"{os.fspath(path)} is not a valid ONNX graph: {error}. Run onnx.checker on it or export it anew."
        ) from error
    return replace(network, stored_bytes=stored_bytes(path, model))


def network_of(
    model: ir.Model, source: str, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> Network:
    """As `load_network`, of a model in memory. Constant subgraphs that feed weights are folded in a clone.

    Raises:
        ModelError: an input shape does not fit; a prunable weight is not finite.
    """
    return _network(model, source, input_shapes, own=False)


def _network(
    model: ir.Model, source: str, input_shapes: Mapping[str, Sequence[int]] | None, *, own: bool
) -> Network:
    """See `network_of`; a model that is our `own` is folded in place."""
    folded, folding_notes = fold_constants(model, in_place=own)
    inference = infer_shapes(folded, source, input_shapes)
    weights, unprunable = find_weights(folded, inference.shapes, inference.batch, source)
    return Network(
        model=folded,
        source=source,
        weights=weights,
        unprunable=unprunable,
        notes=(*folding_notes, *inference.notes),
        input_shapes=inference.input_shapes,
        shapes=inference.shapes,
    )
