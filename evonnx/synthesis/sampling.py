"""Synthesis: offspring drawn from a genome under a budget (equation 3).

Precedence: connectivity floor > bound > expectation. A draw is repaired where it cuts an output off, run to
    the fixed point of removal, and held to the bound.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.dependency.coupling import Coupling
from evonnx.dependency.liveness import close
from evonnx.environment import Budget, EnvironmentFactor, factor_of
from evonnx.environment.pressure import Pressure, solve_pressure, survival
from evonnx.errors import BudgetError
from evonnx.genome import Block, Genome, Levels
from evonnx.masks import Mask
from evonnx.network import Network
from evonnx.synthesis.connectivity import Link, Reach, through, through_living, trace, walk
from evonnx.synthesis.trimming import Canonical, trim_clusters, trim_synapses

_WAKING = -1e6
"""Score of waking a dead synapse, far below any log probability: chains wake as few as they can."""
_TIE = 1e-3
"""Weight of log probabilities among synapses that live."""


@dataclass(frozen=True)
class Solution:
    """A genome under a solved environment: draw from it as often as wanted."""

    network: Network
    coupling: Coupling
    genome: Genome
    budget: Budget
    factor: EnvironmentFactor
    levels: Levels
    best_effort: bool
    prices: Mapping[str, float]
    pressure: Pressure
    parent_amount: float
    """What the parent uses of the factor."""
    outputs: tuple[str, ...]
    """Graph outputs that the parent connects with an input."""

    @property
    def bound(self) -> float:
        """Amount that an offspring may use."""
        return self.budget.share * self.parent_amount


@dataclass(frozen=True)
class Sample:
    """One offspring as masks."""

    masks: dict[str, Mask]
    """By weight name, stored layout, removal run to its fixed point; True lives."""
    expected_share: float
    """Of the parent's amount, over all draws, before removal, trimming and floors."""
    achieved_share: float
    """Of the parent's amount, by this one."""
    survivors: int
    """Live synapses."""
    parent_synapses: int
    notes: tuple[str, ...] = field(default=())
    """What the user should know, one sentence each."""


def synthesize(
    network: Network,
    coupling: Coupling,
    genome: Genome,
    budget: Budget,
    rng: np.random.Generator,
    *,
    levels: Levels | None = None,
    cluster_share: float | None = None,
    best_effort: bool = False,
    trim: bool = True,
) -> Sample:
    """Draw one offspring: `solve`, then `sample`; see there."""
    solution = solve(
        network, coupling, genome, budget, levels=levels, cluster_share=cluster_share, best_effort=best_effort
    )
    return sample(solution, rng, trim=trim)


