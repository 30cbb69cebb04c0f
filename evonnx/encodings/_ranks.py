"""Strengths as ranks among all live synapses, from a measure of each synapse.

Measures are compared by the leading bits of their float32 pattern (sign, exponent, 11 bits of mantissa; exact
for float16 and bfloat16), whose order is their own. So everything is done on short tables per layer: a
census, scores, ranks, and a look-up from bits to x. A table has entries for what occurs in its layer, so that
a small layer has a small one. Measures that agree to 11 bits (0.05%) share one score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evonnx.encodings._base import not_finite
from evonnx.genome import Block, Expression, Floats, Parent

_DROPPED_BITS = 12
_NOT_FINITE = int(np.float32(np.inf).view(np.uint32)) >> _DROPPED_BITS
"""Code of infinity; those of NaN are larger."""
_EXACT_RANKS = 1 << 20
_LARGEST_SHARE = 4
"""A table that is read by position, which is fast, may have this many times the entries that are needed."""

Read = Callable[[Block], Floats]
"""A measure of each synapse of a block, not negative: shape (R, I, K), float32."""
Scores = NDArray[np.float64]


def _codes(measures: Floats) -> NDArray[np.uint32]:
    """Leading bits, in the order of the measures."""
    return np.ascontiguousarray(measures, dtype=np.float32).view(np.uint32) >> np.uint32(_DROPPED_BITS)


@dataclass(frozen=True)
class Lookup:
    """A value by the leading bits of a measure."""

    codes: NDArray[np.uint32]
    """Ascending; the first alone where the table has an entry for every code from there on."""
    values: Floats
    read: Read

    def __call__(self, block: Block) -> Floats:
        """Shape (R, I, K); whatever stands nearby for codes that no live synapse has."""
        codes = _codes(self.read(block))
        if len(self.codes) < len(self.values):
            # Codes below the first are dead synapses: differences wrap round and are clipped to the far end.
            places = codes - self.codes[0]
        else:
            places = np.searchsorted(self.codes, codes)
        found: Floats = np.take(self.values, places, mode="clip")
        return found

    def through(self, function: Callable[[Floats], Floats]) -> Lookup:
        """The look-up of a function of the values."""
        return replace(self, values=function(self.values))


@dataclass(frozen=True)
class Census:
    """How many live synapses of a layer have each code."""

    codes: NDArray[np.uint32]
    """Ascending; those that occur, or 0 alone in a layer without live synapses."""
    counts: NDArray[np.int64]
    read: Read

    def measures(self) -> Scores:
        """The measure of each code, rounded down to it."""
        return (self.codes << np.uint32(_DROPPED_BITS)).view(np.float32).astype(np.float64)

    def lookup(self, values: Floats) -> Lookup:
        """The look-up of one value per code."""
        first, span = self.codes[0], int(self.codes[-1] - self.codes[0]) + 1
        if span > _LARGEST_SHARE * len(self.codes):
            return Lookup(self.codes, values, self.read)
        table = np.zeros(span + 1, dtype=np.float32)
        table[self.codes - first] = values
        table[-1] = table[-2]
        return Lookup(self.codes[:1], table, self.read)


def take_census(parent: Parent, name: str, read: Read) -> Census:
    """Count the live synapses of a layer by the code of their measure.

    Raises:
        ModelError: the layer has weights, and so measures, that are not finite.
    """

    def count(block: Block) -> tuple[int, NDArray[np.int64]]:
        codes = _codes(read(block))
        live = codes if block.live.all() else codes[block.live]
        if live.size == 0:
            return 0, np.zeros(0, dtype=np.int64)
        first = int(live.min())
        return first, np.bincount((live - np.uint32(first)).reshape(-1).astype(np.intp))

    first, counts = 0, np.zeros(0, dtype=np.int64)
    for start, part in parent.map(name, count):
        if len(counts) == 0:
            first, counts = start, part
        elif len(part):
            below, above = max(0, first - start), max(0, start + len(part) - first - len(counts))
            first, counts = first - below, np.pad(counts, (below, above))
            counts[start - first : start - first + len(part)] += part
    if first + len(counts) > _NOT_FINITE:
        raise not_finite(parent, name)
    present = np.flatnonzero(counts)
    if not len(present):
        return Census(np.zeros(1, dtype=np.uint32), np.zeros(1, dtype=np.int64), read)
    return Census((first + present).astype(np.uint32), counts[present], read)


def _rank(scores: NDArray[np.floating], counts: NDArray[np.int64]) -> Floats:
    """Share of the population whose score is not larger, in (0, 1]: shape of `scores`, which holds each
    score's number of bearers in `counts`."""
    distinct, inverse = np.unique(scores, return_inverse=True)
    population = np.cumsum(np.bincount(inverse, weights=counts, minlength=len(distinct)))
    return np.asarray(population[inverse] / population[-1], dtype=np.float32)


