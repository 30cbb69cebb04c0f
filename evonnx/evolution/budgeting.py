"""What the offspring of each generation may use, from what the run was asked to end at."""

from __future__ import annotations

from dataclasses import dataclass

from evonnx.environment import Budget, EnvironmentFactor, SynapseBudget
from evonnx.errors import BudgetError
from evonnx.evolution.options import Pressure
from evonnx.masks import live_masks
from evonnx.network import Network
from evonnx.plugins import get

_SLOWEST, _FASTEST = 0.1, 10.0


@dataclass(frozen=True)
class Budgeting:
    """The bounds of a run, generation by generation."""

    pressure: Pressure
    generations: int
    factor: EnvironmentFactor
    """What is budgeted."""
    goal: float | None
    """Amount of it to end at, where `--budget` asks for one."""

    def bound(self, parent: Network, generation: int) -> Budget:
        """What the offspring of a parent may use.

        Of what is left to go towards a goal, as a logarithm, with n generations left this one takes
        1 - ((n - 1) / n) ** pace: equal steps at pace 1. A parent that ended below its bound leaves the next
        generations more.
        """
        if self.goal is None:
            return Budget(self.pressure.bound(self.generations), self.factor)
        has = self.factor.measure(parent, live_masks(parent))
        left = max(1, self.generations - generation + 1)
        step = 1 - ((left - 1) / left) ** self.pressure.pace
        return Budget(min(1.0, (self.goal / has) ** step), self.factor)


def budgeting_of(pressure: Pressure, generations: int, ancestor: Network) -> Budgeting:
    """Read the budgets of a run.

    Raises:
        BudgetError: several are asked for, a share is out of range, or the amount cannot be known.
        PluginError: there is no such factor.
    """
    if not _SLOWEST <= pressure.pace <= _FASTEST:
        raise BudgetError(
            f"The pace is {pressure.pace:g}; it must lie between {_SLOWEST:g} and {_FASTEST:g}, and is 1 for "
            "equal steps."
        )
    if pressure.pace != 1 and not pressure.budget:
        raise BudgetError("A pace is kept towards a budget; give one, such as `--budget synapses=0.05`.")
    if not pressure.budget:
        return Budgeting(pressure, generations, SynapseBudget(), None)
    if len(pressure.budget) > 1:
        raise BudgetError(
            f"Budgets are given on {', '.join(pressure.budget)}; a run follows one of them. "
            "Give the one that matters most."
        )
    [(name, share)] = pressure.budget.items()
    factor: EnvironmentFactor = get("environment_factors", name)()
    goal = Budget(share, factor).share * factor.measure(ancestor, live_masks(ancestor))
    return Budgeting(pressure, generations, factor, goal)
