"""The environment of equation 3: factors that are scarce, budgets on them, and the F that meets a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evonnx.environment._base import Budget, EnvironmentFactor
from evonnx.environment.bytes import ByteBudget
from evonnx.environment.latency import LatencyBudget
from evonnx.environment.macs import MacBudget
from evonnx.environment.solving import Bound, solve_bounds
from evonnx.environment.synapses import SynapseBudget
from evonnx.environment.widths import WidthFactor
from evonnx.errors import BudgetError
from evonnx.network import Network

__all__ = [
    "Bound",
    "Budget",
    "ByteBudget",
    "EnvironmentFactor",
    "LatencyBudget",
    "MacBudget",
    "SynapseBudget",
    "WidthFactor",
    "factor_of",
    "prices_of",
    "solve_bounds",
]

_BUILT_IN: dict[str, EnvironmentFactor] = {
    factor.name: factor for factor in (SynapseBudget(), MacBudget(), ByteBudget(), LatencyBudget())
}


def factor_of(budget: Budget) -> EnvironmentFactor:
    """The factor a budget names.

    Raises:
        BudgetError: the name is not a built-in factor's (others are passed as objects).
    """
    if not isinstance(budget.factor, str):
        return budget.factor
    if budget.factor not in _BUILT_IN:
        raise BudgetError(
            f"No environment factor is called {budget.factor!r}; built in are {', '.join(_BUILT_IN)}. "
            "`evonnx plugins` lists those that others add."
        )
    return _BUILT_IN[budget.factor]


def prices_of(network: Network, budgets: Sequence[Budget]) -> Mapping[str, float] | None:
    """What a live synapse of each layer uses of what is budgeted, beside the mean synapse; of several budgets
    the mean.

    Returns:
        Relative amounts by weight name; None where all are the same.

    Raises:
        BudgetError: a factor is unknown, or its amount cannot be known for some layer.
    """
    each = [factor_of(budget).prices(network) for budget in budgets]
    if all(len(set(prices.values())) <= 1 for prices in each):
        return None
    live = {name: int(np.count_nonzero(network.live(name))) for name in network.weights}
    mixed = dict.fromkeys(live, 0.0)
    for prices in each:
        total = sum(prices[name] * count for name, count in live.items())
        for name in mixed if total > 0 else ():
            mixed[name] += prices[name] * sum(live.values()) / (total * len(budgets))
    return mixed if len(set(mixed.values())) > 1 else None
