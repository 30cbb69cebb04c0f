"""A genome under a solved environment: what samples are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evonnx.dependency.coupling import Coupling
from evonnx.environment import Bound, Budget, EnvironmentFactor, WidthFactor, factor_of, solve_bounds
from evonnx.environment.pressure import Pressure
from evonnx.environment.widths import widths_refused
from evonnx.errors import BudgetError
from evonnx.genome import Encoding, Genome, Levels
from evonnx.masks import live_masks
from evonnx.network import Network
from evonnx.synthesis.connectivity import through_living, walk
from evonnx.synthesis.layout import Layout, find_layout


@dataclass(frozen=True)
class Solution:
    """A genome under a solved environment: draw from it as often as wanted."""

    network: Network
    coupling: Coupling
    genome: Genome
    bounds: tuple[Bound, ...]
    """At least one; a sample keeps all of them."""
    levels: Levels
    cluster_share: float
    """s of the split k^s, k^(1 - s)."""
    best_effort: bool
    pressure: Pressure
    outputs: tuple[str, ...]
    """Graph outputs that the parent connects with an input."""
    layout: Layout | None = None
    """How samples are rounded to equal counts and alignment; None where clusters are not whole channels."""

    @property
    def budget(self) -> Budget:
        """The first."""
        return self.bounds[0].budget

    @property
    def factor(self) -> EnvironmentFactor:
        """What the first bound is on."""
        return self.bounds[0].factor

    @property
    def prices(self) -> Mapping[str, float]:
        """Amount per synapse of each layer, of the first bound's factor."""
        return self.bounds[0].prices

    def drawn_at(self, scale: float) -> Solution:
        """The same bounds, but draws are expected to use this many times as much."""
        pressure = solve_bounds(self.genome, self.bounds, self.levels, self.cluster_share, scale)
        return replace(self, pressure=pressure)

    def under(self, bound: Bound, place: int = 0) -> Solution:
        """With another bound at a place among its own."""
        bounds = (*self.bounds[:place], bound, *self.bounds[place + 1 :])
        return replace(self, bounds=bounds).drawn_at(1.0)

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
    also: Sequence[Budget] = (),
) -> Solution:
    """Solve the environment's factors F_c and F_s for a budget, or several.

    Args:
        network: the parent that `genome` was read from.
        coupling: its coupling.
        genome: its genome.
        budget: the share to keep.
        levels: which of equation 1's two factors acts; None: as the encoding says.
        cluster_share: s of the split k^s, k^(1 - s); None: as the encoding says.
        best_effort: go as low as floors and pins allow where the bound is out of reach, instead of raising.
        align: wanted multiple of living channels; only where clusters are channels and that level acts.
        also: further budgets, to be kept as well.

    Raises:
        BudgetError: a factor is unknown, its amount cannot be known for some layer, or it depends on widths
            and no whole channels may go.
        ValueError: `align` is below 1.
    """
    if align < 1:
        raise ValueError(f"align must be at least 1, not {align}")
    levels = levels or genome.encoding.levels
    share = genome.encoding.cluster_share if cluster_share is None else cluster_share
    layout = None
    if genome.parent.clusters.granularity == "channel" and levels != "synapses":
        layout = _layout(coupling, genome, align)
    bounds = tuple(_bound(network, genome, one, layout is not None) for one in (budget, *also))
    pressure = solve_bounds(genome, bounds, levels, share)
    reach = walk(network, coupling, through_living(lambda name, rows: genome.parent.block(name, rows).live))
    outputs = tuple(str(value.name) for value in network.model.graph.outputs if reach.reached(value))
    return Solution(
        network=network,
        coupling=coupling,
        genome=genome,
        bounds=bounds,
        levels=levels,
        cluster_share=share,
        best_effort=best_effort,
        pressure=pressure,
        outputs=outputs,
        layout=layout,
    )


def _bound(network: Network, genome: Genome, budget: Budget, channels: bool) -> Bound:
    factor = factor_of(budget)
    prices = factor.prices(network)
    if isinstance(factor, WidthFactor):
        if not channels:
            raise widths_refused(factor)
        amount = factor.measure(network, live_masks(network))
        bound = Bound(budget, factor, prices, amount, factor.costs(network))
    else:
        amount = sum(prices[name] * count for name, count in genome.live.items())
        bound = Bound(budget, factor, prices, amount)
    if not amount > 0:
        raise BudgetError(f"{network.source} uses no {factor.unit}, so there is nothing to budget.")
    return bound


def _layout(coupling: Coupling, genome: Genome, align: int) -> Layout:
    return find_layout(coupling, (genome.cluster_live > 0) | coupling.pinned(), align)


def rounds(encoding: Encoding) -> bool:
    """Whether whole channels live or die in samples, so that their numbers can be chosen."""
    return encoding.granularity == "channel" and encoding.levels != "synapses"
