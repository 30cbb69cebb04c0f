"""Masks: which synapses live. One boolean array per prunable weight, in the tensor's stored shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Network

Mask = NDArray[np.bool_]
Masks = Mapping[str, Mask]
"""By weight name; True where the synapse lives."""


def live_masks(network: Network) -> dict[str, Mask]:
    """What lives in a model as it stands: a synapse is a weight that is not exactly zero."""
    return {name: network.live(name) for name in network.weights}


@dataclass(frozen=True)
class PackedMasks:
    """Masks at a bit per synapse, for those that wait for their turn."""

    bits: Mapping[str, NDArray[np.uint8]]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, masks: Masks) -> PackedMasks:
        """Pack masks."""
        return cls(
            {name: np.packbits(mask) for name, mask in masks.items()},
            {name: mask.shape for name, mask in masks.items()},
        )

    def unpack(self) -> dict[str, Mask]:
        """The masks as they were."""
        return {name: _unpacked(bits, self.shapes[name]) for name, bits in self.bits.items()}


def _unpacked(bits: NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    return np.unpackbits(bits, count=math.prod(shape)).view(np.bool_).reshape(shape)
