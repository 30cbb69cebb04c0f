"""Who lives: fitness on validation data first, then measured speed beyond noise, then size.

Arithmetic on scores, sizes and timings; the clock is behind `Timings`, and is asked only where it decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.environment import EnvironmentFactor
from evonnx.evolution.timings import Timing
from evonnx.masks import live_masks
from evonnx.network import Network
from evonnx.onnx_io import stored_bytes
from evonnx.task import Metric

MARGIN = 1.03
"""A speed-up counts where even the low end of its 95% interval is above this: copies of one file, each with a
session of its own, came out as much as 1.3% apart."""

Clock = Callable[[str, Sequence[Path]], Sequence[Timing]]
"""Times models against the first of them, under a key; see `Timings`."""


@dataclass(frozen=True)
class Candidate:
    """A retrained offspring that may be chosen."""

    name: str
    """In sentences."""
    model: Path
    score: float
    """On validation data."""
    sizes: tuple[float, ...]
    """What is budgeted (unless it is time), live synapses, bytes; what comes after decides between equals."""


@dataclass(frozen=True)
class Choice:
    """Which candidate, and why."""

    index: int
    reason: str
    """One sentence."""
    timed: tuple[tuple[str, Timing], ...] = field(default=())
    """Those between which the clock was asked, by name, the smallest first; the others' ratios are to it."""

    def to_json(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """As JSON-able data, with those that it was made among."""
        return {
            "chosen": candidates[self.index].name,
            "reason": self.reason,
            "candidates": [
                {
                    "name": one.name,
                    "score_validation": one.score,
                    "synapses": int(one.sizes[-2]),
                    "bytes": int(one.sizes[-1]),
                }
                for one in candidates
            ],
            "timed": [{"name": name, **asdict(timing)} for name, timing in self.timed],
        }


def sizes(factor: EnvironmentFactor, network: Network, model: Path) -> tuple[float, ...]:
    """How large a compact model is: the amount of what is budgeted, live synapses, bytes of the file.

    An amount of time is left out: that is measured.
    """
    live = live_masks(network)
    amount = () if is_time(factor) else (factor.measure(network, live),)
    synapses = float(sum(np.count_nonzero(mask) for mask in live.values()))
    return (*amount, synapses, stored_bytes(model, network.model))


def is_time(factor: EnvironmentFactor) -> bool:
    """Whether what is budgeted is time, as this machine's clock has it."""
    return factor.unit == "ms"


def tolerance(metric: Metric, score: float, examples: int, most: float) -> float:
    """How much less than the best score counts as equal: one standard error, at most `most`.

    A score from 0 to `metric.scale` varies at most like a share of right and wrong answers:
    scale * sqrt(p (1 - p) / examples) with p = score / scale. Of errors without an upper end nothing is
    known, so only equal ones are equal.

    Args:
        metric: what the score means.
        score: the best one.
        examples: that it was taken over, at least 1.
        most: upper bound, in the metric's unit.
    """
    if not metric.higher_is_better:
        return 0.0
    share = min(1.0, max(0.0, score / metric.scale))
    return min(most, metric.scale * math.sqrt(share * (1 - share) / max(1, examples)))


def quickest(timings: Sequence[Timing], prices: Sequence[float]) -> int:
    """The one that is faster than the first beyond noise, by more than it costs; 0 where none is.

    Of several that can't be told apart from the best of them, the first.

    Args:
        timings: against the first, whose price is 1.
        prices: what a speed-up must exceed, at least 1.
    """
    worth = [
        (one.ratio / price, one.ratio_low / price, one.ratio_high / price)
        for one, price in zip(timings, prices, strict=True)
    ]
    faster = [index for index in range(1, len(worth)) if worth[index][1] > MARGIN]
    if not faster:
        return 0
    best = max(faster, key=lambda index: worth[index][0])
    return next(index for index in faster if worth[index][2] >= worth[best][1])


def fittest(
    candidates: Sequence[Candidate],
    metric: Metric,
    within: Callable[[float], bool],
    equal: float,
    clock: Clock,
    key: str,
) -> Choice:
    """Choose among offspring of one generation: of those as fit as the best, the measured fastest, else the
    smallest.

    Args:
        candidates: at least one.
        metric: what scores mean.
        within: whether a score is within the accuracy bound; where the best is, the chosen one is.
        equal: what `tolerance` says.
        clock: asked where several are equally fit.
        key: of what it measures.
    """
    best = candidates[0]
    for one in candidates[1:]:
        if metric.better(one.score, best.score):
            best = one
    if len(candidates) == 1:
        return Choice(0, "The only offspring.")
    fit = [
        one
        for one in candidates
        if metric.drop(best.score, one.score) <= equal and (within(one.score) or not within(best.score))
    ]
    place, of = candidates.index, f"of {len(candidates)}"
    if len(fit) == 1:
        return Choice(
            place(best),
            f"{best.name} {of} was kept: no other is within the accuracy bound and within {equal:.2g} of its "
            f"validation {metric.name} ({best.score:.4g}).",
        )
    fit.sort(key=lambda one: one.sizes)
    timings = clock(key, [one.model for one in fit])
    chosen = quickest(timings, [1.0] * len(fit))
    why = f"the smallest of {len(fit)} as fit as the best (validation {metric.name} within {equal:.2g})"
    if chosen:
        why += f", {fit[0].name}, is slower: {_faster(timings[chosen])}"
    else:
        why += "; none of them is measurably faster"
    return Choice(
        place(fit[chosen]),
        f"{fit[chosen].name} {of} was kept: {why}.",
        tuple((one.name, timing) for one, timing in zip(fit, timings, strict=True)),
    )


def smallest(candidates: Sequence[Candidate], scarce: str | None, clock: Clock, key: str) -> Choice:
    """Choose among offspring of a line that are all good enough: the smallest, unless another is faster,
    beyond noise, by a larger factor than it is larger.

    Args:
        candidates: at least one.
        scarce: what their first size is an amount of; None: time itself is scarce, so the measured fastest
            is chosen, and size decides where none is.
        clock: asked where there are several.
        key: of what it measures.
    """
    if len(candidates) == 1:
        return Choice(0, f"{candidates[0].name} is the only one within the bounds.")
    ordered = sorted(candidates, key=lambda one: one.sizes)
    timings = clock(key, [one.model for one in ordered])
    least = max(ordered[0].sizes[0], 1.0)
    prices = [1.0 if scarce is None else max(1.0, one.sizes[0] / least) for one in ordered]
    chosen = quickest(timings, prices)
    name, first, among = ordered[chosen].name, ordered[0].name, f"of {len(ordered)} within the bounds"
    if not chosen:
        measure = "measurably faster" + ("" if scarce is None else " by more than it is larger")
        reason = f"{name} is the smallest {among}; none of the others is {measure}."
    elif scarce is None:
        reason = f"{name} is the fastest {among}: against {first}, the smallest, {_faster(timings[chosen])}."
    else:
        reason = (
            f"{name} was preferred to {first}, the smallest {among}: it uses {prices[chosen]:.2f}x the "
            f"{scarce}, but {_faster(timings[chosen])}."
        )
    return Choice(
        candidates.index(ordered[chosen]),
        reason,
        tuple((one.name, timing) for one, timing in zip(ordered, timings, strict=True)),
    )


def _faster(timing: Timing) -> str:
    return (
        f"measured {timing.ratio:.2f}x as fast (95% interval {timing.ratio_low:.2f} to "
        f"{timing.ratio_high:.2f})"
    )
