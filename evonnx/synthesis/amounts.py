"""The exact amount of a sample when some of its classes go, and about what each of them saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds
from evonnx.environment.widths import Costs, LayerCost, Widths
from evonnx.genome import Floats, Parent, over_taps
from evonnx.masks import Mask
from evonnx.synthesis.trimming import Canonical

Vector = NDArray[np.float64]


class Amounts(Protocol):
    """What a sample uses of a factor."""

    def total(self, alive: Mask) -> float:
        """The amount when only these classes live, shape (n_classes,)."""
        ...

    def of_each(self, alive: Mask) -> Vector:
        """About what the death of each class saves, shape (n_classes,)."""
        ...


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


class SynapseAmounts:
    """Of a factor priced by synapses."""

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
        with np.errstate(invalid="ignore"):  # BLAS kernels may look past the end of short rows
            return sum(layer.amount(lives) for layer in self.layers)

    def of_each(self, alive: Mask) -> Vector:
        """About what the death of each class saves, shape (n_classes,)."""
        each = np.zeros(alive.size)
        lives = alive.astype(np.float32)
        with np.errstate(invalid="ignore"):
            for layer in self.layers:
                layer.add_to(each, lives)
        return each


@dataclass(frozen=True)
class _Wide:
    """The living part of one layer: its classes by group."""

    cost: LayerCost
    rows: ClassIds
    """Shape (groups, O / groups)."""
    columns: ClassIds
    """Shape (groups, I)."""

    def widths(self, alive: Mask) -> Widths:
        inputs, outputs = alive[self.columns].sum(axis=1), alive[self.rows].sum(axis=1)
        return Widths(float(inputs.sum()), float(outputs.sum()), float(inputs @ outputs))

    def add_to(self, each: Vector, alive: Mask) -> None:
        rows, columns, cost = alive[self.rows], alive[self.columns], self.cost
        per_row = cost.per_output + cost.per_slice * columns.sum(axis=1, keepdims=True)
        per_column = cost.per_input + cost.per_slice * rows.sum(axis=1, keepdims=True)
        np.add.at(each, self.rows, rows * per_row)
        np.add.at(each, self.columns, columns * per_column)


class WidthAmounts:
    """Of a factor priced by widths. Classes that a sample lacks count as dead."""

    def __init__(self, parent: Parent, costs: Costs, alive: Mask) -> None:
        """As the sample stands: `alive` of shape (n_classes,)."""
        self.constant = costs.constant
        self.layers = []
        for name, layer in parent.clusters.layers.items():
            assert layer.rows is not None
            assert layer.columns is not None
            rows = layer.rows.reshape(layer.groups, -1)
            self.layers.append(_Wide(costs.layers[name], rows, layer.columns))
        self.alive = alive

    def total(self, alive: Mask) -> float:
        """The amount when only these live."""
        return self.constant + sum(layer.cost.of(layer.widths(alive)) for layer in self.layers)

    def of_each(self, alive: Mask) -> Vector:
        """About what the death of each class saves."""
        each = np.zeros(alive.size)
        for layer in self.layers:
            layer.add_to(each, alive)
        return each
