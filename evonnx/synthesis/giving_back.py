"""Holding a rounded sample to its bound: whole steps are given back, the least probable per amount saved
first.

What each step saves is estimated once, from the amount that hangs on each class as the sample stands; how
many of the steps go, taken in that order, is then found on the exact amount.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds
from evonnx.masks import Mask
from evonnx.synthesis.amounts import Amounts
from evonnx.synthesis.rounding import UNDO, Fit

Vector = NDArray[np.float64]

_ENOUGH = 2.0
"""A family offers steps that save up to this many times the excess."""


_WASTE = 1.1
"""Savings are estimates: so much more is asked for where small steps are to replace a large one."""
_UNUSED = 0.01
"""Share of the bound that a step may leave unused if others would do."""
_TRIES = 64
"""Steps that are tried when looking for some that fit in again."""


@dataclass(frozen=True)
class _Offer:
    """A step that a family can give back."""

    place: tuple[int, float, float, int]
    """In the order in which steps go: tier, log of probability per amount, lot, number within the family."""
    family: int
    classes: ClassIds
    saving: float
    """Estimated."""
    log_weight: float
    """Log of the sum of their probabilities."""


def give_back(
    fits: Iterable[Fit],
    amounts: Amounts,
    alive: Mask,
    excess: float,
    rng: np.random.Generator,
    *,
    undo_only: bool = False,
) -> Mask:
    """Let go as many steps as it takes to save `excess`, or all that may go if that is not enough.

    Args:
        fits: one per family, with numbers chosen.
        amounts: of the sample as it stands.
        alive: shape (n_classes,); not changed.
        excess: amount to save.
        rng: orders ties.
        undo_only: let nothing go but what rounding up has let live.

    Returns:
        What lives then.
    """
    each = amounts.of_each(alive)
    offers = sorted(_offers(fits, each, excess, rng, undo_only), key=lambda offer: offer.place)
    bound = amounts.total(alive) - excess

    def without(number: int) -> Mask:
        living = alive.copy()
        for offer in offers[:number]:
            living[offer.classes] = False
        return living

    few, many = 0, len(offers)
    while few < many:
        middle = (few + many) // 2
        if amounts.total(without(middle)) <= bound:
            many = middle
        else:
            few = middle + 1
    if few == 0:
        return alive.copy()
    before = without(few - 1)
    smaller = _smaller(offers, few - 1, amounts.total(before) - bound, bound)
    if smaller:
        instead = before.copy()
        for offer in smaller:
            instead[offer.classes] = False
        if amounts.total(instead) <= bound:
            return _take_back([*offers[: few - 1], *smaller], amounts, instead, bound)
    return _take_back(offers[:few], amounts, without(few), bound)


def _offers(
    fits: Iterable[Fit], each: Vector, excess: float, rng: np.random.Generator, undo_only: bool
) -> Iterator[_Offer]:
    for family, fit in enumerate(fits):
        lot, tier, rate, saved = rng.random(), UNDO, -np.inf, 0.0
        for number, step in enumerate(fit.give_back(each)):
            if step.tier > UNDO and (undo_only or saved > _ENOUGH * excess):
                break
            saving = float(each[step.classes].sum())
            # A family's steps go in their own order, so none may look cheaper than the one before.
            before = rate if step.tier == tier else -np.inf
            rate = max(before, step.log_weight - float(np.log(max(saving, 1e-300))))
            tier = step.tier
            saved += saving
            yield _Offer((tier, rate, lot, number), family, step.classes, saving, step.log_weight)


def _smaller(offers: Sequence[_Offer], last: int, needed: float, bound: float) -> list[_Offer]:
    """Steps further on that together save what is still needed, in place of the step at `last`, which saves
    more: where they lose less, or where that step would leave much of the bound unused. None if there are
    none."""
    most = 1.0 if offers[last].saving - needed < _UNUSED * bound else np.inf
    taken: list[_Offer] = []
    best: list[_Offer] = []
    blocked = {offers[last].family}
    saved, least, lost = 0.0, offers[last].saving, 0.0
    for offer in offers[last + 1 :]:
        if offer.family in blocked:
            continue
        weight = float(np.exp(offer.log_weight - offers[last].log_weight))
        if saved + offer.saving < needed * _WASTE:
            if lost + weight >= most:
                break
            taken.append(offer)
            saved, lost = saved + offer.saving, lost + weight
            continue
        if saved + offer.saving < least and lost + weight < most:
            best, least = [*taken, offer], saved + offer.saving
        blocked.add(offer.family)
    return best


def _take_back(gone: Sequence[_Offer], amounts: Amounts, alive: Mask, bound: float) -> Mask:
    """Where the last step saved more than was needed, steps before it may fit in again: the most probable per
    amount first, of each family the last first."""
    stuck: set[int] = set()
    slack, tries = bound - amounts.total(alive), 0
    for offer in reversed(gone):
        if offer.family in stuck or offer.saving > slack or tries == _TRIES:
            stuck.add(offer.family)
            continue
        living = alive.copy()
        living[offer.classes] = True
        tries += 1
        left = bound - amounts.total(living)
        if left < 0:
            stuck.add(offer.family)
        else:
            alive, slack = living, left
    return alive
