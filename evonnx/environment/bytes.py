"""Environment factor: bytes of the compact model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evonnx.environment.widths import Costs, LayerCost, measured_widths, stored_widths, width_prices
from evonnx.masks import Masks
from evonnx.network import Network


@dataclass(frozen=True)
class ByteBudget:
    """What is stored: a zero inside a living channel costs as much as any number.

    Per-channel vectors (biases, norms) are spread evenly over all layers' outputs; what else the file holds
    stays.
    """

    name: str = "bytes"
    unit: str = "bytes"
    hard: bool = True

    def costs(self, network: Network) -> Costs:
        """Bytes per slice and per output of each layer."""
        weights = network.weights.values()
        constants = (value.const_value for value in network.model.graph.initializers.values())
        stored = sum(one.nbytes for one in constants if one is not None and len(one.shape) == 1)
        vectors = stored / max(1, sum(weight.outputs for weight in weights))
        layers = {
            name: LayerCost(per_output=vectors, per_slice=weight.taps * weight.dtype.itemsize)
            for name, weight in network.weights.items()
        }
        channels = sum(cost.of(stored_widths(network.weights[name])) for name, cost in layers.items())
        return Costs(max(0.0, network.file_bytes - channels), layers)

    def prices(self, network: Network) -> Mapping[str, float]:
        """Bytes per live synapse."""
        return width_prices(self.costs(network), network)

    def measure(self, network: Network, masks: Masks) -> float:
        """Bytes of the file when what is dead is gone."""
        return measured_widths(self.costs(network), network, masks)
