"""How much of a model can be removed, and what each pin costs: counts over ends of synapses.

Every synapse has two ends, the channel that it helps to produce and the channel that it reads, and it goes
when either goes. So all that has to be known of a class is whether it can go, to which group it belongs and
which pins hold it; classes alike in this are one *kind*, and synapses are counted once per pair of kinds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds, Coupling, EqualCount, Pin
from evonnx.dependency.groups import channel_groups
from evonnx.dependency.zeros import Evaluator, zeroable
from evonnx.network import Network, Weight

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Amount:
    """A part of a model."""

    synapses: int
    macs: int | None
    """Multiply-accumulates per example of the stored shapes; None where some layer's shapes are not known."""


@dataclass(frozen=True)
class Cost:
    """What a pin, or several together, cost. Each amount is a part of the next one."""

    alone: Amount
    """What could go if they were lifted: both ends stay, and nothing else pins one of them."""
    shared: Amount
    """What could go if they and all others that pin the same channels were lifted: both ends stay, and they
    pin one."""
    touched: Amount
    """All that has an end in a channel that they pin: it goes with its other end, if at all."""


@dataclass(frozen=True)
class _Pairs:
    """Synapses and multiply-accumulates by the kinds of their two ends, five arrays of shape (n,)."""

    output: NDArray[np.int64]
    input: NDArray[np.int64]
    one: Flags
    """Both ends are one channel: a depthwise convolution."""
    synapses: NDArray[np.int64]
    macs: NDArray[np.float64]
    """NaN where they are not known."""

    def amount(self, share: Flags | NDArray[np.float64]) -> Amount:
        """The sum over pairs, each times its share: flags, or numbers in [0, 1]."""
        weights = share.astype(np.float64)
        macs = None if np.isnan(self.macs).any() else round(float(weights @ self.macs))
        return Amount(round(float(weights @ self.synapses)), macs)


@dataclass(frozen=True)
class Removability:
    """What can be removed of a network.

    A channel is *held* if it is pinned, or if it has to stay because of one that is: its reader's result
    would change, or rows would not be equally long any more. Of all others one stays wherever an axis of a
    weight would be left empty: the *floor*, which differs from "everything that is not held" by little.
    """

    pins: tuple[Pin, ...]
    groups: tuple[ClassIds, ...]
    """As `channel_groups` gives them."""
    held: Flags
    """Shape (n_classes,)."""
    floor: Flags
    """Shape (n_classes,): not held, and kept all the same."""
    _pairs: _Pairs
    _group_of: NDArray[np.int64]
    """Per kind, -1: none."""
    _gone: Flags
    """Per kind: neither held nor the floor."""
    _holders: tuple[frozenset[int], ...]
    """Per kind: positions in `pins`."""

    @property
    def total(self) -> Amount:
        """All of the model."""
        return self._pairs.amount(np.ones(self._pairs.output.size, dtype=np.bool_))

    @property
    def removable(self) -> Amount:
        """What goes if all channels go that can: a synapse goes with the first of its ends."""
        return self._pairs.amount(self._ends(self._gone))

    @property
    def halved(self) -> Amount:
        """What goes if half of all channels go that can, everywhere: about what the first halving gives."""
        stays = 1 - 0.5 * self._gone
        left = np.where(self._pairs.one, 1.0, stays[self._pairs.input]) * stays[self._pairs.output]
        return self._pairs.amount(1 - left)

    def of_groups(self, chosen: Collection[int]) -> Amount:
        """What goes if all channels of these groups go that can, and no others.

        Args:
            chosen: positions in `groups`.
        """
        return self._pairs.amount(self._ends(self._gone & np.isin(self._group_of, list(chosen))))

    def of_pins(self, chosen: Collection[int]) -> Cost:
        """What these pins cost together.

        Counted directly: that a channel which is not pinned has to stay because a pinned one does is set down
        to no pin.

        Args:
            chosen: positions in `pins`.
        """
        wanted = frozenset(chosen)
        touched = np.asarray([not wanted.isdisjoint(holders) for holders in self._holders], dtype=np.bool_)
        only = np.asarray([bool(holders) and holders <= wanted for holders in self._holders], dtype=np.bool_)
        stays = ~self._ends(self._gone)
        return Cost(
            alone=self._pairs.amount(stays & self._ends(only)),
            shared=self._pairs.amount(stays & self._ends(touched)),
            touched=self._pairs.amount(self._ends(touched)),
        )

    def _ends(self, kinds: Flags) -> Flags:
        """Pairs with an end of these kinds."""
        return np.asarray(kinds[self._pairs.output] | kinds[self._pairs.input])


