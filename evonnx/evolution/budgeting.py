"""What the offspring of each generation may use, from what the run was asked to end at."""

from __future__ import annotations

from dataclasses import dataclass

from evonnx.environment import Budget, EnvironmentFactor, SynapseBudget
from evonnx.errors import BudgetError
from evonnx.evolution.options import Pressure
from evonnx.masks import live_masks
from evonnx.network import Network
from evonnx.plugins import get


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

        Towards a goal what is left to go is taken in equal steps, so that a parent that ended below its
        bound leaves the next generations more.
        """
        if self.goal is None:
            return Budget(self.pressure.bound(self.generations), self.factor)
        has = self.factor.measure(parent, live_masks(parent))
        steps = max(1, self.generations - generation + 1)
        return Budget(min(1.0, (self.goal / has) ** (1 / steps)), self.factor)


def budgeting_of(pressure: Pressure, generations: int, ancestor: Network) -> Budgeting:
    """Read the budgets of a run.

    Raises:
        BudgetError: several are asked for, a share is out of range, or the amount cannot be known.
        PluginError: there is no such factor.
    """
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
