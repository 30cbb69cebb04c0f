"""Environment factor: multiply-accumulates of live synapses per inference with a batch of 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evonnx.environment._base import priced
from evonnx.errors import BudgetError
from evonnx.masks import Masks
from evonnx.network import Network


@dataclass(frozen=True)
class MacBudget:
    """Every live synapse counts as often as it is used: once per output position of its layer."""

    name: str = "macs"
    unit: str = "MACs"
    hard: bool = True

    def prices(self, network: Network) -> Mapping[str, float]:
        """Output positions of each layer.

        Raises:
            BudgetError: the shapes at some layer are not known.
        """
        prices: dict[str, float] = {}
        for name, weight in network.weights.items():
            if weight.macs_per_tap is None:
                raise BudgetError(
                    f"A budget on MACs needs to know how often {name!r} (node {weight.uses[0].node_label}) "
                    f"of {network.source} is used, but its shapes are not known. Give the input shapes, such "
                    "as --input-shape name=1,3,224,224, or budget synapses."
                )
            prices[name] = float(weight.macs_per_tap)
        return prices

    def measure(self, network: Network, masks: Masks) -> float:
        """MACs of live synapses."""
        return priced(self.prices(network), masks)
