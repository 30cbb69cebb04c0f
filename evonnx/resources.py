"""What a model costs: live synapses, kernels, filters, stored parameters, multiply-accumulates, bytes.

Each is stated apart and never mixed. Live counts come from the arrays (a live synapse is a weight that is not
exactly zero); parameters, MACs and bytes come from what is stored, so they only shrink by physical removal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import Coupling
from evonnx.dependency.liveness import close
from evonnx.masks import Masks, live_masks
from evonnx.network import Network, Weight
from evonnx.onnx_io import stored_parameters


@dataclass(frozen=True)
class LayerResources:
    """One prunable weight: live counts, and the dense cost of its stored shape."""

    name: str
    """The weight's tensor name."""
    op_type: str
    """Of the first node that reads it."""
    synapses: int
    kernels: int
    """Live (output, input) slices of a convolution; 0 for Gemm and MatMul."""
    filters: int
    """Outputs with a live synapse."""
    channels: int
    """Outputs of the stored shape: those that are physically there."""
    macs: int | None
    """Multiply-accumulates of the stored shape per example; None where shapes are not known."""


@dataclass(frozen=True)
class Resources:
    """A whole model. `macs` covers prunable layers; it is None when one of them has unknown shapes."""

    synapses: int
    kernels: int
    filters: int
    parameters: int
    """Elements of all stored floating-point constants, zeros included."""
    macs: int | None
    bytes: int
    """Of the file and its external data; of the serialized model where there is no file."""
    layers: tuple[LayerResources, ...]


@dataclass(frozen=True)
class Ratios:
    """Ancestor's over offspring's: how many times smaller; None where unknown or the offspring's is 0."""

    synapses: float | None
    """Architectural efficiency (A-E)."""
    kernels: float | None
    """Cluster efficiency (C-E)."""
    filters: float | None
    parameters: float | None
    macs: float | None
    bytes: float | None


def count(network: Network, coupling: Coupling | None = None) -> Resources:
    """Resources of a model as it stands; with `coupling`, after removal has run to its fixed point."""
    masks = live_masks(network)
    if coupling is not None:
        masks = dict(close(network, coupling, masks).masks)
    return count_masks(network, masks)


def count_masks(network: Network, masks: Masks) -> Resources:
    """Resources of a model as if masked: live counts from the masks, the rest from what is stored.

    Args:
        network: the model.
        masks: for every prunable weight, in the stored shape.
    """
    layers = tuple(_layer(weight, masks[name]) for name, weight in network.weights.items())
    macs = [layer.macs for layer in layers]
    return Resources(
        synapses=sum(layer.synapses for layer in layers),
        kernels=sum(layer.kernels for layer in layers),
        filters=sum(layer.filters for layer in layers),
        parameters=stored_parameters(network.model),
        macs=None if None in macs else sum(m for m in macs if m is not None),
        bytes=network.file_bytes,
        layers=layers,
    )


def ratios(ancestor: Resources, offspring: Resources) -> Ratios:
    """How many times smaller an offspring is."""
    names = ("synapses", "kernels", "filters", "parameters", "macs", "bytes")
    return Ratios(**{name: _ratio(getattr(ancestor, name), getattr(offspring, name)) for name in names})


def dense_macs(weight: Weight) -> int | None:
    """Multiply-accumulates per example of a weight's stored shape; None where shapes are not known."""
    if weight.macs_per_tap is None:
        return None
    return round(weight.macs_per_tap * weight.outputs * weight.inputs_per_group * weight.taps)


def _layer(weight: Weight, mask: NDArray[np.bool_]) -> LayerResources:
    canonical = weight.to_canonical(mask)
    slices: NDArray[np.bool_] = canonical[:, :, 0] if weight.taps == 1 else np.any(canonical, axis=2)
    return LayerResources(
        name=weight.name,
        op_type=weight.uses[0].op_type,
        synapses=int(np.count_nonzero(mask)),
        kernels=int(np.count_nonzero(slices)) if weight.is_convolution else 0,
        filters=int(np.count_nonzero(np.any(slices, axis=1))),
        channels=weight.outputs,
        macs=dense_macs(weight),
    )


def _ratio(before: int | None, after: int | None) -> float | None:
    return before / after if before is not None and after else None
