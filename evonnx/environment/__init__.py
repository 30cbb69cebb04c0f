"""The environment of equation 3: factors that are scarce, budgets on them, and the F that meets a budget."""

from __future__ import annotations

from evonnx.environment._base import Budget, EnvironmentFactor
from evonnx.environment.macs import MacBudget
from evonnx.environment.synapses import SynapseBudget
from evonnx.errors import BudgetError

__all__ = ["Budget", "EnvironmentFactor", "MacBudget", "SynapseBudget", "factor_of"]

_BUILT_IN: dict[str, EnvironmentFactor] = {"synapses": SynapseBudget(), "macs": MacBudget()}


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
