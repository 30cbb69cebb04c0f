"""Removal run to its fixed point: what dies when masks say that some synapses do.

A wire (see `coupling.py`) in a class that is not pinned is dead if no live synapse produces it or no live
synapse consumes it; a dead wire takes its producing rows, its consuming slices and its channel vectors with
it. A class is dead when all its wires are. A layer without a live synapse whose output goes nowhere but into
a residual addition dies whole: its private vectors die too, so that its branch is exactly zero. What no
output depends on any more (`unread.py`) dies as well. All of it is repeated until nothing changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import NOT_ZEROED, ChannelVector, ClassIds, Coupling, WeightClasses
from evonnx.dependency.unread import Unread, find_unread
from evonnx.dependency.zeros import Zeroed, some_tap
from evonnx.network import Network, Weight

# Layering: masks stands higher, so the alias is repeated in words here: bool arrays in the stored shape, by
# name.

Bools = NDArray[np.bool_]
DeadVectors = tuple[tuple[ChannelVector, Bools], ...]


@dataclass(frozen=True)
class Closure:
    """Masks after removal has run to its fixed point."""

    masks: dict[str, Bools]
    """By weight name, in the shape that they were given in; True lives."""
    dead_classes: Bools
    """Shape (n_classes,)."""
    vectors_dead: DeadVectors
    """Every channel vector with at least one dead index: (vector, shape (length,), True where it is dead)."""
    dead_layers: tuple[str, ...]
    """Weights of residual branches that died whole."""


def close(network: Network, coupling: Coupling, masks: Mapping[str, Bools]) -> Closure:
    """Run removal to its fixed point.

    Args:
        network: the network that the masks belong to.
        coupling: its coupling.
        masks: by weight name, stored shape, True lives; a weight without a mask is live where it is not zero.

    Returns:
        Masks for every prunable weight, all of them subsets of those given.
    """
    canonical = {
        name: np.asarray(
            weight.to_canonical(
                np.asarray(masks[name], dtype=np.bool_) if name in masks else network.array(name) != 0
            ),
            dtype=np.bool_,
        )
        for name, weight in network.weights.items()
    }
    closure = close_canonical(network, coupling, canonical)
    stored = {
        name: np.ascontiguousarray(network.weights[name].from_canonical(mask), dtype=np.bool_)
        for name, mask in closure.masks.items()
    }
    return replace(closure, masks=stored)


def close_canonical(network: Network, coupling: Coupling, canonical: Mapping[str, Bools]) -> Closure:
    """As `close`, of a mask for every prunable weight in the canonical view, (O, I, K), which is also what is
    given: turning masks of matrices over and back takes longer than closing them."""
    slices = {name: some_tap(mask) for name, mask in canonical.items()}
    wires = _Wires(network, coupling, slices)
    while True:
        wires.settle()
        layers = _dead_layers(network, coupling, slices)
        vectors = _dead_vectors(coupling, wires.dead, layers)
        if not wires.take(find_unread(network, coupling, slices, _zeroed(vectors))):
            break
    closed = {}
    for name, weight in network.weights.items():
        # What is left of the slices is what no dead wire took.
        alive = slices[name][:, :, None]
        closed[name] = alive if weight.taps == 1 else canonical[name] & alive
    alive_per_class = np.zeros(coupling.n_classes, dtype=np.bool_)
    alive_per_class[coupling.wire_class[~wires.dead]] = True
    return Closure(closed, ~alive_per_class, vectors, layers)


class _Wires:
    """The state of every wire.

    Per wire, the live slices that produce and that consume it are counted once and then only counted down:
    every row and column is visited when its wire dies, so the work is linear in the number of slices.
    """

    def __init__(self, network: Network, coupling: Coupling, slices: dict[str, Bools]) -> None:
        """`slices`: (O, I) per weight, True where a live synapse is; what dies is taken out."""
        self.network, self.coupling, self.slices = network, coupling, slices
        n_wires = coupling.wire_class.size
        self.free = ~coupling.pinned()[coupling.wire_class]
        self.produced = np.zeros(n_wires, dtype=np.int64)
        self.consumed = np.zeros(n_wires, dtype=np.int64)
        for name, weight in network.weights.items():
            _count(self.produced, self.consumed, coupling.weight_wires[name], weight, slices[name])
        _count_others(self.produced, self.consumed, coupling)
        self.dead = np.zeros(n_wires, dtype=np.bool_)
        self.given = np.zeros(n_wires, dtype=np.bool_)
        self.given[coupling.given] = True

    def settle(self) -> None:
        """Let die what nothing produces or nothing consumes, until there is no more of it."""
        while True:
            dying = self.free & ~self.dead & ((self.produced == 0) | (self.consumed == 0))
            if not dying.any():
                return
            self._die(dying)

    def take(self, unread: Unread) -> bool:
        """Let die what no output depends on; whether that changes anything."""
        changed = False
        for name, live in self.slices.items():
            left = unread.live.get(name)
            if left is not None and np.array_equal(left, live):
                continue
            if left is None and not live.any():
                continue
            wires, weight = self.coupling.weight_wires[name], self.network.weights[name]
            _count(self.produced, self.consumed, wires, weight, live, sign=-1)
            live &= np.zeros_like(live) if left is None else left
            _count(self.produced, self.consumed, wires, weight, live)
            changed = True
        # Lines (heads, groups) are read by what becomes of their members, which is counted.
        dying = unread.classes[self.coupling.wire_class] & self.free & ~self.dead & ~self.given
        self._die(dying)
        return changed or bool(dying.any())

    def _die(self, dying: Bools) -> None:
        self.dead |= dying
        for source, target in self.coupling.link_wires:
            if target is not None:
                np.subtract.at(self.consumed, source[dying[target]], 1)
        for name, weight in self.network.weights.items():
            wires = self.coupling.weight_wires[name]
            _kill(self.produced, self.consumed, wires, weight, self.slices[name], dying)


def _zeroed(vectors: DeadVectors) -> Zeroed:
    """What masking writes zeros to."""
    found: dict[str, list[tuple[int, Bools]]] = {}
    for vector, gone in vectors:
        if vector.role not in NOT_ZEROED:
            found.setdefault(vector.name, []).append((vector.axis, gone))
    return found


def _count_others(produced: ClassIds, consumed: ClassIds, coupling: Coupling) -> None:
    """What puts out or reads channels without being a weight: heads and groups, products of activations."""
    for source, _ in coupling.link_wires:
        np.add.at(consumed, source, 1)
    put_out, read = np.zeros(produced.size, dtype=np.bool_), np.zeros(produced.size, dtype=np.bool_)
    for wires in coupling.weight_wires.values():
        put_out[wires.output] = True
        read[wires.input] = True
    for source, _ in coupling.link_wires:
        read[source] = True
    lines = np.unique(coupling.given)
    produced[np.unique(coupling.fed)] += 1
    produced[lines[~put_out[lines]]] += 1
    consumed[lines[~read[lines]]] += 1


def _kill(
    produced: ClassIds, consumed: ClassIds, wires: WeightClasses, weight: Weight, live: Bools, dying: Bools
) -> None:
    """Take the rows and columns of dying wires out of `live` and out of the counts."""
    rows = np.flatnonzero(dying[wires.output])
    if rows.size:
        gone = live[rows]
        np.subtract.at(produced, wires.output[rows], np.count_nonzero(gone, axis=1))
        per_group = weight.outputs // weight.groups
        if weight.groups == 1:
            np.subtract.at(consumed, wires.input[0], np.count_nonzero(gone, axis=0))
        else:
            np.subtract.at(consumed, wires.input[rows // per_group], gone)
        live[rows] = False
    groups, columns = np.nonzero(dying[wires.input])
    if columns.size:
        # A view by group, (groups, O / groups, I): writing to it writes to `live`.
        grouped = live.reshape(weight.groups, -1, weight.inputs_per_group)
        taken = grouped[groups, :, columns]
        np.subtract.at(consumed, wires.input[groups, columns], np.count_nonzero(taken, axis=1))
        outputs = wires.output.reshape(weight.groups, -1)
        if weight.groups == 1:
            np.subtract.at(produced, outputs[0], np.count_nonzero(taken, axis=0))
        else:
            np.subtract.at(produced, outputs[groups], taken)
        grouped[groups, :, columns] = False


def _count(
    produced: ClassIds,
    consumed: ClassIds,
    wires: WeightClasses,
    weight: Weight,
    live: Bools,
    sign: int = 1,
) -> None:
    """Add the live slices of one weight to the counts of the wires at both their ends."""
    np.add.at(produced, wires.output, sign * np.count_nonzero(live, axis=1))
    grouped = live.reshape(weight.groups, -1, weight.inputs_per_group)
    np.add.at(consumed, wires.input, sign * np.count_nonzero(grouped, axis=1))


def _dead_layers(network: Network, coupling: Coupling, masks: dict[str, Bools]) -> tuple[str, ...]:
    ends = Counter(merge.layer for merge in coupling.merges)
    return tuple(
        name
        for name, weight in network.weights.items()
        if ends[name] >= len(weight.uses) and not masks[name].any()
    )


def _dead_vectors(coupling: Coupling, dead: Bools, layers: tuple[str, ...]) -> DeadVectors:
    """A constant that several nodes read dies only where it is dead for all of them."""
    found = [
        dead[wires] | (vector.layer in layers)
        for vector, wires in zip(coupling.vectors, coupling.vector_wires, strict=True)
    ]
    everywhere: dict[tuple[str, int], Bools] = {}
    for vector, gone in zip(coupling.vectors, found, strict=True):
        key = (vector.name, vector.axis)
        everywhere[key] = everywhere[key] & gone if key in everywhere else gone
    return tuple(
        (vector, everywhere[vector.name, vector.axis])
        for vector in coupling.vectors
        if everywhere[vector.name, vector.axis].any()
    )
