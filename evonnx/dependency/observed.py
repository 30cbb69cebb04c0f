"""Which classes can still influence an output: the "backward" argument, and what must be kept besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds, Coupling, Place
from evonnx.dependency.zeros import Evaluator, Flags, Zeroed
from evonnx.network import Network, Weight

_ROWS = 256
"""Rows of a weight looked at together."""


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
        self._edges = list(edges.values())
        sizes = [edge.output.size for edge in self._edges]
        self._edge_of = np.repeat(np.arange(len(sizes)), sizes)
        self._row_of = _joined([np.arange(size) for size in sizes])
        self._rows = _Places(_joined([edge.output for edge in self._edges]))
        read = [(one.source, one.target) for one in readings if one.target is not None]
        self._sources = _joined([source for source, _ in read])
        self._readers = _Places(_joined([target for _, target in read]))
        self.kept: NDArray[np.bool_] = np.zeros(coupling.n_classes, dtype=np.bool_)
        lasting = [reading.source for reading in readings if reading.target is None]
        self.keep(_joined([np.flatnonzero(coupling.pinned()), *lasting]))

    def keep(self, classes: ClassIds) -> None:
        """Keep these, and everything that they are computed from."""
        fresh = self._fresh(classes)
        while fresh.size:
            self.kept[fresh] = True
            reached = [self._sources[self._readers.of(fresh)]]
            places = self._rows.of(fresh)
            places = places[np.argsort(self._edge_of[places], kind="stable")]
            edges, starts = np.unique(self._edge_of[places], return_index=True)
            for edge, rows in zip(edges.tolist(), np.split(self._row_of[places], starts[1:]), strict=False):
                reached.append(_read(self._edges[edge], rows))
            fresh = self._fresh(_joined(reached))

    def _fresh(self, classes: ClassIds) -> ClassIds:
        return np.unique(classes[~self.kept[classes]])


class _Places:
    """Where each class stands in an array; looking some up costs about as much as they are many."""

    def __init__(self, classes: ClassIds) -> None:
        self.order = np.argsort(classes, kind="stable")
        self.sorted = classes[self.order]

    def of(self, classes: ClassIds) -> NDArray[np.int64]:
        """Positions of distinct classes."""
        starts = np.searchsorted(self.sorted, classes, side="left")
        lengths = np.searchsorted(self.sorted, classes, side="right") - starts
        before = np.cumsum(lengths) - lengths
        return np.asarray(self.order[np.repeat(starts - before, lengths) + np.arange(lengths.sum())])


def _joined(arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays])


def _read(edge: Edges, rows: NDArray[np.int64]) -> ClassIds:
    """Classes that some rows of a weight read, some of them several times."""
    if edge.weight.groups == 1:
        read = np.zeros(edge.live.shape[1], dtype=np.bool_)
        for start in range(0, rows.size, _ROWS):  # most often a few rows read all there is
            read |= edge.live[rows[start : start + _ROWS]].any(axis=0)
            if read.all():
                break
        return np.asarray(edge.input[0][read])
    group = rows // (edge.weight.outputs // edge.weight.groups)
    return np.asarray(edge.input[group][edge.live[rows]])


def readings_of(
    network: Network,
    coupling: Coupling,
    known: Mapping[tuple[str, Place], Flags],
    zeroed: Zeroed | None = None,
) -> list[Reading]:
    """Readers other than weights, for a file's own zeros.

    Args:
        network: the file.
        coupling: its coupling.
        known: channels that are always zero.
        zeroed: what is zero of constants, besides their own zeros.
    """
    evaluator = Evaluator(network, {}, known, zeroed)
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
                rows = (
                    columns if weight.groups == 1 else np.repeat(columns, flags.shape[0] // weight.groups, 0)
                )
                flags = flags & ~rows
        classes = coupling.weights[name]
        found[name] = Edges(weight, classes.output, classes.input, flags)
    return found
