"""Environment factor: live synapses, the paper's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evonnx.environment._base import priced
from evonnx.masks import Masks
from evonnx.network import Network


@dataclass(frozen=True)
class SynapseBudget:
    """Every live synapse counts one."""

    name: str = "synapses"
    unit: str = "synapses"
    hard: bool = True

    def prices(self, network: Network) -> Mapping[str, float]:
        """One throughout."""
        return dict.fromkeys(network.weights, 1.0)

    def measure(self, network: Network, masks: Masks) -> float:
        """Live synapses."""
        return priced(self.prices(network), masks)
