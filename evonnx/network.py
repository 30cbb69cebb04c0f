"""A model as a read-only view: prunable weights, how each node lays them out, shapes, names.

The graph stays the user's own (`Network.model`); nothing here changes it. Every array in genetics, counting and
liveness is looked at in one canonical layout, (outputs O, inputs per group I, taps K), whatever the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Dim = int | str | None
Array = NDArray[np.generic]


@dataclass(frozen=True)
class Relayout:
    """One constant relayout between an initializer and the operand a node reads: a Reshape or a Transpose."""

    kind: str
    """"reshape" or "transpose"."""
    argument: tuple[int, ...]
    """The target shape of a reshape (no -1, no 0), or the permutation of a transpose."""
    source_shape: tuple[int, ...]
    """Shape before this step."""


@dataclass(frozen=True)
class WeightUse:
    """One node that reads a prunable weight."""

    node: ir.Node
    node_label: str
    """The node's name, or `OpType#position` where the file gives none."""
    op_type: str
    input_index: int
    """Which input of the node is the weight."""
    relayouts: tuple[Relayout, ...]
    """Steps from the initializer to the node's operand, in order; empty for most models."""


@dataclass(frozen=True)
class Weight:
    """One prunable initializer (or Constant node): one set of synapses, counted once however often it is read.

    The canonical view has shape (O, I, K): O output channels in total, I input channels *per group*, K taps
    (kernel positions; 1 for Gemm and MatMul). Output o belongs to group o // (O // groups).
    """

    name: str
    """The tensor's name in the graph."""
    shape: tuple[int, ...]
    """Shape of the tensor as stored."""
    dtype: ir.DataType
    uses: tuple[WeightUse, ...]
    """At least one; the first defines the canonical view."""
    groups: int
    outputs: int
    inputs_per_group: int
    taps: int
    is_convolution: bool
    """Conv or ConvTranspose: its (o, i) slices are 2-D kernels in the paper's sense."""
    macs_per_tap: float | None = None
    """Multiply-accumulates each synapse costs per inference with a batch of 1 (output positions);
    None where shapes are not known."""
    operand_shape: tuple[int, ...] = ()
    """Shape after the relayouts of the first use: what the node sees."""
    output_axis: int = 0
    """Axis of the operand that carries output channels (for ConvTranspose: O / groups of them)."""
    input_axis: int = 1
    """Axis of the operand that carries input channels (for ConvTranspose: all groups' inputs)."""

    def to_canonical(self, stored: Array) -> Array:
        """The (O, I, K) view (a copy where strides cannot express it) of an array in the stored layout."""
        raise NotImplementedError

    def from_canonical(self, canonical: Array) -> Array:
        """The stored layout of an (O, I, K) array: inverse of `to_canonical`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Unprunable:
    """A weight that is seen and left alone, with the reason."""

    name: str
    node_label: str
    reason: str


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

    def array(self, name: str) -> Array:
        """The stored array of an initializer or Constant node, by tensor name."""
        raise NotImplementedError

    def canonical(self, name: str) -> Array:
        """`weights[name].to_canonical(array(name))`."""
        raise NotImplementedError
