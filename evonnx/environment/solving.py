"""Solving equation 3 for whatever is budgeted: one factor or several, priced by synapse or by width.

- One factor priced by synapses: `solve_pressure`.
- A factor priced by widths (bytes, milliseconds): clusters alone act on it. Its prices are a local slope, so
  the share that is asked of them is corrected until the expected widths cost what the bound allows.
- With both levels, factors priced by widths decide about clusters and the others about synapses.
- Several of one sort: prices are mixed so that the tightest bounds are met and the others kept; what costs
  nothing extra to keep stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evonnx.environment._base import Budget, EnvironmentFactor
from evonnx.environment.pressure import Pressure, expected_synapses, solve_pressure, with_fewer_synapses
from evonnx.environment.widths import Costs, Widths, stored_widths, width_amount
from evonnx.genome import Floats, Genome, Levels
from evonnx.masks import Mask, Masks
from evonnx.network import Network

_CLOSE = 0.005
"""Accepted relative error of an expectation."""
_STEPS = 12
_FEWEST = 1e-6
"""Smallest share of an amount that is asked for."""


@dataclass(frozen=True)
class Bound:
    """A budget on one network: what its offspring may use."""

    budget: Budget
    factor: EnvironmentFactor
    prices: Mapping[str, float]
    parent_amount: float
    """What the parent uses."""
    costs: Costs | None = None
    """Where the factor is priced by widths."""

    @property
    def amount(self) -> float:
        """What an offspring may use."""
        return self.budget.share * self.parent_amount

    @property
    def held(self) -> bool:
        """Whether samples are trimmed to it."""
        return self.factor.hard or self.costs is not None

    def uses(self, network: Network, canonical: Mapping[str, Mask], stored: Callable[[], Masks]) -> float:
        """What masks use, in the canonical view and (made only where it is needed) as stored."""
        if self.costs is not None:
            return width_amount(self.costs, network, canonical)
        return self.factor.measure(network, stored())


def expected_widths(costs: Costs, genome: Genome, survival: Floats) -> float:
    """Amount at the widths that are expected when clusters survive so, shape (n_clusters,)."""
    total = costs.constant
    for name, layer in genome.parent.clusters.layers.items():
        assert layer.rows is not None
        assert layer.columns is not None
        outputs = survival[layer.rows].reshape(layer.groups, -1).sum(axis=1, dtype=np.float64)
        inputs = survival[layer.columns].sum(axis=1, dtype=np.float64)
        left = Widths(float(inputs.sum()), float(outputs.sum()), float(inputs @ outputs))
        total += costs.layers[name].of(left)
    return total


def solve_bounds(
    genome: Genome, bounds: Sequence[Bound], levels: Levels, cluster_share: float, scale: float = 1.0
) -> Pressure:
    """Find F_c and F_s for all bounds at once.

    Args:
        genome: what the parent hands down.
        bounds: at least one.
        levels: which factors of equation 1 act.
        cluster_share: s of the split k^s, k^(1 - s) where one sort of bounds decides about both levels.
        scale: draw at this many times the bounds' shares, 1 at most per bound.

    Returns:
        The pressure; `expected_share` is that of the first bound's amount.
    """

    def at_all_levels(prices: Mapping[str, float], share: float) -> Pressure:
        return solve_pressure(genome, prices, share, levels, cluster_share)

    def by_clusters(prices: Mapping[str, float], share: float) -> Pressure:
        return solve_pressure(genome, prices, share, "clusters", 1.0)

    wide = [one for one in bounds if one.costs is not None]
    narrow = [one for one in bounds if one.costs is None]
    if not wide and len(narrow) == 1:
        (one,) = narrow
        return at_all_levels(one.prices, min(1.0, scale * one.budget.share))
    if not wide:
        pressure = _mixed(genome, narrow, scale, at_all_levels)
    elif narrow and levels == "both":
        survivors = _mixed(genome, wide, scale, by_clusters)
        pressure = _mixed(
            genome,
            narrow,
            scale,
            lambda prices, share: with_fewer_synapses(genome, survivors, prices, share),
        )
    else:
        pressure = _mixed(genome, bounds, scale, by_clusters)
    (first,) = _expected(genome, bounds[:1], pressure)
    return replace(pressure, expected_share=first / bounds[0].parent_amount)


def _expected(genome: Genome, bounds: Sequence[Bound], pressure: Pressure) -> list[float]:
    """What samples use on average, before removal and rounding, of each bound's factor."""
    live = {} if all(one.costs is not None for one in bounds) else expected_synapses(genome, pressure)
    return [
        sum(one.prices[name] * count for name, count in live.items())
        if one.costs is None
        else expected_widths(one.costs, genome, pressure.cluster_survival)
        for one in bounds
    ]


def _mixed(
    genome: Genome,
    bounds: Sequence[Bound],
    scale: float,
    solved: Callable[[Mapping[str, float], float], Pressure],
) -> Pressure:
    """Solve mixed prices until no expectation is above its bound and one is at it.

    Of what can go with each factor (the parent's amount without what no removal saves), bounds leave a share;
    shares and weights are corrected by what is expected, as logarithms.
    """
    totals = np.array([_removable(one, genome) for one in bounds])
    fixed = np.array([one.parent_amount for one in bounds]) - totals
    allowed = np.array([min(1.0, scale * one.budget.share) * one.parent_amount for one in bounds]) - fixed
    wanted = np.clip(allowed / totals, _FEWEST, 1.0)
    weights = (wanted == wanted.min()).astype(np.float64)
    share = float(wanted.min())
    best: tuple[float, Pressure] | None = None
    for _ in range(_STEPS):
        weights /= weights.sum()
        prices = {
            name: float(
                sum(w * one.prices[name] / t for w, one, t in zip(weights, bounds, totals, strict=True))
            )
            for name in genome.live
        }
        pressure = solved(prices, share)
        expected = np.array(_expected(genome, bounds, pressure)) - fixed
        over = np.log(np.maximum(expected / totals, _FEWEST) / wanted)
        worst = float(over.max())
        if best is None or abs(worst) < best[0]:
            best = abs(worst), pressure
        if abs(worst) < _CLOSE or (share >= 1 and worst < 0):
            break
        share = float(np.clip(share * np.exp(-worst), _FEWEST, 1.0))
        weights = np.maximum(weights, 1e-3) * np.exp(over - worst)
    assert best is not None
    return best[1]


def _removable(bound: Bound, genome: Genome) -> float:
    """What of the parent's amount hangs on its layers."""
    if bound.costs is None:
        return bound.parent_amount
    weights = genome.parent.network.weights
    return sum(cost.of(stored_widths(weights[name])) for name, cost in bound.costs.layers.items())