def solve(
    network: Network,
    coupling: Coupling,
    genome: Genome,
    budget: Budget,
    *,
    levels: Levels | None = None,
    cluster_share: float | None = None,
    best_effort: bool = False,
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

    Raises:
        BudgetError: the factor is unknown, or its amount cannot be known for some layer.
    """
    factor = factor_of(budget)
    prices = factor.prices(network)
    levels = levels or genome.encoding.levels
    share = genome.encoding.cluster_share if cluster_share is None else cluster_share
    amount = sum(prices[name] * count for name, count in genome.live.items())
    if not amount > 0:
        raise BudgetError(f"{network.source} uses no {factor.unit}, so there is nothing to budget.")
    pressure = solve_pressure(genome, prices, budget.share, levels, share)
    reach = walk(network, coupling, through_living(lambda name, rows: genome.parent.block(name, rows).live))
    outputs = tuple(str(value.name) for value in network.model.graph.outputs if reach.reached(value))
    return Solution(
        network, coupling, genome, budget, factor, levels, best_effort, prices, pressure, amount, outputs
    )


def sample(solution: Solution, rng: np.random.Generator, *, trim: bool = True) -> Sample:
    """Draw one offspring.

    Args:
        solution: from `solve`.
        rng: the only source of randomness; results do not depend on threads.
        trim: hold the sample to bound and floors, and run removal to its fixed point; otherwise the bare
            draws of equation 3 are given.

    Raises:
        BudgetError: floors and pins make the bound unreachable; the message names the lowest reachable share.
    """
    draft = _Draft(solution, rng)
    notes = draft.settle() if trim else []
    stored = draft.stored()
    return Sample(
        masks=stored,
        expected_share=solution.pressure.expected_share,
        achieved_share=solution.factor.measure(solution.network, stored) / solution.parent_amount,
        survivors=sum(int(np.count_nonzero(mask)) for mask in stored.values()),
        parent_synapses=sum(solution.genome.live.values()),
        notes=tuple(notes),
    )


class _Draft:
    """A sample in the making: which clusters and synapses live, in the canonical view."""

    def __init__(self, solution: Solution, rng: np.random.Generator) -> None:
        self.solution = solution
        self.start = copy.deepcopy(rng)
        self._draw(rng)

    def _draw(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.alive = self._draw_clusters()
        self.masks: Canonical = {}
        for name in self.solution.network.weights:
            self._draw_synapses(name)

    def _draw_clusters(self) -> Mask:
        chances = self.solution.pressure.cluster_survival
        if self.solution.levels == "synapses":
            return np.asarray(chances > 0)
        return np.asarray(self.rng.random(len(chances), dtype=np.float32) < chances)

    def _draw_synapses(self, name: str) -> None:
        """Independent draws; every block has a random stream of its own, so threads don't matter."""
        genome, pressure = self.solution.genome, self.solution.pressure
        weight = self.solution.network.weights[name]
        mask = np.empty((weight.outputs, weight.inputs_per_group, weight.taps), dtype=np.bool_)
        layer = genome.parent.clusters.layers[name]
        certain = pressure.synapse_log_factor[name] == math.inf
        streams = np.random.SeedSequence(self.rng.integers(1 << 63, size=2).tolist()).spawn(
            len(genome.parent.row_blocks(name))
        )

        def draw(block: Block) -> None:
            drawn = mask[block.rows]
            np.logical_and(block.live, layer.spread(self.alive, block.rows), out=drawn)
            if not certain:
                generator = np.random.Generator(np.random.SFC64(streams[block.index]))
                drawn &= generator.random(drawn.shape, dtype=np.float32) < survival(genome, pressure, block)

        for _ in genome.parent.map(name, draw):
            pass
        self.masks[name] = mask

    def stored(self) -> dict[str, Mask]:
        """Masks as the model stores its weights."""
        weights = self.solution.network.weights
        return {
            name: np.ascontiguousarray(weights[name].from_canonical(mask), dtype=np.bool_)
            for name, mask in self.masks.items()
        }

    def settle(self) -> list[str]:
        """Floors, removal and bound; gives notes.

        Raises:
            BudgetError: see `sample`.
        """
        solution = self.solution
        notes: list[str] = []
        if self._cut():
            woken = self._wake(self._chain())
            what = "cluster" if solution.levels == "clusters" else "synapse"
            notes.append(f"To keep outputs connected with inputs, {woken} {what}(s) live against the draw.")
        self._close()
        if not solution.factor.hard or self._excess() <= 0:
            return notes
        self._trim([])
        if self._excess() <= 0 and not self._cut():
            return notes
        for fewest in (False, True):
            # The same draw again, rather than a copy of it kept for a case this rare.
            self._draw(copy.deepcopy(self.start))
            links = self._chain(fewest)
            self._wake(links)
            self._close()
            self._trim(links)
            if self._excess() <= 0:
                return notes
        lowest = self._amount() / solution.parent_amount
        if not solution.best_effort:
            raise BudgetError(
                f"A budget of {solution.budget.share:.4g} of the {solution.parent_amount:.0f} "
                f"{solution.factor.unit} of {solution.network.source} cannot be met: keeping every output "
                f"connected with an input, and what is pinned, needs a share of "
                f"{math.ceil(lowest * 1e4) / 1e4:g}. Ask for at least that, or for --best-effort."
            )
        return [
            *notes,
            f"The budget of {solution.budget.share:.4g} is out of reach; {lowest:.4g} is the lowest share.",
        ]

    def _amount(self) -> float:
        return sum(self.solution.prices[name] * np.count_nonzero(mask) for name, mask in self.masks.items())

    def _excess(self) -> float:
        return self.solution.factor.measure(self.solution.network, self.masks) - self.solution.bound

    def _close(self) -> None:
        """Run removal to its fixed point."""
        network = self.solution.network
        closed = close(network, self.solution.coupling, self.stored()).masks
        # Trimming writes through flat views, which only contiguous arrays have.
        self.masks = {
            name: np.ascontiguousarray(network.weights[name].to_canonical(mask))
            for name, mask in closed.items()
        }

    def _reach(self) -> Reach:
        step = through_living(lambda name, rows: self.masks[name][rows])
        return walk(self.solution.network, self.solution.coupling, step)

    def _cut(self) -> bool:
        """Whether some output has lost every input."""
        reach = self._reach()
        return not all(reach.reached(value) for value in self._outputs())

    def _outputs(self) -> list[ir.Value]:
        wanted = set(self.solution.outputs)
        return [value for value in self.solution.network.model.graph.outputs if value.name in wanted]

    def _chain(self, fewest: bool = False) -> list[Link]:
        """Slices that connect every output with an input: the fewest dead ones, then the most probable; or
        the cheapest in the budget's own terms, whether they live or not."""
        solution = self.solution
        genome = solution.genome
        log_clusters = genome.cluster_log_probability()
        links: list[Link] = []

        def edges(name: str, rows: slice) -> NDArray[np.floating]:
            block = genome.parent.block(name, rows)
            log_p = genome.synapse_log_probability(block)
            if fewest:
                scores = np.full(block.live.shape[:2], -solution.prices[name])
            else:
                log_c = genome.parent.clusters.layers[name].spread(log_clusters, rows, np.add)
                log_p = np.where(block.live, log_p, -np.inf) + log_c
                here = self.masks[name][rows]
                scores = np.where(here, log_p * _TIE, log_p + _WAKING).max(axis=2)
            scores[~block.live.any(axis=2)] = -np.inf
            for link in links:
                if link.weight == name and rows.start <= link.output < rows.stop:
                    scores[link.output - rows.start, link.input] = 0
            return scores

        for value in self._outputs():
            links += trace(walk(solution.network, solution.coupling, through(edges)), edges, value)
        return list(dict.fromkeys(links))

    def _tap(self, link: Link) -> int:
        """The most probable synapse of a slice: a live one if there is any, else one the parent has."""
        block = self.solution.genome.parent.block(link.weight, slice(link.output, link.output + 1))
        log_p = self.solution.genome.synapse_log_probability(block)[0, link.input]
        here = self.masks[link.weight][link.output, link.input]
        candidates = here if here.any() else block.live[0, link.input]
        return int(np.argmax(np.where(candidates, log_p, -np.inf)))

    def _wake(self, links: list[Link]) -> int:
        """Let a chain live; gives how many synapses, or clusters, were dead."""
        clusters = self.solution.genome.parent.clusters
        if self.solution.levels == "clusters":
            wanted = np.unique(
                [one for link in links for one in clusters.layers[link.weight].of(link.output, link.input)]
            )
            woken = int(np.count_nonzero(~self.alive[wanted]))
            if woken:
                self.alive[wanted] = True
                for name in self.masks:
                    self._draw_synapses(name)
            return woken
        woken = 0
        for link in links:
            slice_ = self.masks[link.weight][link.output, link.input]
            if not slice_.any():
                slice_[self._tap(link)] = True
                woken += 1
        return woken

    def _trim(self, spared: list[Link]) -> None:
        """Get rid of what is above the bound, and of what dies with it."""
        solution = self.solution
        genome, pressure, prices = solution.genome, solution.pressure, solution.prices
        excess = self._excess()
        if excess <= 0:
            return
        if solution.levels == "clusters":
            layers = genome.parent.clusters.layers
            kept = np.zeros(genome.parent.clusters.n_clusters, dtype=np.bool_)
            for link in spared:
                kept[layers[link.weight].of(link.output, link.input)] = True
            trim_clusters(genome, pressure, self.masks, self.alive, prices, excess, kept, self.rng)
        else:
            protected: dict[str, list[int]] = {}
            for link in spared:
                weight = solution.network.weights[link.weight]
                place = (link.output * weight.inputs_per_group + link.input) * weight.taps + self._tap(link)
                protected.setdefault(link.weight, []).append(place)
            indices = {name: np.array(places, dtype=np.int64) for name, places in protected.items()}
            trim_synapses(genome, pressure, self.masks, prices, excess, indices, self.rng)
        self._close()
