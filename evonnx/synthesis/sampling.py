"""Synthesis: offspring drawn from a genome under a budget (equation 3).

Removal takes with it what a draw has cut off. Where that is much, the offspring would end far below its
bound, so it is drawn again under less pressure; not where every layer has a factor of its own, which says
what share it keeps (the paper's setting).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evonnx.dependency.coupling import Coupling
from evonnx.environment import Budget
from evonnx.errors import BudgetError
from evonnx.genome import Genome, Levels
from evonnx.masks import Mask
from evonnx.network import Network
from evonnx.synthesis.alignment import Alignment
from evonnx.synthesis.draft import Draft
from evonnx.synthesis.solution import Solution, solve

_ENOUGH = 0.9
"""A sample that uses this share of its bound is not drawn again."""
_DRAWS = 3


@dataclass(frozen=True)
class Sample:
    """One offspring as masks."""

    masks: dict[str, Mask]
    """By weight name, stored layout, removal run to its fixed point; True lives."""
    expected_share: float
    """Of the parent's amount, over all draws, before removal, rounding, trimming and floors."""
    achieved_share: float
    """Of the parent's amount, by this one."""
    achieved: tuple[float, ...]
    """The same for every budget, in their order."""
    survivors: int
    """Live synapses."""
    parent_synapses: int
    notes: tuple[str, ...] = field(default=())
    """What the user should know, one sentence each."""
    alignment: Alignment | None = None
    """Requested and achieved; None where numbers of channels were not chosen (see `solve`)."""


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
    align: int = 1,
    also: Sequence[Budget] = (),
    trim: bool = True,
) -> Sample:
    """Draw one offspring: `solve`, then `sample`; see there."""
    solution = solve(
        network,
        coupling,
        genome,
        budget,
        levels=levels,
        cluster_share=cluster_share,
        best_effort=best_effort,
        align=align,
        also=also,
    )
    return sample(solution, rng, trim=trim)


def sample(solution: Solution, rng: np.random.Generator, *, trim: bool = True) -> Sample:
    """Draw one offspring.

    Args:
        solution: from `solve`.
        rng: the only source of randomness; results do not depend on threads.
        trim: round the draw to equal counts and alignment, hold it to bound and floors, and run removal to
            its fixed point; otherwise the bare draws of equation 3 are given.

    Raises:
        BudgetError: floors and pins make the bound unreachable; the message names the lowest reachable share.
    """
    start = copy.deepcopy(rng)
    best = _sample(solution, rng, trim)
    scale = 1.0
    repeat = trim and solution.genome.encoding.scope == "network"
    for _ in range(_DRAWS - 1 if repeat else 0):
        used = _used(solution, best)
        if used > _ENOUGH or scale * min(bound.budget.share for bound in solution.bounds) >= 1:
            break
        scale /= max(used, 1e-6)
        try:
            again = _sample(solution.drawn_at(scale), copy.deepcopy(start), trim)
        except BudgetError:  # the first draw was within the bound
            break
        if not used < _used(solution, again) <= 1:
            break
        share = min(1.0, scale * solution.budget.share)
        note = f"Drawn at {share:.1%}: what a lower draw cuts off would leave {best.achieved_share:.1%}."
        best = replace(again, notes=(*again.notes, note))
    return best


def _used(solution: Solution, one: Sample) -> float:
    """Part of the tightest bound that a sample uses."""
    return max(share / bound.budget.share for share, bound in zip(one.achieved, solution.bounds, strict=True))


def _sample(solution: Solution, rng: np.random.Generator, trim: bool) -> Sample:
    draft = Draft(solution, rng)
    notes = draft.settle() if trim else []
    stored = draft.stored()
    achieved = tuple(
        bound.factor.measure(solution.network, stored) / bound.parent_amount for bound in solution.bounds
    )
    return Sample(
        masks=stored,
        expected_share=solution.pressure.expected_share,
        achieved_share=achieved[0],
        achieved=achieved,
        survivors=sum(int(np.count_nonzero(mask)) for mask in stored.values()),
        parent_synapses=sum(solution.genome.live.values()),
        notes=tuple(notes),
        alignment=draft.alignment() if trim else None,
    )
