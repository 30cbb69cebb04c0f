"""The same strength for all: the random control that every comparison needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evonnx.genome import Block, Expression, Floats, Parent


def _ones(block: Block) -> Floats:
    return np.ones(block.weights.shape, dtype=np.float32)


@dataclass(frozen=True)
class Uniform:
    """x = 1 for every synapse and every cluster, however many synapses it has left; truncation has no
    effect."""

    name: str = "uniform"

    def express(self, parent: Parent, truncation: float) -> Expression:
        """P = 1 throughout."""
        return Expression(
            dict.fromkeys(parent.network.weights, _ones),
            np.ones(parent.clusters.n_clusters, dtype=np.float32),
        )
