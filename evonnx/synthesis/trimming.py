"""Holding a sample to its hard bound: the least probable survivors go, ties by lot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evonnx.clusters import LayerClusters
from evonnx.environment.pressure import Pressure, survival
from evonnx.genome import Block, Genome
from evonnx.masks import Mask

_LOOK_AGAIN = 1 << 18
"""Candidates after which the bar for being one is lowered."""

Canonical = dict[str, Mask]
"""Masks in the canonical view (O, I, K)."""
Protected = Mapping[str, NDArray[np.int64]]
"""By weight name: flat indices into (O, I, K) of synapses that may not be trimmed."""

_DROPPED_BITS = 12
_SPARED = (int(np.float32(1).view(np.uint32)) >> _DROPPED_BITS) + 1
"""One more than the code of probability 1: stands for synapses that are out of the question."""


def _codes(
    genome: Genome, pressure: Pressure, masks: Canonical, protected: Protected, block: Block
) -> NDArray[np.uint32]:
    """Leading bits of every synapse's probability, in its order: shape (R * I * K,); the largest number where
    it is dead or may not be trimmed."""
    layer = genome.parent.clusters.layers[block.name]
    probability = survival(genome, pressure, block)
    probability *= layer.spread(pressure.cluster_survival, block.rows)
    codes = probability.reshape(-1).view(np.uint32)
    codes >>= np.uint32(_DROPPED_BITS)
    np.copyto(codes, _SPARED, where=~masks[block.name][block.rows].reshape(-1))
    spared = protected.get(block.name)
    if spared is not None:
        here = spared - block.rows.start * block.live[0].size
        codes[here[(here >= 0) & (here < codes.size)]] = _SPARED
    return codes


def trim_synapses(
    genome: Genome,
    pressure: Pressure,
    masks: Canonical,
    prices: Mapping[str, float],
    excess: float,
    protected: Protected,
    rng: np.random.Generator,
) -> None:
    """Kill the least probable survivors until `excess` is gone, in place; all that may go if that is not
    enough.

    Probabilities that agree to 11 bits (0.05%) are ties.

    Args:
        genome: what the sample was drawn from.
        pressure: the environment it was drawn under.
        masks: canonical and contiguous; only subsets of the parent's live synapses.
        prices: amount per synapse of each layer.
        excess: amount to get rid of.
        protected: synapses to spare.
        rng: draws among ties.
    """

    amounts = np.zeros(_SPARED + 1)
    cap = _SPARED - 1
    found: list[tuple[str, int, NDArray[np.intp], NDArray[np.uint32]]] = []
    looked_at = 0

    def candidates(block: Block) -> tuple[str, int, NDArray[np.intp], NDArray[np.uint32]]:
        codes = _codes(genome, pressure, masks, protected, block)
        places = np.flatnonzero(codes <= cap)
        return block.name, block.rows.start * block.live[0].size, places, codes[places]

    # One pass: what lies above the least probable `excess` seen so far need not be remembered. A thread that
    # reads an older cap remembers more than it must, which the last filter drops.
    for name in masks:
        for entry in genome.parent.map(name, candidates):
            found.append(entry)
            np.add.at(amounts, entry[3], prices[name])
            looked_at += len(entry[3])
            if looked_at >= _LOOK_AGAIN:
                cap, looked_at = min(cap, int(np.searchsorted(np.cumsum(amounts), excess))), 0
    below = np.cumsum(amounts)
    last = min(int(np.searchsorted(below, excess)), _SPARED)
    wanted = excess - (below[last - 1] if last else 0.0)
    tied = amounts[last]
    for name, start, places, codes in found:
        price = prices[name]
        flat = masks[name].reshape(-1)
        flat[places[codes < last] + start] = False
        ties = places[codes == last] + start
        if len(ties) == 0 or wanted <= 0 or price == 0:
            continue
        # This block's fair part of what the ties have to give; the last block's part is all that is left.
        part = min(len(ties), int(np.ceil(wanted * min(1.0, len(ties) * price / tied) / price - 1e-9)))
        flat[rng.choice(ties, size=part, replace=False)] = False
        wanted -= part * price
        tied -= len(ties) * price


def trim_clusters(
    genome: Genome,
    pressure: Pressure,
    masks: Canonical,
    alive: Mask,
    prices: Mapping[str, float],
    excess: float,
    spared: Mask,
    rng: np.random.Generator,
) -> None:
    """Kill the least probable living clusters until `excess` is gone, in place; all that may go if that is
    not enough.

    Args:
        genome: what the sample was drawn from.
        pressure: the environment it was drawn under.
        masks: canonical; changed.
        alive: shape (n_clusters,): which clusters live; changed.
        prices: amount per synapse of each layer.
        excess: amount to get rid of.
        spared: shape (n_clusters,): clusters that may not be trimmed.
        rng: orders ties.
    """
    clusters = genome.parent.clusters
    counts = {name: np.count_nonzero(mask, axis=2)[:, :, None] for name, mask in masks.items()}

    def amount(living: Mask) -> float:
        return sum(
            prices[name] * float(np.sum(counts[name][rows] * clusters.layers[name].spread(living, rows)))
            for name in masks
            for rows in genome.parent.row_blocks(name)
        )

    may_go = alive & ~spared
    if clusters.pinned is not None:
        may_go &= ~clusters.pinned
    order = rng.permutation(np.flatnonzero(may_go))
    order = order[np.argsort(pressure.cluster_survival[order], kind="stable")]
    bound = amount(alive) - excess

    def without(number: int) -> Mask:
        living = alive.copy()
        living[order[:number]] = False
        return living

    few, many = 0, len(order)
    while few < many:
        middle = (few + many) // 2
        if amount(without(middle)) <= bound:
            many = middle
        else:
            few = middle + 1
    alive[order[:few]] = False
    for name, mask in masks.items():
        restrict(clusters.layers[name], alive, mask, genome.parent.row_blocks(name))


def restrict(layer: LayerClusters, alive: Mask, mask: Mask, blocks: list[slice]) -> None:
    """Kill the synapses of clusters that do not live, in place."""
    for rows in blocks:
        mask[rows] &= layer.spread(alive, rows)
