"""The genome of several parents: their probabilities, mated.

After A. G. Chung, M. J. Shafiee, P. Fieguth, A. Wong, "The Mating Rituals of Deep Neural Networks: Learning
Compact Feature Representations through Sexual Evolutionary Synthesis" (2017, two parents) and "Polyploidism
in Deep Neural Networks: m-Parent Evolutionary Synthesis of Deep Neural Networks in Varying Population Sizes"
(2017, m parents). An offspring is synthesised with

    P(c)     = M_c(P_1(c), ..., P_m(c))       cluster c, equation 4 in each parent
    P(i | c) = M_s(P_1(i | c), ..., P_m(i | c))     synapse i given its cluster, equation 5 in each parent

and equations 1 and 3 as ever: cluster first, then synapse. Our M_c and M_s are weighted sums over parents k,

    M(P_1, ..., P_m) = sum_k a_k P_k,     a_k >= 0, sum_k a_k = 1,

with P_k = 0 where the cluster or synapse is dead in parent k. So what only one of m parents has kept is less
probable than what all of them have. The papers leave a_k open; ours are all 1 / m.

A genome keeps x, and P = exp((x - 1) / T) with x in [0, 1]. A sum of probabilities may be as small as
min_k a_k exp(-1 / T), which is exp(-1 / T') with

    1 / T' = 1 / T - log min_k a_k,

so the mated genome has selectivity T' and x = 1 + T' log P: the same probabilities, exactly. With one parent
T' = T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evonnx.genome import Block, Floats, Genome, Parent, Trait


def mate(joint: Parent, parents: Sequence[Genome], shares: Sequence[float] | None = None) -> Genome:
    """The genome of a joint network.

    Args:
        joint: the joint network with its clusters and prices.
        parents: genomes of the parents in the joint network's shapes, over the same clusters, of one
            encoding and at the same prices.
        shares: a_k of each, positive, summing to 1; None: all alike.

    Raises:
        ValueError: shares are not such.
    """
    shares = [1 / len(parents)] * len(parents) if shares is None else shares
    if len(shares) != len(parents) or min(shares) <= 0 or not math.isclose(sum(shares), 1):
        raise ValueError(f"{len(parents)} parents need as many positive shares that sum to 1, not {shares}")
    logs = np.log(np.asarray(shares, dtype=np.float64))
    encoding = parents[0].encoding
    encoding = replace(
        encoding,
        cluster_selectivity=1 / (1 / encoding.cluster_selectivity - logs.min()),
        synapse_selectivity=1 / (1 / encoding.synapse_selectivity - logs.min()),
    )
    cluster_log_p = [one.cluster_log_probability() for one in parents]
    return Genome(
        parent=joint,
        encoding=encoding,
        traits={name: _trait(parents, logs, encoding.synapse_selectivity) for name in joint.network.weights},
        cluster_x=_strength(cluster_log_p, logs, encoding.cluster_selectivity),
        priced=parents[0].priced,
    )


def _trait(parents: Sequence[Genome], logs: NDArray[np.float64], selectivity: float) -> Trait:
    def trait(block: Block) -> Floats:
        found = []
        for one in parents:
            own = one.parent.block(block.name, block.rows, block.index)
            found.append(np.where(own.live, one.synapse_log_probability(own), -np.inf))
        return _strength(found, logs, selectivity)

    return trait


def _strength(log_p: Sequence[Floats], logs: NDArray[np.float64], selectivity: float) -> Floats:
    """x = 1 + T' log sum_k a_k P_k; 0 where every P_k is 0, and where rounding leaves [0, 1]."""
    total = np.full(log_p[0].shape, -np.inf)
    for one, log_share in zip(log_p, logs, strict=True):
        total = np.logaddexp(total, one.astype(np.float64) + log_share)
    return np.clip(1 + selectivity * total, 0, 1).astype(np.float32)
