"""What the offspring of each generation may use, from what the run was asked to end at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evonnx.environment import Budget, EnvironmentFactor, LatencyBudget, SynapseBudget, WidthFactor
from evonnx.environment.widths import widths_refused
from evonnx.errors import BudgetError
from evonnx.evolution.options import Pressure
from evonnx.genome import Encoding
from evonnx.latency import latency_budget
from evonnx.masks import live_masks
from evonnx.network import Network
from evonnx.plugins import get
from evonnx.synthesis import rounds

_SLOWEST, _FASTEST = 0.1, 10.0


@dataclass(frozen=True)
class Goal:
    """An amount of a factor to end at."""

    factor: EnvironmentFactor
    amount: float


@dataclass(frozen=True)
class Budgeting:
    """The bounds of a run, generation by generation."""

    pressure: Pressure
    generations: int
    goals: tuple[Goal, ...] = ()
    """Where `--budget` asks for them; else synapses are bounded, step by step."""

    @property
    def leading(self) -> EnvironmentFactor:
        """What was asked for first: what offspring are told apart by."""
        return self.goals[0].factor if self.goals else SynapseBudget()

    def bounds(self, parent: Network, generation: int, easings: int = 0) -> tuple[Budget, ...]:
        """What the offspring of a parent may use.

        Of what is left to go towards a goal, as a logarithm, with n generations left this one takes
        1 - ((n - 1) / n) ** pace: equal steps at pace 1. A parent that ended below its bound leaves the next
        generations more. Each easing halves the step, as a logarithm.
        """
        gentler = 0.5**easings
        if not self.goals:
            return (Budget(self.pressure.bound(self.generations) ** gentler, SynapseBudget()),)
        left = max(1, self.generations - generation + 1)
        step = gentler * (1 - ((left - 1) / left) ** self.pressure.pace)
        masks = live_masks(parent)
        return tuple(
            Budget(min(1.0, (goal.amount / goal.factor.measure(parent, masks)) ** step), goal.factor)
            for goal in self.goals
        )


def check_factors(factors: Mapping[str, EnvironmentFactor], encoding: Encoding, ancestor: Network) -> None:
    """Tell of a budget that can't be kept before anything is measured or written.

    Raises:
        BudgetError: it needs whole channels to go, which they do not, or an amount cannot be known.
    """
    for factor in factors.values():
        if isinstance(factor, WidthFactor) and not rounds(encoding):
            raise widths_refused(factor)
        if not isinstance(factor, LatencyBudget):
            factor.measure(ancestor, live_masks(ancestor))


def factors_of(pressure: Pressure) -> dict[str, EnvironmentFactor]:
    """The factors that are budgeted, by name.

    Raises:
        BudgetError: the pace is out of range, or there is no budget to keep it towards.
        PluginError: there is no such factor.
    """
    if not _SLOWEST <= pressure.pace <= _FASTEST:
        raise BudgetError(
            f"The pace is {pressure.pace:g}; it must lie between {_SLOWEST:g} and {_FASTEST:g}, and is 1 for "
            "equal steps."
        )
    if pressure.pace != 1 and not pressure.budget:
        raise BudgetError("A pace is kept towards a budget; give one, such as `--budget synapses=0.05`.")
    for name, share in pressure.budget.items():
        Budget(share, name)  # a share out of range is told before anything is measured
    return {name: get("environment_factors", name)() for name in pressure.budget}


def budgeting_of(
    pressure: Pressure,
    generations: int,
    ancestor: Network,
    factors: Mapping[str, EnvironmentFactor],
    table: dict[str, Any] | None,
) -> Budgeting:
    """The bounds of a run.

    Args:
        pressure: what was asked for.
        generations: of the run.
        ancestor: what shares are shares of.
        factors: of every budget.
        table: from `measure_latency`, where latency is budgeted.

    Raises:
        BudgetError: an amount cannot be known.
    """
    masks = live_masks(ancestor)
    goals = []
    for name, share in pressure.budget.items():
        factor = factors[name]
        if table is not None and isinstance(factor, LatencyBudget):
            goals.append(Goal(latency_budget(table), share * float(table["ancestor_ms"])))
        else:
            goals.append(Goal(factor, share * factor.measure(ancestor, masks)))
    return Budgeting(pressure, generations, tuple(goals))
