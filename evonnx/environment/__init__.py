"""The environment of equation 3: factors that are scarce, budgets on them, and the F that meets a budget."""

from __future__ import annotations

from evonnx.environment._base import Budget, EnvironmentFactor
from evonnx.environment.bytes import ByteBudget
from evonnx.environment.latency import LatencyBudget
from evonnx.environment.macs import MacBudget
from evonnx.environment.solving import Bound, solve_bounds
from evonnx.environment.synapses import SynapseBudget
from evonnx.environment.widths import WidthFactor
from evonnx.errors import BudgetError

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
