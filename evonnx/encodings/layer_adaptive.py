"""Layer-adaptive magnitude ranks: LAMP, Lee et al., "Layer-adaptive sparsity for the magnitude-based
pruning", ICLR 2021.

The LAMP score of a synapse is w^2 over the sum of all squares in its layer that are not smaller, so that the
strongest synapse of every layer scores 1 and layers can be compared. x is the score's rank among all live
synapses.

Weights are compared by the leading bits of their float32 pattern (sign, exponent, 11 bits of mantissa; exact
for float16 and bfloat16), whose order is the order of |w|. So everything is done on short tables per layer:
sums of squares, ranks, and a look-up from bits to x. Weights that agree to 11 bits (0.05%) share one score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evonnx.encodings._base import largest, not_finite
from evonnx.genome import Block, Expression, Floats, Parent

_DROPPED_BITS = 12
_NOT_FINITE = int(np.float32(np.inf).view(np.uint32)) >> _DROPPED_BITS
"""Code of infinity; those of NaN are larger."""
_EXACT_RANKS = 1 << 20


def _codes(block: Block, scale: float) -> NDArray[np.uint32]:
    """Leading bits of |w|: shape (R, I, K), in the order of |w|."""
    magnitudes = np.abs(block.weights)
    if magnitudes.dtype == np.float64:
        # LAMP does not change with a layer's scale, and doubles may lie outside float32's range.
        magnitudes = (magnitudes / scale).astype(np.float32)
    return np.ascontiguousarray(magnitudes, dtype=np.float32).view(np.uint32) >> np.uint32(_DROPPED_BITS)


@dataclass(frozen=True)
class Lookup:
    """A value by the leading bits of |w|."""

    first: int
    """Smallest code in the table."""
    values: Floats
    scale: float

    def __call__(self, block: Block) -> Floats:
        """Shape (R, I, K); whatever stands at the table's nearer end for codes outside it."""
        codes = _codes(block, self.scale)
        # Codes below the first are dead synapses: differences wrap round and are clipped to the far end.
        return np.take(self.values, codes - np.uint32(self.first), mode="clip")

    def through(self, function: Callable[[Floats], Floats]) -> Lookup:
        """The look-up of a function of the values."""
        return replace(self, values=function(self.values))


@dataclass(frozen=True)
class _Census:
    """How many live synapses of a layer have each code."""

    first: int
    counts: NDArray[np.int64]
    scale: float

    def magnitudes(self) -> NDArray[np.float64]:
        """|w| per code of the table, rounded down to it."""
        codes = np.arange(self.first, self.first + len(self.counts), dtype=np.uint32)
        return (codes << np.uint32(_DROPPED_BITS)).view(np.float32).astype(np.float64)

    def scores(self) -> NDArray[np.float64]:
        """LAMP score per code of the table."""
        squares = self.magnitudes() ** 2
        not_smaller = np.cumsum((squares * self.counts)[::-1])[::-1]
        return np.divide(squares, not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)


def _take_census(parent: Parent, name: str) -> _Census:
    double = parent.network.array(name).dtype == np.float64
    scale = (largest(parent, name, np.abs) or 1.0) if double else 1.0

    def count(block: Block) -> tuple[int, NDArray[np.int64]]:
        codes = _codes(block, scale)
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
    return _Census(first, counts if len(counts) else np.zeros(1, dtype=np.int64), scale)


def _rank(scores: NDArray[np.floating], counts: NDArray[np.int64]) -> Floats:
    """Share of the population whose score is not larger, in (0, 1]: shape of `scores`, which holds each
    score's number of bearers in `counts`."""
    distinct, inverse = np.unique(scores, return_inverse=True)
    population = np.cumsum(np.bincount(inverse, weights=counts, minlength=len(distinct)))
    return np.asarray(population[inverse] / population[-1], dtype=np.float32)


def _rank_synapses(
    censuses: Mapping[str, _Census], scores: Mapping[str, NDArray[np.float64]]
) -> dict[str, Floats]:
    present = {name: np.flatnonzero(census.counts) for name, census in censuses.items()}
    ranks = _rank(
        np.concatenate([scores[name][codes] for name, codes in present.items()]),
        np.concatenate([censuses[name].counts[codes] for name, codes in present.items()]),
    )
    tables: dict[str, Floats] = {}
    start = 0
    for name, codes in present.items():
        tables[name] = np.zeros(len(censuses[name].counts), dtype=np.float32)
        tables[name][codes] = ranks[start : start + len(codes)]
        start += len(codes)
    return tables


def _rank_clusters(means: Floats) -> Floats:
    """Rank of each live cluster's mean score in (0, 1]; scores that agree to 11 bits tie where there are very
    many."""
    if len(means) <= _EXACT_RANKS:
        return _rank(means, np.ones(len(means), dtype=np.int64))
    codes = (means.view(np.uint32) >> np.uint32(_DROPPED_BITS)).astype(np.intp)
    not_larger = np.cumsum(np.bincount(codes))
    return np.asarray(not_larger[codes] / not_larger[-1], dtype=np.float32)


@dataclass(frozen=True)
class LayerAdaptive:
    """Rank of the LAMP score among all live synapses; of a cluster: rank of the mean over its members."""

    name: str = "layer-adaptive"

    def express(self, parent: Parent, truncation: float) -> Expression:
        """Ranks in (0, 1]. Synapses under tau times their layer's largest weight score 0 in their clusters'
        means."""
        censuses = {name: _take_census(parent, name) for name in parent.network.weights}
        scores = {name: census.scores() for name, census in censuses.items()}
        tables = _rank_synapses(censuses, scores)
        total = np.zeros(parent.clusters.n_clusters, dtype=np.float32)
        for name, census in censuses.items():
            magnitudes = census.magnitudes()
            kept = np.where(magnitudes >= truncation * magnitudes[-1], scores[name], 0)
            score = Lookup(census.first, kept.astype(np.float32), census.scale)

            def live_score(block: Block, score: Lookup = score) -> Floats:
                return score(block) * block.live

            for role in parent.sum_members(name, live_score):
                total[role.clusters] += role.sums
        members = parent.census.clusters
        live = np.flatnonzero(members)
        x = np.zeros_like(total)
        x[live] = _rank_clusters(total[live] / members[live])
        return Expression(
            {name: Lookup(census.first, tables[name], census.scale) for name, census in censuses.items()}, x
        )
