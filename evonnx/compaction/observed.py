"""Which classes can still influence an output: the "backward" argument, and what must be kept besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds, Coupling, Place
from evonnx.dependency.zeros import Evaluator, Flags
from evonnx.network import Network, Weight


@dataclass(frozen=True)
class Edges:
    """A weight as edges from input classes to output classes."""

    weight: Weight
    output: ClassIds
    """Shape (O,)."""
    input: ClassIds
    """Shape (groups, I)."""
    live: Flags
    """Shape (O, I): the slice is not zero, and what it reads is not always zero."""


@dataclass(frozen=True)
class Reading:
    """Classes that are read by something else than a weight; those that are always zero are left out."""

    source: ClassIds
    target: ClassIds | None
    """What reads each of `source`; None: something that stays."""


class Observed:
    """The set of classes that are kept, growing until it is consistent.

    A class is observed when it is pinned, a live edge leads from it into an observed class, or something
    observed reads it otherwise. All others influence nothing that anybody sees, so removing all of them
    changes no output.
    """

    def __init__(
        self, coupling: Coupling, edges: Mapping[str, Edges], readings: Sequence[Reading] = ()
    ) -> None:
        self.edges = edges
        self.readings = [reading for reading in readings if reading.target is not None]
        self.kept: NDArray[np.bool_] = np.zeros(coupling.n_classes, dtype=np.bool_)
        lasting = [reading.source for reading in readings if reading.target is None]
        self.keep(np.concatenate([np.flatnonzero(coupling.pinned()), *lasting]))

    def keep(self, classes: ClassIds) -> None:
        """Keep these, and everything that they are computed from."""
        fresh = np.zeros_like(self.kept)
        fresh[classes] = True
        fresh &= ~self.kept
        while fresh.any():
            self.kept |= fresh
            reached = np.zeros_like(self.kept)
            for reading in self.readings:
                reached[reading.source[fresh[reading.target]]] = True
            for edge in self.edges.values():
                rows = fresh[edge.output]
                if rows.any():
                    self._spread(edge, rows, reached)
            fresh = reached & ~self.kept

    def _spread(self, edge: Edges, rows: Flags, reached: Flags) -> None:
        if edge.weight.groups == 1:
            reached[edge.input[0][edge.live[rows].any(axis=0)]] = True
            return
        grouped = (edge.live & rows[:, None]).reshape(edge.weight.groups, -1, edge.weight.inputs_per_group)
        reached[edge.input[grouped.any(axis=1)]] = True


def readings_of(
    network: Network, coupling: Coupling, known: Mapping[tuple[str, Place], Flags]
) -> list[Reading]:
    """Readers other than weights, for a file's own zeros.

    Args:
        network: the file.
        coupling: its coupling.
        known: channels that are always zero.
    """
    evaluator = Evaluator(network, {}, known)
    found = []
    for link in coupling.links:
        flags = None if link.zero is None else evaluator.evaluate(link.zero)
        if flags is None:
            found.append(Reading(link.source, link.target))
            continue
        some = ~np.broadcast_to(flags.ravel(), link.source.shape)
        found.append(Reading(link.source[some], None if link.target is None else link.target[some]))
    return found


def edges_of(
    network: Network,
    coupling: Coupling,
    live: Mapping[str, Flags],
    zeros: Mapping[tuple[str, Place], Flags],
    sources: Mapping[str, list[tuple[str | None, int]]],
) -> dict[str, Edges]:
    """Live edges of every weight that is still read.

    Args:
        network: the file.
        coupling: its coupling.
        live: non-zero slices.
        zeros: channels that are always zero.
        sources: per weight still read, the (activation, axis) that each of its readers contracts.
    """
    found = {}
    for name, weight in network.weights.items():
        if name not in sources:
            continue
        flags = live[name]
        silent = [None if source is None else zeros.get((source, axis)) for source, axis in sources[name]]
        if silent and all(one is not None for one in silent):
            columns = np.logical_and.reduce([one for one in silent if one is not None])
            columns = columns.reshape(weight.groups, weight.inputs_per_group)
            if columns.any():
                flags = flags & ~np.repeat(columns, weight.outputs // weight.groups, axis=0)
        classes = coupling.weights[name]
        found[name] = Edges(weight, classes.output, classes.input, flags)
    return found
