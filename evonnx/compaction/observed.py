"""Which classes can still influence an output: the "backward" argument, and what must be kept besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.compaction.zeros import Flags
from evonnx.dependency.coupling import ClassIds, Coupling
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


class Observed:
    """The set of classes that are kept, growing until it is consistent.

    A class is observed when it is pinned or a live edge leads from it into an observed class. All others
    influence nothing that anybody sees, so removing all of them changes no output.
    """

    def __init__(self, coupling: Coupling, edges: Mapping[str, Edges]) -> None:
        self.edges = edges
        self.kept: NDArray[np.bool_] = np.zeros(coupling.n_classes, dtype=np.bool_)
        self.keep(np.flatnonzero(coupling.pinned()))

    def keep(self, classes: ClassIds) -> None:
        """Keep these, and everything that they are computed from."""
        fresh = np.zeros_like(self.kept)
        fresh[classes] = True
        fresh &= ~self.kept
        while fresh.any():
            self.kept |= fresh
            reached = np.zeros_like(self.kept)
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


def edges_of(
    network: Network,
    coupling: Coupling,
    live: Mapping[str, Flags],
    zeros: Mapping[tuple[str, int], Flags],
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
