"""Masks: which synapses live. One boolean array per prunable weight, in the tensor's stored shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Network

Mask = NDArray[np.bool_]
Masks = Mapping[str, Mask]
"""By weight name; True where the synapse lives."""


def live_masks(network: Network) -> dict[str, Mask]:
    """What lives in a model as it stands: a synapse is a weight that is not exactly zero."""
    return {name: network.live(name) for name in network.weights}