def _rank_synapses(censuses: Mapping[str, Census], scores: Mapping[str, Scores]) -> dict[str, Floats]:
    """Per layer, the rank of each code that occurs."""
    ranks = _rank(
        np.concatenate([scores[name] for name in censuses]),
        np.concatenate([census.counts for census in censuses.values()]),
    )
    ends = np.cumsum([len(census.codes) for census in censuses.values()])
    return dict(zip(censuses, np.split(ranks, ends[:-1]), strict=True))


def _rank_clusters(means: Floats) -> Floats:
    """Rank of each live cluster's mean score in (0, 1]; scores that agree to 11 bits tie where there are very
    many."""
    if len(means) <= _EXACT_RANKS:
        return _rank(means, np.ones(len(means), dtype=np.int64))
    codes = (means.view(np.uint32) >> np.uint32(_DROPPED_BITS)).astype(np.intp)
    not_larger = np.cumsum(np.bincount(codes))
    return np.asarray(not_larger[codes] / not_larger[-1], dtype=np.float32)


def express_ranks(
    parent: Parent, censuses: Mapping[str, Census], scores: Mapping[str, Scores], truncation: float
) -> Expression:
    """Ranks in (0, 1] among all live synapses of the network; of clusters, ranks of the mean over members.

    Where synapses have prices both are per amount: score over price, and summed score over summed price.

    Args:
        parent: the network, its clusters and prices.
        censuses: of every layer.
        scores: per layer, what each code that occurs is worth beside other layers'.
        truncation: synapses whose measure is under this share of their layer's largest count 0 in means.
    """
    ranks = _rank_synapses(censuses, {name: _per_amount(parent, name, scores[name]) for name in censuses})
    total = np.zeros(parent.clusters.n_clusters, dtype=np.float32)
    for name, census in censuses.items():
        measures = census.measures()
        kept = np.where(measures >= truncation * measures[-1], scores[name], 0)
        score = census.lookup(kept.astype(np.float32))

        def live_score(block: Block, score: Lookup = score) -> Floats:
            return score(block) * block.live

        for role in parent.sum_members(name, live_score):
            total[role.clusters] += role.sums
    live = np.flatnonzero(parent.census.clusters)
    x = np.zeros_like(total)
    with np.errstate(divide="ignore"):  # what costs nothing comes first
        x[live] = _rank_clusters(total[live] / _amounts(parent)[live])
    traits = {name: census.lookup(ranks[name]) for name, census in censuses.items()}
    return Expression(traits, x, priced=parent.prices is not None)


def _per_amount(parent: Parent, name: str, scores: Scores) -> Scores:
    """Scores over the layer's price, infinite where it costs nothing."""
    price = 1.0 if parent.prices is None else parent.prices[name]
    return scores / price if price > 0 else np.full_like(scores, np.inf)


def _amounts(parent: Parent) -> Floats:
    """What the members of each cluster use, shape (n_clusters,): their number where all cost the same."""
    if parent.prices is None:
        return parent.census.clusters
    amounts = np.zeros(parent.clusters.n_clusters)
    for name, price in parent.prices.items():
        for role in parent.census.roles.get(name) or parent.sum_members(name, lambda block: block.live):
            amounts[role.clusters] += price * role.sums
    return np.asarray(amounts, dtype=np.float32)
