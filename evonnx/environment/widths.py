"""Factors that depend on how many channels are left, not on how many synapses live: bytes, milliseconds.

A layer with i live inputs, o live outputs and p live (output, input) slices needs

    fixed + per_input * i + per_output * o + per_slice * p        and nothing once i or o is 0

where p counts every slice between a living input and a living output of one group, as a dense tensor stores
it. Sparse weights inside living channels save nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from evonnx.environment._base import EnvironmentFactor
from evonnx.errors import BudgetError
from evonnx.masks import Mask, Masks
from evonnx.network import Network, Weight


@dataclass(frozen=True)
class Widths:
    """How much of one layer is left."""

    inputs: float
    outputs: float
    slices: float


@dataclass(frozen=True)
class LayerCost:
    """What one layer needs, in the factor's unit; none of the four is negative."""

    fixed: float = 0.0
    per_input: float = 0.0
    per_output: float = 0.0
    per_slice: float = 0.0

    def of(self, left: Widths) -> float:
        """Amount for these widths."""
        if left.inputs <= 0 or left.outputs <= 0:
            return 0.0
        return (
            self.fixed
            + self.per_input * left.inputs
            + self.per_output * left.outputs
            + self.per_slice * left.slices
        )


@dataclass(frozen=True)
class Costs:
    """What a network needs: a part that no removal saves, and its layers."""

    constant: float
    layers: Mapping[str, LayerCost]
    """By weight name."""


@runtime_checkable
class WidthFactor(EnvironmentFactor, Protocol):
    """An environment factor that is priced by widths. `prices` is then their local slope."""

    def costs(self, network: Network) -> Costs:
        """What the layers of a network need.

        Raises:
            BudgetError: the amount cannot be known for some layer; the message names it.
        """
        ...


def widths_refused(factor: EnvironmentFactor) -> BudgetError:
    """Why a factor that is priced by widths can't be budgeted where no whole channels go."""
    return BudgetError(
        f"A budget on {factor.name} is met by removing whole channels, which this run does not do. Ask for "
        "--clusters channel, and for --levels both or clusters."
    )


def stored_widths(weight: Weight) -> Widths:
    """Of the stored shape."""
    return Widths(
        weight.groups * weight.inputs_per_group, weight.outputs, weight.outputs * weight.inputs_per_group
    )


def live_widths(weight: Weight, mask: Mask) -> Widths:
    """What a mask leaves of a layer.

    Args:
        weight: the layer's.
        mask: canonical, shape (O, I, K).
    """
    slices = np.any(mask, axis=2)
    rows = slices.any(axis=1).reshape(weight.groups, -1)
    columns = slices.reshape(weight.groups, -1, slices.shape[1]).any(axis=1)
    inputs, outputs = columns.sum(axis=1), rows.sum(axis=1)
    return Widths(float(inputs.sum()), float(outputs.sum()), float(inputs @ outputs))


def width_amount(costs: Costs, network: Network, canonical: Mapping[str, Mask]) -> float:
    """Amount that a network needs under masks in the canonical view (closed under removal)."""
    return width_total(
        costs, {name: live_widths(network.weights[name], canonical[name]) for name in costs.layers}
    )


def width_total(costs: Costs, left: Mapping[str, Widths]) -> float:
    """Amount for the widths of layers by name; layers without any are gone."""
    return costs.constant + sum(costs.layers[name].of(widths) for name, widths in left.items())


def measured_widths(costs: Costs, network: Network, masks: Masks) -> float:
    """The same for masks as the model stores its weights."""
    return width_amount(
        costs, network, {name: weight.to_canonical(masks[name]) for name, weight in network.weights.items()}
    )


def width_prices(costs: Costs, network: Network) -> dict[str, float]:
    """What each layer needs, spread over its live synapses; the constant part is nobody's."""
    prices = {}
    for name, cost in costs.layers.items():
        live = int(np.count_nonzero(network.live(name)))
        prices[name] = cost.of(stored_widths(network.weights[name])) / live if live else 0.0
    return prices
