"""Clusters: sets of synapses that are synthesised or not as one (design: section 2).

A cluster is a dense integer, 0 .. n_clusters - 1. Which clusters a synapse belongs to follows from its place
in the canonical view (O, I, K) of its layer, so memberships are stored per row, column or kernel, never per
synapse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds, Coupling
from evonnx.errors import EvonnxError
from evonnx.network import Network

Value = TypeVar("Value", bound=np.generic)
Granularity = Literal["channel", "filter", "kernel"]


@dataclass(frozen=True)
class LayerClusters:
    """Where the synapses of one layer, seen as (O, I, K), stand among the clusters. One of `kernels` or
    `rows` is set."""

    outputs: int
    inputs_per_group: int
    groups: int
    kernels: int | None = None
    """Kernel (o, i) is cluster `kernels + o * I + i`."""
    rows: ClassIds | None = None
    """Shape (O,): cluster of each output's filter, or the class it produces."""
    columns: ClassIds | None = None
    """Shape (groups, I): the class each input slice reads; only at granularity "channel"."""
    overlap: bool = False
    """Some synapse's row and column are one and the same cluster: it is counted once."""

    def group_of(self, rows: slice) -> NDArray[np.int64]:
        """Group of each output in a block of rows, shape (R,)."""
        return np.arange(rows.start, rows.stop) // max(1, self.outputs // self.groups)

    def of(self, output: int, input: int) -> list[int]:
        """The clusters of slice (o, i)."""
        if self.kernels is not None:
            return [self.kernels + output * self.inputs_per_group + input]
        assert self.rows is not None
        produced = [int(self.rows[output])]
        if self.columns is None:
            return produced
        return [*produced, int(self.columns[self.group_of(slice(output, output + 1))[0], input])]

    def spread(
        self, values: NDArray[Value], rows: slice, combine: Callable[..., NDArray[Value]] = np.multiply
    ) -> NDArray[Value]:
        """Carry values from clusters to synapses.

        Args:
            values: shape (n_clusters,): probabilities in [0, 1], or booleans.
            rows: the block of outputs to fill, with definite start and stop.
            combine: how the values of two clusters that a synapse belongs to become one; the product by
                default (for booleans: whether both live).

        Returns:
            Shape (R, I, 1) or (R, 1, 1). A synapse whose two clusters are one and the same has that one's
            value.
        """
        if self.kernels is not None:
            first = self.kernels + rows.start * self.inputs_per_group
            last = self.kernels + rows.stop * self.inputs_per_group
            return values[first:last].reshape(rows.stop - rows.start, self.inputs_per_group, 1)
        assert self.rows is not None
        produced = values[self.rows[rows]][:, None]
        if self.columns is None:
            return produced[:, :, None]
        group = self.group_of(rows)
        read = values[self.columns][group] if self.groups > 1 else values[self.columns]
        both = combine(produced, read)
        if self.overlap:
            columns = self.columns[group] if self.groups > 1 else self.columns
            both = np.where(self.rows[rows][:, None] == columns, produced, both)
        return both[:, :, None]


@dataclass(frozen=True)
class Clusters:
    """All clusters of a network at one granularity."""

    granularity: Granularity
    n_clusters: int
    layers: Mapping[str, LayerClusters]
    """By weight name, in graph order."""
    pinned: NDArray[np.bool_] | None = None
    """Shape (n_clusters,): clusters that cannot die as one; None where all can."""


def find_clusters(network: Network, coupling: Coupling, granularity: Granularity) -> Clusters:
    """Divide the synapses of a network into clusters.

    Args:
        network: the parent.
        coupling: its channel classes; at granularity "channel" these are the clusters.
        granularity: "kernel": one (o, i) slice of a convolution, one output's row of other layers; "filter":
            one output's weights; "channel": everything that must go for a channel to be physically removable.

    Raises:
        EvonnxError: the granularity is unknown.
    """
    if granularity not in get_args(Granularity):
        raise EvonnxError(
            f"Unknown cluster granularity {granularity!r}; choose one of {', '.join(get_args(Granularity))}."
        )
    layers: dict[str, LayerClusters] = {}
    n_clusters = 0
    for name, weight in network.weights.items():
        shape = (weight.outputs, weight.inputs_per_group, weight.groups)
        if granularity == "channel":
            classes = coupling.weights[name]
            layers[name] = LayerClusters(
                *shape,
                rows=classes.output,
                columns=classes.input,
                overlap=bool(np.intersect1d(classes.output, classes.input).size),
            )
        elif granularity == "kernel" and weight.is_convolution:
            layers[name] = LayerClusters(*shape, kernels=n_clusters)
            n_clusters += weight.outputs * weight.inputs_per_group
        else:
            layers[name] = LayerClusters(*shape, rows=np.arange(n_clusters, n_clusters + weight.outputs))
            n_clusters += weight.outputs
    if granularity == "channel":
        return Clusters(granularity, coupling.n_classes, layers, coupling.pinned())
    return Clusters(granularity, n_clusters, layers)