def alike(pins: Sequence[Pin]) -> dict[str, list[int]]:
    """Positions of pins by their reasons; those that differ in the tensor they name are alike."""
    found: dict[str, list[int]] = {}
    for number, pin in enumerate(pins):
        found.setdefault(re.sub(r"'[^']*'", "'...'", pin.reason), []).append(number)
    return found


def removability(network: Network, coupling: Coupling, masks: Mapping[str, Flags]) -> Removability:
    """Find out what can be removed.

    Args:
        network: the model.
        coupling: its coupling.
        masks: for every prunable weight in its stored shape, True where a synapse is to be counted.
    """
    held, floor = lasting(network, coupling)
    groups = channel_groups(coupling)
    group_of = np.full(coupling.n_classes, -1, dtype=np.int64)
    for number, classes in enumerate(groups):
        group_of[classes] = number
    holders_of, holders = _holders(coupling)
    gone = ~(held | floor)
    described = ((group_of + 1) * 2 + gone) * len(holders) + holders_of
    _, first, kind_of = np.unique(described, return_index=True, return_inverse=True)
    return Removability(
        pins=coupling.pins,
        groups=groups,
        held=held,
        floor=floor,
        _pairs=_pairs(network, coupling, masks, np.asarray(kind_of).reshape(-1)),
        _group_of=group_of[first],
        _gone=gone[first],
        _holders=tuple(holders[number] for number in holders_of[first].tolist()),
    )


def lasting(network: Network, coupling: Coupling) -> tuple[Flags, Flags]:
    """Classes that are held, and those that are the floor, each of shape (n_classes,); see `Removability`."""
    kept = coupling.pinned()
    readings = _readings(network, coupling)
    _settle(coupling, readings, kept, least=0)
    held = kept.copy()
    while True:
        before = np.count_nonzero(kept)
        for classes in coupling.weights.values():
            for ids in (classes.output, classes.input.ravel()):
                if ids.size and not kept[ids].any():
                    kept[ids[0]] = True
        _settle(coupling, readings, kept, least=1)
        if np.count_nonzero(kept) == before:
            return held, kept & ~held


def _readings(network: Network, coupling: Coupling) -> list[tuple[ClassIds, ClassIds]]:
    """(what is read, what reads it) otherwise than by a weight, where it is not zero once it is dead."""
    links = [link for link in coupling.links if link.target is not None]
    if not links:
        return []
    evaluator = Evaluator(network, {}, zeroable(network, coupling))
    found = []
    for link in links:
        flags = None if link.zero is None else evaluator.evaluate(link.zero)
        some = np.ones(link.source.shape, dtype=np.bool_)
        if flags is not None:
            some = ~np.broadcast_to(flags.ravel(), link.source.shape)
        if link.target is not None and some.any():
            found.append((link.source[some], link.target[some]))
    return found


def _settle(
    coupling: Coupling, readings: list[tuple[ClassIds, ClassIds]], kept: Flags, *, least: int
) -> None:
    """Let more be kept, in place, until readings and equal counts are satisfied."""
    while True:
        before = np.count_nonzero(kept)
        for source, target in readings:
            kept[source[kept[target]]] = True
        for constraint in coupling.equal_counts:
            _equalise(constraint, kept, least)
        if np.count_nonzero(kept) == before:
            return


def _equalise(constraint: EqualCount, kept: Flags, least: int) -> None:
    """Lines with a member that is kept are kept; their rows keep equally many, at least `least`."""
    rows = constraint.classes
    for axis, line in enumerate(constraint.lines):
        if line is not None:
            others = tuple(other for other in range(rows.ndim) if other != axis)
            kept[line[kept[rows].any(axis=others)]] = True
    stays = constraint.kept_rows(kept)
    counts = np.count_nonzero(kept[rows], axis=-1)
    most = max(least, int(counts[stays].max(initial=0)))
    for row in rows[stays & (counts < most)]:
        # One after another: a class may stand in a row several times, and in several rows.
        for one in row[~kept[row]].tolist():
            if np.count_nonzero(kept[row]) >= most:
                break
            kept[one] = True


