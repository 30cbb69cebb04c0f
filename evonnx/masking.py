"""Masked offspring: the parent's graph and shapes, dead synapses and what dies with them set to zero."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import NOT_ZEROED, Coupling
from evonnx.dependency.liveness import close
from evonnx.masks import Mask, Masks
from evonnx.network import Array, Network
from evonnx.onnx_io import set_array


def closed_masks(network: Network, coupling: Coupling, masks: Masks) -> dict[str, Mask]:
    """Masks after removal has run to its fixed point, for every prunable weight (see `dependency.close`)."""
    return close(network, coupling, masks).masks


def apply_masks(network: Network, coupling: Coupling, masks: Masks) -> ir.Model:
    """The masked model: a clone with zeros written.

    Masks are closed first. Channel vectors of dead wires become zero too, except variances, divisors and
    exponents (zero there is not finite). Shapes, dtypes, names and every weight that lives stay exactly as
    they are.

    Args:
        network: the parent.
        coupling: its coupling.
        masks: by weight name, stored shape, True lives; a weight without a mask keeps what it has.
    """
    closure = close(network, coupling, masks)
    changed: dict[str, Array] = {}
    for name, mask in closure.masks.items():
        stored = network.array(name)
        if np.any(network.live(name) & ~mask):
            changed[name] = np.where(mask, stored, network.zero(name))
            network.forget(name)  # a copy has taken its place
    for vector, dead in closure.vectors_dead:
        if vector.role in NOT_ZEROED:
            continue
        array = changed.get(vector.name, network.array(vector.name))
        place = [1] * array.ndim
        place[vector.axis] = dead.size
        changed[vector.name] = np.where(dead.reshape(place), network.zero(vector.name), array)
    model = network.model.clone()
    for name, array in changed.items():
        set_array(model, name, array)
    return model
