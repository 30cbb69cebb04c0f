"""The genome: P(cluster) and P(synapse given cluster) of every live cluster and synapse (equations 1, 4 and
5).

Probabilities of synapses are never stored for a whole network: a genome keeps one x per cluster and a rule
per layer that gives x for any block of synapses, and P = exp((x - 1) / T). So encoding a network of 100
million synapses needs a few numbers per cluster and one block of working memory.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evonnx.clusters import Clusters, Granularity
from evonnx.errors import EvonnxError, ModelError
from evonnx.masks import Mask, Masks
from evonnx.network import Array, Network

Floats = NDArray[np.float32]
Levels = Literal["both", "clusters", "synapses"]
Scope = Literal["layer", "network"]
Result = TypeVar("Result")

BLOCK_SYNAPSES = 1 << 18
"""Synapses looked at together: small enough to stay in a core's cache. Random streams are spawned per block,
so changing it changes what a seed gives."""
PARALLEL_SYNAPSES = 1 << 21
"""Layers of at least this many synapses are spread over threads; the result does not depend on how many."""
WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Block:
    """Some rows of one layer in its canonical view."""

    name: str
    index: int
    """Position among the layer's blocks."""
    rows: slice
    """Outputs, with definite start and stop."""
    weights: NDArray[np.floating]
    """Shape (R, I, K), float32, or float64 where the model stores that."""
    live: Mask
    """Shape (R, I, K)."""


@dataclass(frozen=True)
class MemberSums:
    """A quantity summed over the members that one layer gives to its clusters, in one role.

    At granularity "channel" a layer has two roles: producer (filters) and consumer (input slices).
    """

    clusters: NDArray[np.int64] | slice
    """Which clusters, each once."""
    sums: NDArray[np.floating]
    """One per cluster named."""


@dataclass(frozen=True)
class Census:
    """How many synapses live."""

    clusters: Floats
    """Shape (n_clusters,): per cluster, a synapse as often as it has roles there; 0: the cluster is dead."""
    layers: Mapping[str, int]
    roles: Mapping[str, tuple[MemberSums, MemberSums]]
    """Only at granularity "channel": per layer and class, as producer and as consumer."""