def _holders(coupling: Coupling) -> tuple[NDArray[np.int64], list[frozenset[int]]]:
    """Sets of pins that hold the same classes: (the set of each class, shape (n_classes,); the sets)."""
    set_of = np.zeros(coupling.n_classes, dtype=np.int64)
    sets: list[frozenset[int]] = [frozenset()]
    for number, pin in enumerate(coupling.pins):
        known, inverse = np.unique(set_of[pin.classes], return_inverse=True)
        set_of[pin.classes] = len(sets) + inverse
        sets += [sets[one] | {number} for one in known.tolist()]
    return set_of, sets


def _pairs(network: Network, coupling: Coupling, masks: Mapping[str, Flags], kind_of: ClassIds) -> _Pairs:
    tables = [np.zeros((5, 0))]
    for name, weight in network.weights.items():
        classes = coupling.weights[name]
        single = weight.inputs_per_group == 1
        one = single and np.array_equal(classes.output, _rows(weight, classes.input)[:, 0])
        table = _pairs_of(weight, kind_of[classes.output], kind_of[classes.input], masks[name])
        price = np.nan if weight.macs_per_tap is None else weight.macs_per_tap
        tables.append(np.stack([*table[:2], np.full(table.shape[1], one), table[2], price * table[3]]))
    table = np.concatenate(tables, axis=1)
    ends, inverse = np.unique(table[:3].astype(np.int64), axis=1, return_inverse=True)
    position, size = np.asarray(inverse).reshape(-1), ends.shape[1]
    return _Pairs(
        output=ends[0],
        input=ends[1],
        one=ends[2].astype(np.bool_),
        synapses=np.bincount(position, table[3], size).astype(np.int64),
        macs=np.bincount(position, table[4], size).astype(np.float64),
    )


def _pairs_of(weight: Weight, output: ClassIds, inputs: ClassIds, mask: Flags) -> NDArray[np.float64]:
    """Rows (kind of output, kind of input, live synapses, all synapses) of one weight, shape (4, n)."""
    rows, row_of = _numbered(output)
    columns, column_of = _numbered(inputs)
    live = None if mask.all() else _slices(weight.to_canonical(mask))
    if weight.groups == 1:
        stored = np.multiply.outer(np.bincount(row_of), np.bincount(column_of[0]))
        counted = None if live is None else _summed(_summed(live, row_of).T, column_of[0]).T
    else:
        place = (row_of[:, None] * columns.size + _rows(weight, column_of)).ravel()
        shape = (rows.size, columns.size)
        stored = np.bincount(place, minlength=rows.size * columns.size).reshape(shape)
        counted = None if live is None else np.bincount(place, live.ravel(), stored.size).reshape(shape)
    some = np.nonzero(stored)
    every = stored[some] * weight.taps
    table = (rows[some[0]], columns[some[1]], every if counted is None else counted[some], every)
    return np.stack(table).astype(np.float64)


def _rows(weight: Weight, inputs: ClassIds) -> ClassIds:
    """What each output reads, (O, I), from (groups, I)."""
    return np.repeat(inputs, weight.outputs // weight.groups, axis=0)


def _numbered(values: ClassIds) -> tuple[ClassIds, ClassIds]:
    """(distinct values, the position of each value among them)."""
    distinct, positions = np.unique(values, return_inverse=True)
    return distinct, np.asarray(positions).reshape(values.shape)


def _slices(mask: Flags) -> NDArray[np.generic]:
    """Live synapses of each (o, i) slice: numbers, or flags where there is one in each."""
    return mask[:, :, 0] if mask.shape[2] == 1 else np.asarray(np.count_nonzero(mask, axis=2))


def _summed(counts: NDArray[np.generic], label: ClassIds) -> NDArray[np.int64]:
    """Rows with equal labels added up: (labels, columns) from (rows, columns)."""
    if label.size and label[0] == label.max() == label.min():
        return np.asarray(counts.sum(axis=0, dtype=np.int64, keepdims=True))
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    return np.asarray(np.add.reduceat(counts[order], starts, axis=0, dtype=np.int64))
