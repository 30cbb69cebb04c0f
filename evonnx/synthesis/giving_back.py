"""Holding a rounded sample to its bound: whole steps are given back, the least probable per amount saved
first.

What each step saves is estimated once, from the amount that hangs on each class as the sample stands; how
many of the steps go, taken in that order, is then found on the exact amount.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds
from evonnx.genome import Floats, Parent, over_taps
from evonnx.masks import Mask
from evonnx.synthesis.rounding import UNDO, Fit, Step
from evonnx.synthesis.trimming import Canonical

Vector = NDArray[np.float64]

_ENOUGH = 2.0
"""A family offers steps that save up to this many times the excess."""


@dataclass(frozen=True)
class _Layer:
    """The living part of one layer: rows and columns that live, and what lives where they meet."""

    price: float
    rows: ClassIds
    """Shape (R,)."""
    columns: ClassIds
    """Shape (C,), or (R, C) where outputs of different groups read different classes."""
    counts: Floats | int
    """Live synapses per slice, shape (R, C); a number where it is the same everywhere."""

    def amount(self, lives: Floats) -> float:
        """What is left when these live: 1.0 or 0.0, shape (n_classes,)."""
        rows, columns = lives[self.rows], lives[self.columns]
        if isinstance(self.counts, int):
            return self.price * self.counts * float(rows.sum()) * float(columns.sum())
        if columns.ndim == 2:
            return self.price * float(np.sum(rows @ (self.counts * columns), dtype=np.float64))
        # Sums along a row are whole numbers that float32 holds exactly; those over rows need more.
        return self.price * float(np.dot(rows.astype(np.float64), self.counts @ columns))

    def add_to(self, each: Vector, lives: Floats) -> None:
        """Add what hangs on each row and each column."""
        rows, columns = lives[self.rows], lives[self.columns]
        if isinstance(self.counts, int):
            np.add.at(each, self.rows, rows * (self.price * self.counts * float(columns.sum())))
            np.add.at(each, self.columns, columns * (self.price * self.counts * float(rows.sum())))
        elif columns.ndim == 2:
            live = self.counts * columns * rows[:, None]
            np.add.at(each, self.rows, self.price * live.sum(axis=1, dtype=np.float64))
            np.add.at(each, self.columns, self.price * live.astype(np.float64))
        else:
            np.add.at(each, self.rows, self.price * rows * (self.counts @ columns))
            np.add.at(each, self.columns, self.price * columns * (rows @ self.counts))


class Amounts:
    """The exact amount of a sample when some of its classes go."""

    def __init__(self, parent: Parent, masks: Canonical, prices: Mapping[str, float], alive: Mask) -> None:
        """As the sample stands: `masks` canonical, `alive` of shape (n_classes,)."""
        self.layers: list[_Layer] = []
        for name, mask in masks.items():
            layer = parent.clusters.layers[name]
            assert layer.rows is not None
            assert layer.columns is not None
            rows = np.flatnonzero(alive[layer.rows])
            if layer.groups > 1:
                columns = layer.columns[rows // max(1, layer.outputs // layer.groups)]
                self.layers.append(_Layer(prices[name], layer.rows[rows], columns, over_taps(mask[rows])))
                continue
            places = np.flatnonzero(alive[layer.columns[0]])
            here = (prices[name], layer.rows[rows], layer.columns[0][places])
            if int(np.count_nonzero(mask)) == rows.size * places.size * mask.shape[2]:
                self.layers.append(_Layer(*here, mask.shape[2]))
            else:
                self.layers.append(_Layer(*here, over_taps(mask[np.ix_(rows, places)])))

    def total(self, alive: Mask) -> float:
        """The amount when only these live."""
        lives = alive.astype(np.float32)
        return sum(layer.amount(lives) for layer in self.layers)

    def of_each(self, alive: Mask) -> Vector:
        """About what the death of each class saves, shape (n_classes,)."""
        each = np.zeros(alive.size)
        lives = alive.astype(np.float32)
        for layer in self.layers:
            layer.add_to(each, lives)
        return each


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
    steps: list[tuple[int, float, float, int, Step]] = []
    for fit in fits:
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
            steps.append((step.tier, rate, lot, number, step))
    steps.sort(key=lambda one: one[:4])
    order = [one[-1].classes for one in steps]
    bound = amounts.total(alive) - excess

    def without(number: int) -> Mask:
        living = alive.copy()
        for classes in order[:number]:
            living[classes] = False
        return living

    few, many = 0, len(order)
    while few < many:
        middle = (few + many) // 2
        if amounts.total(without(middle)) <= bound:
            many = middle
        else:
            few = middle + 1
    return without(few)
