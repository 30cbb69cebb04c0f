"""A sample in the making: drawn, connected, rounded, closed under removal and held to its bound.

Precedence: connectivity floor > bound > equal counts and alignment > expectation.
"""

from __future__ import annotations

import copy
import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.liveness import close_canonical
from evonnx.environment import Bound
from evonnx.environment.pressure import survival
from evonnx.errors import BudgetError
from evonnx.genome import Block
from evonnx.masks import Mask
from evonnx.synthesis.alignment import Alignment, assess
from evonnx.synthesis.amounts import Amounts, SynapseAmounts, WidthAmounts
from evonnx.synthesis.chaining import Chains
from evonnx.synthesis.connectivity import Link
from evonnx.synthesis.giving_back import give_back
from evonnx.synthesis.layout import Layout
from evonnx.synthesis.rounding import Fit
from evonnx.synthesis.solution import Solution
from evonnx.synthesis.stacks import Drawn
from evonnx.synthesis.trimming import Canonical, restrict, trim_clusters, trim_synapses

_ATTEMPTS = 8
"""Times that a sample is rounded or trimmed anew where removal undid what was chosen."""


class Draft:
    """A sample in the making: which clusters and synapses live, in the canonical view."""

    def __init__(self, solution: Solution, rng: np.random.Generator) -> None:
        self.solution = solution
        self.layout = solution.layout
        self.chains = Chains(solution)
        self.start = copy.deepcopy(rng)
        self._draw(rng)

    def _draw(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.alive = self._draw_clusters()
        self.entropy: dict[str, list[int]] = {}
        self.woken: list[tuple[str, int, int, int]] = []
        self.banned = np.zeros_like(self.alive)
        self.masks: Canonical = {}
        for name in self.solution.network.weights:
            self.entropy[name] = self.rng.integers(1 << 63, size=2).tolist()
            self._draw_synapses(name)
        self.drawn = self.alive
        self.spared: list[Link] = []
        self.fits: list[Fit] = []
        self.reasons: dict[int, str] = {}

    def _draw_clusters(self) -> Mask:
        chances = self.solution.pressure.cluster_survival
        if self.solution.levels == "synapses":
            return np.asarray(chances > 0)
        return np.asarray(self.rng.random(len(chances), dtype=np.float32) < chances)

    def _draw_synapses(self, name: str) -> None:
        """Independent draws in clusters that live, the same whenever they are drawn; every block has a random
        stream of its own, so threads don't matter."""
        genome, pressure = self.solution.genome, self.solution.pressure
        weight = self.solution.network.weights[name]
        mask = np.empty((weight.outputs, weight.inputs_per_group, weight.taps), dtype=np.bool_)
        layer = genome.parent.clusters.layers[name]
        certain = pressure.synapse_log_factor[name] == math.inf
        streams = np.random.SeedSequence(self.entropy[name]).spawn(len(genome.parent.row_blocks(name)))

        def draw(block: Block) -> None:
            drawn = mask[block.rows]
            np.logical_and(block.live, layer.spread(self.alive, block.rows), out=drawn)
            if not certain:
                generator = np.random.Generator(np.random.SFC64(streams[block.index]))
                drawn &= generator.random(drawn.shape, dtype=np.float32) < survival(genome, pressure, block)

        for _ in genome.parent.map(name, draw):
            pass
        self.masks[name] = mask
        for woken, *place in self.woken:
            if woken == name:
                mask[tuple(place)] = True

    def stored(self) -> dict[str, Mask]:
        """Masks as the model stores its weights."""
        weights = self.solution.network.weights
        return {
            name: np.ascontiguousarray(weights[name].from_canonical(mask), dtype=np.bool_)
            for name, mask in self.masks.items()
        }

    def settle(self) -> list[str]:
        """Floors, removal, rounding and bound; gives notes.

        Raises:
            BudgetError: see `sample`.
        """
        solution = self.solution
        notes: list[str] = []
        if self.chains.cut(self.masks):
            links = self.chains.chain(self.masks)
            woken = self._wake(links)
            what = "cluster" if solution.levels == "clusters" else "synapse"
            notes.append(f"To keep outputs connected with inputs, {woken} {what}(s) live against the draw.")
            self.spared = links if self.layout else []
        if self._fits_in():
            return notes
        for layout in self._layouts():
            for fewest in (False, True):
                # The same draw again, rather than a copy of it kept for a case this rare.
                self._draw(copy.deepcopy(self.start))
                self.layout = layout
                self.spared = self.chains.chain(self.masks, fewest)
                self._wake(self.spared)
                if self._fits_in():
                    return notes
        if self.chains.cut(self.masks):
            self._revive()
            notes.append("To keep outputs connected with inputs, the most probable clusters live.")
            if not self._exceeded():
                return notes
        shares = [(self._used(bound) / bound.parent_amount, bound) for bound in self._exceeded()]
        lowest, worst = max(shares, key=lambda one: one[0] / one[1].budget.share)
        if not solution.best_effort:
            raise BudgetError(
                f"A budget of {worst.budget.share:.4g} of the {worst.parent_amount:.6g} "
                f"{worst.factor.unit} of {solution.network.source} cannot be met: keeping every output "
                f"connected with an input, and what is pinned, needs a share of "
                f"{math.ceil(lowest * 1e4) / 1e4:g}. Ask for at least that, or for --best-effort."
            )
        return [
            *notes,
            f"The budget of {worst.budget.share:.4g} is out of reach; {lowest:.4g} is the lowest share.",
        ]

    def _layouts(self) -> list[Layout | None]:
        """What to round to, again and then with less: without alignment, not at all."""
        layout = self.solution.layout
        if layout is None:
            return [None]
        return [layout, None] if layout.align == 1 else [layout, self.solution.aligned(1).layout, None]

    def _fits_in(self) -> bool:
        """Close, round and trim; whether the result is within the bound and connected."""
        self._close()
        if self.layout is not None:
            # What was drawn and still died has too few synapses: to let it live again would not help.
            if self.solution.levels == "both":
                self.banned = self.drawn & ~self.alive
            self.drawn = self.alive.copy()
            self._round(upwards=True)
        exceeded = self._exceeded()
        for bound in exceeded:
            self._trim(bound)
        return not (exceeded and self._exceeded()) and not self.chains.cut(self.masks)

    def _used(self, bound: Bound) -> float:
        return bound.uses(self.solution.network, self.masks, self.stored)

    def _excess(self, bound: Bound) -> float:
        return self._used(bound) - bound.amount

    def _exceeded(self) -> list[Bound]:
        """Bounds to hold that the sample is above."""
        return [bound for bound in self.solution.bounds if bound.held and self._excess(bound) > 0]

    def _close(self) -> None:
        """Run removal to its fixed point."""
        closure = close_canonical(self.solution.network, self.solution.coupling, self.masks)
        # Trimming writes through flat views, which only contiguous arrays have.
        self.masks = {name: np.ascontiguousarray(mask) for name, mask in closure.masks.items()}
        if self.solution.layout is not None:
            has = self.solution.genome.cluster_live > 0
            self.alive = np.where(has, ~closure.dead_classes, self.alive)

    # ------------------------------------------------------------------------------------------ rounding

    @cached_property
    def _lots(self) -> NDArray[np.float64]:
        """Orders classes that are equally probable."""
        return np.random.default_rng(self.entropy[next(iter(self.entropy))]).random(self.alive.size)

    @cached_property
    def _log_p(self) -> NDArray[np.float64]:
        log_p = self.solution.genome.cluster_log_probability().astype(np.float64)
        log_p[self._pinned & ~np.isfinite(log_p)] = 0
        return log_p

    @cached_property
    def _pinned(self) -> Mask:
        return self.solution.coupling.pinned()

    @cached_property
    def _available(self) -> Mask:
        return np.asarray((self.solution.genome.cluster_live > 0) | self._pinned)

    def _forced(self) -> Mask:
        forced = self._pinned.copy()
        forced[self._classes_of(self.spared)] = True
        return forced

    def _classes_of(self, links: list[Link]) -> list[int]:
        layers = self.solution.genome.parent.clusters.layers
        return [one for link in links for one in layers[link.weight].of(link.output, link.input)]

    def _round(self, *, upwards: bool) -> None:
        """Choose numbers of living classes anew until removal leaves them as chosen.

        Args:
            upwards: start from the draw and let others live where that makes numbers even; else only what
                lives may.
        """
        layout = self.layout
        assert layout is not None
        has = self.solution.genome.cluster_live > 0
        forced = self._forced()
        for _ in range(_ATTEMPTS):
            drawn = (self.drawn & ~self.banned if upwards else self.alive) | forced
            allowed = (self._available & ~self.banned if upwards else self.alive) | forced
            order = np.empty(drawn.size, dtype=np.int64)
            order[np.lexsort((self._lots, self._log_p, drawn, forced))] = np.arange(drawn.size)
            start = Drawn(drawn, allowed, forced, self._log_p, order)
            self.fits = [Fit(family, start) for family in layout.families]
            wanted = self._pinned.copy()
            self.reasons = {}
            for fit in self.fits:
                choice = fit.choose(upwards=upwards)
                wanted[choice.living] = True
                if choice.reason is not None:
                    self.reasons.update(dict.fromkeys(choice.living.tolist(), choice.reason))
            wanted[layout.living_lines(wanted)] = True
            if not self._let_live(wanted):
                return
            self._close()
            lost = wanted & ~self.alive & has
            if not lost.any():
                return
            self.banned |= lost

    def _let_live(self, wanted: Mask) -> bool:
        """Let exactly these classes live; whether that changes anything."""
        has = self.solution.genome.cluster_live > 0
        more, fewer = wanted & ~self.alive & has, self.alive & ~wanted & has
        self.alive = wanted
        parent = self.solution.genome.parent
        for name, layer in parent.clusters.layers.items():
            assert layer.rows is not None
            assert layer.columns is not None
            if more[layer.rows].any() or more[layer.columns].any():
                self._draw_synapses(name)
            elif fewer[layer.rows].any() or fewer[layer.columns].any():
                restrict(layer, self.alive, self.masks[name], parent.row_blocks(name))
        return bool(more.any() or fewer.any())

    def alignment(self) -> Alignment | None:
        """What was asked for and what was reached; None where numbers of channels are not chosen."""
        layout = self.solution.layout
        if layout is None:
            return None
        reasons = self.reasons
        if self.layout is not layout:
            tight = "the budget and the floor leave no room"
            reasons = dict.fromkeys(np.flatnonzero(self._available).tolist(), tight)
        alive = self.alive.copy()
        alive[layout.living_lines(alive)] = True
        return assess(self.solution.coupling, self._available, alive, layout.align, reasons)

    # -------------------------------------------------------------------------------------- connectivity

    def _wake(self, links: list[Link]) -> int:
        """Let a chain live; gives how many synapses, or clusters, were dead."""
        if self.solution.levels == "clusters":
            wanted = np.unique(self._classes_of(links))
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
                tap = self.chains.tap(self.masks, link)
                slice_[tap] = True
                self.woken.append((link.weight, link.output, link.input, tap))
                woken += 1
        return woken

    def _revive(self) -> None:
        """Let the most probable clusters live, with all synapses that the parent has: as few as leave outputs
        connected when removal has run (within a factor of 2).

        A chain alone may not do: a product of activations needs all of its factors.
        """
        parent, log_p = self.solution.genome.parent, self.solution.genome.cluster_log_probability()
        order = np.argsort(-log_p, kind="stable")
        spared = self._classes_of(self.spared)
        count = max(1, len(spared))
        while True:
            self.alive = np.zeros_like(self.alive)
            self.alive[order[:count]] = True
            self.alive[spared] = True
            for name, layer in parent.clusters.layers.items():
                for rows in parent.row_blocks(name):
                    self.masks[name][rows] = parent.block(name, rows).live & layer.spread(self.alive, rows)
            self._close()
            if count >= order.size or not self.chains.cut(self.masks):
                return
            count *= 2

    def _trim(self, bound: Bound) -> None:
        """Get rid of what is above a bound, and of what dies with it."""
        levels = self.solution.levels
        if self.layout is None:
            if (excess := self._excess(bound)) > 0:
                if levels == "clusters":
                    self._trim_clusters(bound, excess)
                else:
                    self._trim_synapses(bound, excess)
                self._close()
            return
        # Synapses of living channels save nothing that is priced by widths.
        undo_only = levels == "both" and bound.costs is None
        for _ in range(_ATTEMPTS):
            if (excess := self._excess(bound)) <= 0:
                return
            amounts = self._amounts(bound)
            self._let_live(give_back(self.fits, amounts, self.alive, excess, self.rng, undo_only=undo_only))
            if undo_only and (excess := self._excess(bound)) > 0:
                self._trim_synapses(bound, excess)
            self._close()
            self._round(upwards=False)

    def _amounts(self, bound: Bound) -> Amounts:
        parent = self.solution.genome.parent
        if bound.costs is not None:
            return WidthAmounts(parent, bound.costs, self.alive)
        return SynapseAmounts(parent, self.masks, bound.prices, self.alive)

    def _trim_clusters(self, bound: Bound, excess: float) -> None:
        solution = self.solution
        kept = np.zeros(solution.genome.parent.clusters.n_clusters, dtype=np.bool_)
        kept[self._classes_of(self.spared)] = True
        trim_clusters(
            solution.genome,
            solution.pressure,
            self.masks,
            self.alive,
            bound.prices,
            excess,
            kept,
            self.rng,
        )

    def _trim_synapses(self, bound: Bound, excess: float) -> None:
        solution = self.solution
        protected: dict[str, list[int]] = {}
        for link in self.spared:
            weight = solution.network.weights[link.weight]
            place = (link.output * weight.inputs_per_group + link.input) * weight.taps + self.chains.tap(
                self.masks, link
            )
            protected.setdefault(link.weight, []).append(place)
        indices = {name: np.array(places, dtype=np.int64) for name, places in protected.items()}
        trim_synapses(solution.genome, solution.pressure, self.masks, bound.prices, excess, indices, self.rng)
