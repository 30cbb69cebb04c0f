"""A genome under a solved environment: what samples are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evonnx.dependency.coupling import Coupling
from evonnx.environment import Budget, EnvironmentFactor, factor_of
from evonnx.environment.pressure import Pressure, solve_pressure
from evonnx.errors import BudgetError
from evonnx.genome import Encoding, Genome, Levels
from evonnx.network import Network
from evonnx.synthesis.connectivity import through_living, walk
from evonnx.synthesis.layout import Layout, find_layout


@dataclass(frozen=True)
class Solution:
    """A genome under a solved environment: draw from it as often as wanted."""

    network: Network
    coupling: Coupling
    genome: Genome
    budget: Budget
    factor: EnvironmentFactor
    levels: Levels
    cluster_share: float
    """s of the split k^s, k^(1 - s)."""
    best_effort: bool
    prices: Mapping[str, float]
    pressure: Pressure
    parent_amount: float
    """What the parent uses of the factor."""
    outputs: tuple[str, ...]
    """Graph outputs that the parent connects with an input."""
    layout: Layout | None = None
    """How samples are rounded to equal counts and alignment; None where clusters are not whole channels."""

    @property
    def bound(self) -> float:
        """Amount that an offspring may use."""
        return self.budget.share * self.parent_amount

    def drawn_at(self, share: float) -> Solution:
        """The same bound, but draws are expected to use this share of the parent's amount."""
        pressure = solve_pressure(self.genome, self.prices, share, self.levels, self.cluster_share)
        return replace(self, pressure=pressure)

    def aligned(self, align: int) -> Solution:
        """The same for another alignment; unchanged where numbers of channels are not chosen."""
        if self.layout is None:
            return self
        return replace(self, layout=_layout(self.coupling, self.genome, align))


def solve(
    network: Network,
    coupling: Coupling,
    genome: Genome,
    budget: Budget,
    *,
    levels: Levels | None = None,
    cluster_share: float | None = None,
    best_effort: bool = False,
    align: int = 1,
) -> Solution:
    """Solve the environment's factors F_c and F_s for a budget.

    Args:
        network: the parent that `genome` was read from.
        coupling: its coupling.
        genome: its genome.
        budget: the share to keep.
        levels: which of equation 1's two factors acts; None: as the encoding says.
        cluster_share: s of the split k^s, k^(1 - s); None: as the encoding says.
        best_effort: go as low as floors and pins allow where the bound is out of reach, instead of raising.
        align: wanted multiple of living channels; only where clusters are channels and that level acts.

    Raises:
        BudgetError: the factor is unknown, or its amount cannot be known for some layer.
        ValueError: `align` is below 1.
    """
    if align < 1:
        raise ValueError(f"align must be at least 1, not {align}")
    factor = factor_of(budget)
    prices = factor.prices(network)
    levels = levels or genome.encoding.levels
    share = genome.encoding.cluster_share if cluster_share is None else cluster_share
    layout = None
    if genome.parent.clusters.granularity == "channel" and levels != "synapses":
        layout = _layout(coupling, genome, align)
    amount = sum(prices[name] * count for name, count in genome.live.items())
    if not amount > 0:
        raise BudgetError(f"{network.source} uses no {factor.unit}, so there is nothing to budget.")
    pressure = solve_pressure(genome, prices, budget.share, levels, share)
    reach = walk(network, coupling, through_living(lambda name, rows: genome.parent.block(name, rows).live))
    outputs = tuple(str(value.name) for value in network.model.graph.outputs if reach.reached(value))
    return Solution(
        network=network,
        coupling=coupling,
        genome=genome,
        budget=budget,
        factor=factor,
        levels=levels,
        cluster_share=share,
        best_effort=best_effort,
        prices=prices,
        pressure=pressure,
        parent_amount=amount,
        outputs=outputs,
        layout=layout,
    )


def _layout(coupling: Coupling, genome: Genome, align: int) -> Layout:
    return find_layout(coupling, (genome.cluster_live > 0) | coupling.pinned(), align)


def rounds(encoding: Encoding) -> bool:
    """Whether whole channels live or die in samples, so that their numbers can be chosen."""
    return encoding.granularity == "channel" and encoding.levels != "synapses"