@dataclass(frozen=True)
class Parent:
    """The network that heredity starts from, read block by block."""

    network: Network
    clusters: Clusters
    masks: Masks | None = None
    """In stored layout; synapses to treat as dead though their weight is not zero. None: none."""
    sensitivities: Mapping[str, Array] | None = None
    """In stored layout, by weight name: what an adapter measured (`evonnx.adapter.MeasuresSensitivities`).
    None: nothing was measured."""
    prices: Mapping[str, float] | None = None
    """What a live synapse of each layer uses of what is scarce, by weight name; None: all the same."""

    @cached_property
    def census(self) -> Census:
        """Count what lives; once."""
        per_cluster = np.zeros(self.clusters.n_clusters, dtype=np.float32)
        per_layer: dict[str, int] = {}
        by_role: dict[str, tuple[MemberSums, MemberSums]] = {}
        for name in self.network.weights:
            roles = self.sum_members(name, lambda block: block.live)
            per_layer[name] = round(float(np.sum(roles[0].sums, dtype=np.float64)))
            for role in roles:
                per_cluster[role.clusters] += role.sums
            if len(roles) == 2:
                by_role[name] = roles[0], roles[1]
        return Census(per_cluster, per_layer, by_role)

    def row_blocks(self, name: str) -> list[slice]:
        """Cut a layer's outputs into blocks of about `BLOCK_SYNAPSES` synapses."""
        weight = self.network.weights[name]
        per_row = max(1, weight.inputs_per_group * weight.taps)
        step = max(1, BLOCK_SYNAPSES // per_row)
        return [slice(start, min(start + step, weight.outputs)) for start in range(0, weight.outputs, step)]

    def block(self, name: str, rows: slice, index: int = 0) -> Block:
        """Some rows of a layer."""
        weight = self.network.weights[name]
        weights = self.network.canonical(name)[rows]
        if weights.dtype != np.float64:
            weights = weights.astype(np.float32, copy=False)
        live = weights != 0
        if self.masks is not None and name in self.masks:
            live &= weight.to_canonical(self.masks[name])[rows]
        return Block(name, index, rows, cast(NDArray[np.floating], weights), live)

    def map(self, name: str, step: Callable[[Block], Result]) -> Iterator[Result]:
        """Apply a function to every block of a layer, in threads if the layer is large; results come in
        order."""
        weight = self.network.weights[name]

        def run(place: tuple[int, slice]) -> Result:
            index, rows = place
            return step(self.block(name, rows, index))

        blocks = list(enumerate(self.row_blocks(name)))
        if weight.outputs * weight.inputs_per_group * weight.taps < PARALLEL_SYNAPSES or WORKERS == 1:
            yield from map(run, blocks)
            return
        with ThreadPoolExecutor(WORKERS) as executor:
            # A few blocks ahead, no more: results that wait for their turn take memory.
            waiting = deque(executor.submit(run, place) for place in blocks[: 2 * WORKERS])
            for place in blocks[2 * WORKERS :]:
                yield waiting.popleft().result()
                waiting.append(executor.submit(run, place))
            for future in waiting:
                yield future.result()

    def sum_members(self, name: str, quantity: Callable[[Block], NDArray[np.generic]]) -> list[MemberSums]:
        """Sum a quantity over each cluster's members in one layer.

        Args:
            name: the layer.
            quantity: gives shape (R, I, K) for a block.

        Returns:
            One entry per role of the layer.
        """
        layer = self.clusters.layers[name]
        if layer.kernels is not None:
            kernels = np.concatenate(
                list(self.map(name, lambda block: over_taps(quantity(block)).reshape(-1)))
            )
            return [MemberSums(slice(layer.kernels, layer.kernels + len(kernels)), kernels)]
        assert layer.rows is not None
        by_row: list[NDArray[np.floating]] = []
        by_column = np.zeros((layer.groups, layer.inputs_per_group))

        def both(block: Block) -> tuple[slice, Floats, NDArray[np.floating]]:
            slices = over_taps(quantity(block))
            group = layer.group_of(block.rows)
            starts = np.flatnonzero(np.diff(group, prepend=-1))
            if layer.columns is None:
                columns = slices[:0]
            elif len(starts) == 1:
                columns = slices.sum(axis=0, keepdims=True)
            else:
                columns = np.add.reduceat(slices, starts, axis=0)
            return slice(int(group[0]), int(group[-1]) + 1), slices.sum(axis=1), columns

        for groups, sums, columns in self.map(name, both):
            by_row.append(sums)
            if layer.columns is not None:
                by_column[groups] += columns
        rows = _sum_by_cluster(layer.rows, np.concatenate(by_row))
        if layer.columns is None:
            return [rows]
        return [rows, _sum_by_cluster(layer.columns.reshape(-1), by_column.reshape(-1))]


def over_taps(values: NDArray[np.generic]) -> Floats:
    """Sum (R, I, K) over K; a product with ones is several times faster than a sum over a short axis."""
    floats = values.astype(np.float32, copy=False)
    if floats.shape[2] == 1:
        return floats[:, :, 0]
    taps = np.ones(floats.shape[2], dtype=np.float32)
    return np.asarray((floats.reshape(-1, floats.shape[2]) @ taps).reshape(floats.shape[:2]))


def _sum_by_cluster(clusters: NDArray[np.int64], sums: NDArray[np.floating]) -> MemberSums:
    distinct, inverse = np.unique(clusters, return_inverse=True)
    totals = np.bincount(inverse, weights=sums, minlength=len(distinct))
    return MemberSums(distinct, totals.astype(np.float64, copy=False))


def needs_gradients(encoding: Encoding) -> bool:
    """Whether an encoding's strength is read from gradients, which only an adapter can measure."""
    return bool(getattr(encoding.strength, "from_gradients", False))


Trait = Callable[[Block], Floats]
"""x of every synapse in a block: shape (R, I, K), in [0, 1]. What it says of dead synapses is not looked
at."""


@runtime_checkable
class Tabled(Protocol):
    """A trait that looks x up in a table."""

    def through(self, function: Callable[[Floats], Floats]) -> Trait:
        """The trait whose table is a function of this one's, element by element."""
        ...


@dataclass(frozen=True)
class Expression:
    """What a strength makes of a parent: x in [0, 1] for synapses and clusters, larger for stronger ones."""

    traits: Mapping[str, Trait]
    """By weight name."""
    cluster_x: Floats
    """Shape (n_clusters,)."""
    priced: bool = False
    """Whether x is strength per amount at the parent's prices."""


class Strength(Protocol):
    """The exchangeable part of an encoding: how strong synapses and clusters are."""

    @property
    def name(self) -> str:
        """Short name, such as "magnitude"."""
        ...

    def express(self, parent: Parent, truncation: float) -> Expression:
        """Measure synapses and clusters. A strength that reads `parent.sensitivities` has a true attribute
        `from_gradients`; one that compares layers divides by `parent.prices` and says so in the result.

        Args:
            parent: the network and its clusters.
            truncation: tau; in sums over clusters a strength under tau * z counts as 0 (equation 4).
        """
        ...


@dataclass(frozen=True)
class Encoding:
    """How a genome is read from a parent, and how the environment acts on it (design: section 3)."""

    strength: Strength
    truncation: float = 0.0
    """tau, as a share of the layer's largest strength, in [0, 1)."""
    cluster_selectivity: float = 1.0
    """T of P(cluster) = exp((x - 1) / T); 1 is the paper's, smaller selects harder."""
    synapse_selectivity: float = 1.0
    """T of P(synapse given cluster)."""
    scope: Scope = "layer"
    """Where the environment's factors are the same: "layer": every layer keeps the same share, "network": one
    F for all. Clusters that span layers (granularity "channel") always share one F_c."""
    granularity: Granularity = "kernel"
    levels: Levels = "both"
    """Which of equation 1's two factors acts."""
    cluster_share: float = 0.5
    """s: with both levels the budget k is split into k^s for clusters and k^(1 - s) for synapses."""

    def describe(self) -> dict[str, object]:
        """All parts as plain data, for records."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return {**parts, "strength": self.strength.name}

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            EvonnxError: naming the part that is out of range.
        """
        if not 0 <= self.truncation < 1:
            raise EvonnxError(f"Truncation must be in [0, 1), not {self.truncation}.")
        for part, value in (
            ("Cluster selectivity", self.cluster_selectivity),
            ("Synapse selectivity", self.synapse_selectivity),
        ):
            if not (value > 0 and math.isfinite(value)):
                raise EvonnxError(f"{part} must be a positive number, not {value}.")
        if not 0 <= self.cluster_share <= 1:
            raise EvonnxError(f"Cluster share must be in [0, 1], not {self.cluster_share}.")


@dataclass(frozen=True)
class Genome:
    """Probabilities inherited from a parent, before any environment acts on them."""

    parent: Parent
    encoding: Encoding
    traits: Mapping[str, Trait]
    cluster_x: Floats
    """Shape (n_clusters,), in [0, 1]."""
    priced: bool = False
    """Whether x is strength per amount already, at the parent's prices."""

    @property
    def cluster_live(self) -> Floats:
        """Live synapses that belong to each cluster, shape (n_clusters,); 0 means the cluster is dead."""
        return self.parent.census.clusters

    @property
    def live(self) -> Mapping[str, int]:
        """Live synapses by layer."""
        return self.parent.census.layers

    def cluster_log_probability(self) -> Floats:
        """log P(cluster), equation 4: shape (n_clusters,); -inf for dead clusters."""
        log_p = (self.cluster_x - np.float32(1)) / np.float32(self.encoding.cluster_selectivity)
        log_p[self.cluster_live == 0] = -np.inf
        return np.asarray(log_p)

    def synapse_log_probability(self, block: Block) -> Floats:
        """log P(synapse given cluster), equation 5, of a block: shape (R, I, K); of no meaning where dead."""
        return self._log_probability(self.traits[block.name](block))

    def synapse_survival(self, block: Block, log_factor: float) -> Floats:
        """min(1, F P(synapse given cluster)) of a block: shape (R, I, K); of no meaning where dead."""

        def survival(x: Floats) -> Floats:
            log_p = self._log_probability(x)
            log_p += np.float32(log_factor)
            return np.asarray(np.exp(np.minimum(log_p, 0, out=log_p), out=log_p))

        trait = self.traits[block.name]
        # Where x comes from a table, the table is worked on instead of every synapse.
        return trait.through(survival)(block) if isinstance(trait, Tabled) else survival(trait(block))

    def _log_probability(self, x: Floats) -> Floats:
        log_p = x - np.float32(1)
        if self.encoding.synapse_selectivity != 1:
            log_p /= np.float32(self.encoding.synapse_selectivity)
        return log_p

    def cluster_probability(self, name: str) -> Floats:
        """P that the clusters of each synapse are synthesised, under factors of 1: shape (O, I or 1, 1).

        At granularity "channel" that is the product over the classes produced and read, one class counted
        once.
        """
        rows = slice(0, self.parent.network.weights[name].outputs)
        return np.asarray(
            self.parent.clusters.layers[name].spread(np.exp(self.cluster_log_probability()), rows)
        )

    def synapse_probability(self, name: str) -> Floats:
        """P(synapse given its cluster), equation 5: shape (O, I, K); 0 for dead synapses."""
        parts = self.parent.map(
            name,
            lambda block: np.where(block.live, np.exp(self.synapse_log_probability(block)), np.float32(0)),
        )
        return np.concatenate(list(parts))


def encode(
    network: Network,
    clusters: Clusters,
    encoding: Encoding,
    masks: Masks | None = None,
    sensitivities: Mapping[str, Array] | None = None,
    prices: Mapping[str, float] | None = None,
) -> Genome:
    """Read the genome of a parent.

    Args:
        network: the parent; a weight that is exactly zero is a dead synapse.
        clusters: from `find_clusters` on the same network.
        encoding: its parts.
        masks: further synapses to treat as dead, by weight name, in stored layout.
        sensitivities: for strengths that need gradients (`needs_gradients`).
        prices: what a live synapse of each layer uses of what is scarce (`environment.prices_of`); None: all
            the same.

    Raises:
        ModelError: there is nothing to inherit: no live synapse, or weights that are not finite.
    """
    parent = Parent(network, clusters, masks, sensitivities, prices)
    if sum(parent.census.layers.values()) == 0:
        raise ModelError(
            f"{network.source} has no live synapse to inherit: every prunable weight is zero, or there is "
            "none (evonnx inspect lists what was found). Give a trained model with Conv, Gemm or MatMul."
        )
    expression = encoding.strength.express(parent, encoding.truncation)
    if expression.cluster_x.shape != (clusters.n_clusters,) or set(expression.traits) != set(network.weights):
        raise EvonnxError(
            f"Strength {encoding.strength.name!r} gave x for {expression.cluster_x.shape} clusters and "
            f"{len(expression.traits)} layers; the network has {clusters.n_clusters} and "
            f"{len(network.weights)}."
        )
    return Genome(parent, encoding, expression.traits, expression.cluster_x, expression.priced)
