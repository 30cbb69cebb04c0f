"""What strengths share: equation 4 for strengths that are a function of one weight. Knows no strength by
name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import ModelError
from evonnx.genome import Block, Expression, Floats, Parent

Measure = Callable[[NDArray[np.floating]], NDArray[np.floating]]
"""Strength of each weight, not negative, in an array of its own."""


@dataclass(frozen=True)
class Scaled:
    """x = strength / z of equation 5, with z the layer's largest strength; 0 throughout an all-zero layer."""

    measure: Measure
    z: float

    def __call__(self, block: Block) -> Floats:
        """Shape (R, I, K), in [0, 1]."""
        strengths = self.measure(block.weights)
        if self.z > 0:
            strengths /= strengths.dtype.type(self.z)
        return strengths.astype(np.float32, copy=False)


def largest(parent: Parent, name: str, measure: Measure) -> float:
    """z: the largest strength of a live synapse in a layer; 0 where none lives.

    Raises:
        ModelError: the layer has weights that are not finite.
    """

    def of_block(block: Block) -> float:
        strengths = measure(block.weights)
        if parent.masks is not None:
            strengths = np.where(block.live | ~np.isfinite(strengths), strengths, 0)
        return float(strengths.max(initial=0))

    with np.errstate(invalid="ignore"):
        z = float(np.max(list(parent.map(name, of_block)), initial=0))
    if not np.isfinite(z):
        raise not_finite(parent, name)
    return z


def not_finite(parent: Parent, name: str) -> ModelError:
    """The error for a layer with weights that are not finite."""
    return ModelError(
        f"Weight {name!r} of {parent.network.source} has NaN or infinite values, so its synapses cannot "
        "be ranked. Give a model whose training did not diverge."
    )


def express_elementwise(parent: Parent, truncation: float, measure: Measure) -> Expression:
    """Equations 4 and 5 for a strength that is a function of the weight alone.

    A cluster's x in a layer is its truncated sum over the largest such sum (Z). At granularity "channel" a
    layer takes part as producer (filters) and as consumer (input slices); each role has its own Z, since the
    two add up different numbers of synapses, and x is the mean over all the roles a class has.
    """
    n = parent.clusters.n_clusters
    total, roles = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
    traits: dict[str, Scaled] = {}
    for name in parent.network.weights:
        trait = Scaled(measure, largest(parent, name, measure))
        traits[name] = trait

        def truncated(block: Block, trait: Scaled = trait) -> Floats:
            x = trait(block)
            if truncation > 0:
                x[x < truncation] = 0
            if parent.masks is not None:
                x *= block.live
            return x

        for role in parent.sum_members(name, truncated):
            z = float(role.sums.max(initial=0))
            if z > 0:
                total[role.clusters] += role.sums / role.sums.dtype.type(z)
            roles[role.clusters] += 1
    return Expression(traits, np.divide(total, roles, out=total, where=roles > 0))
