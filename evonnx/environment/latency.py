"""Environment factor: milliseconds per inference, from a cost table that was measured on this machine.

The table says what every layer costs at what widths (`LayerCost`), as onnxruntime runs it between its
neighbours, and what everything else costs; `evonnx.latency` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evonnx.environment.widths import Costs, LayerCost, measured_widths, width_prices
from evonnx.errors import BudgetError
from evonnx.masks import Masks
from evonnx.network import Network


@dataclass(frozen=True)
class LatencyBudget:
    """Predicted milliseconds. A target: what comes out is measured, and the measurement corrects the next."""

    name: str = "latency"
    unit: str = "ms"
    hard: bool = False
    table: Costs | None = None
    """In milliseconds; None: not measured yet."""
    calibration: float = 1.0
    """Measured over predicted time of whole networks."""

    def costs(self, network: Network) -> Costs:
        """What the table says of a network's layers.

        Raises:
            BudgetError: nothing was measured, or not for some layer of this network.
        """
        if self.table is None:
            raise BudgetError(
                "A budget on latency needs a cost table measured on this machine: `evonnx evolve` and "
                "`evonnx synthesize` measure one; from Python, use evonnx.latency.measure_latency."
            )
        unknown = [name for name in network.weights if name not in self.table.layers]
        if unknown:
            raise BudgetError(
                f"The latency table was measured on another network: it does not know {unknown[0]!r} of "
                f"{network.source}. Measure it anew."
            )
        return Costs(
            self.calibration * self.table.constant,
            {name: self._scaled(self.table.layers[name]) for name in network.weights},
        )

    def _scaled(self, cost: LayerCost) -> LayerCost:
        by = self.calibration
        return LayerCost(by * cost.fixed, by * cost.per_input, by * cost.per_output, by * cost.per_slice)

    def prices(self, network: Network) -> Mapping[str, float]:
        """Milliseconds per live synapse."""
        return width_prices(self.costs(network), network)

    def measure(self, network: Network, masks: Masks) -> float:
        """Predicted milliseconds when what is dead is gone."""
        return measured_widths(self.costs(network), network, masks)


def table_from_json(record: Mapping[str, Any]) -> Costs:
    """The table of a record as `table_to_json` gives it."""
    return Costs(
        float(record["constant_ms"]),
        {name: LayerCost(*map(float, layer["cost_ms"])) for name, layer in record["layers"].items()},
    )


def cost_to_json(cost: LayerCost) -> list[float]:
    """[fixed, per input, per output, per slice], in milliseconds."""
    return [cost.fixed, cost.per_input, cost.per_output, cost.per_slice]
