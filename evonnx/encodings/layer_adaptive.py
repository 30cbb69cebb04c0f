"""Layer-adaptive magnitude ranks: LAMP, Lee et al., "Layer-adaptive sparsity for the magnitude-based
pruning", ICLR 2021.

The LAMP score of a synapse is w^2 over the sum of all squares in its layer that are not smaller, so that the
strongest synapse of every layer scores 1 and layers can be compared. x is the score's rank among all live
synapses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evonnx.encodings._base import largest
from evonnx.encodings._ranks import Census, Read, Scores, express_ranks, take_census
from evonnx.genome import Block, Expression, Floats, Parent


def _magnitudes(parent: Parent, name: str) -> Read:
    """|w| as float32."""
    if parent.network.array(name).dtype != np.float64:
        return lambda block: np.abs(block.weights)
    # LAMP does not change with a layer's scale, and doubles may lie outside float32's range.
    scale = largest(parent, name, np.abs) or 1.0

    def scaled(block: Block) -> Floats:
        return np.asarray(np.abs(block.weights) / scale, dtype=np.float32)

    return scaled


def _lamp(census: Census) -> Scores:
    """LAMP score per code that occurs."""
    squares = census.measures() ** 2
    not_smaller = np.cumsum((squares * census.counts)[::-1])[::-1]
    return np.divide(squares, not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)


@dataclass(frozen=True)
class LayerAdaptive:
    """Rank of the LAMP score among all live synapses; of a cluster: rank of the mean over its members."""

    name: str = "layer-adaptive"

    def express(self, parent: Parent, truncation: float) -> Expression:
        """Ranks in (0, 1]. Synapses under tau times their layer's largest weight score 0 in their clusters'
        means."""
        censuses = {
            name: take_census(parent, name, _magnitudes(parent, name)) for name in parent.network.weights
        }
        scores = {name: _lamp(census) for name, census in censuses.items()}
        return express_ranks(parent, censuses, scores, truncation)
