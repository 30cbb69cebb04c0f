"""Whom to mate: the fit first, and of those the ones that have least in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evonnx.clusters import Clusters
from evonnx.genome import Parent
from evonnx.network import Network

Flags = NDArray[np.bool_]


def live_clusters(network: Network, clusters: Clusters) -> Flags:
    """Which clusters have a live synapse, shape (n_clusters,).

    Args:
        network: in the shapes that the clusters were found in: the ancestor's, to compare descendants.
        clusters: from `find_clusters`.
    """
    return np.asarray(Parent(network, clusters).census.clusters > 0)


def overlap(one: Flags, other: Flags) -> float:
    """Jaccard index of two sets of live clusters: |A and B| / |A or B|, in [0, 1]; 1 where both are empty."""
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 1.0


def choose_mates(
    first: int, fit: Sequence[int], others: Sequence[int], alive: Mapping[int, Flags], most: int
) -> list[int]:
    """Choose up to `most` candidates.

    Args:
        first: the fittest, which is chosen in any case.
        fit: candidates as fit as it; they come first, each time the one whose largest overlap with those
            chosen before is least. Ties keep the order given.
        others: less fit ones, the fittest first, who come after those in this order.
        alive: live clusters of every candidate, by index.
        most: at least 1.

    Returns:
        Indices, in the order in which they were chosen.
    """
    chosen, left = [first], [one for one in fit if one != first]
    while left and len(chosen) < most:
        apart = [max(overlap(alive[one], alive[mate]) for mate in chosen) for one in left]
        chosen.append(left.pop(int(np.argmin(apart))))
    rest = [one for one in others if one not in chosen]
    return chosen + rest[: max(0, most - len(chosen))]
