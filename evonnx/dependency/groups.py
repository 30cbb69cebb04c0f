"""Groups of coupled channels: what an architect would call one width of the network.

Classes that stand on one weight's output axis belong to one group, and so do those of all weights that share
a class with it: the trunk of a residual stage is one group, the inner width of a block another.
"""

from __future__ import annotations

import numpy as np

from evonnx.dependency.coupling import ClassIds, Coupling
from evonnx.dependency.ids import UnionFind


def channel_groups(coupling: Coupling) -> tuple[ClassIds, ...]:
    """Connected components of classes over the output axes of prunable weights.

    Returns:
        Ascending class ids of each group, in the order in which weights first put them out. Classes that no
        weight puts out (graph inputs, heads) are in none.
    """
    sets = UnionFind()
    everything = sets.grow(coupling.n_classes)
    for classes in coupling.weights.values():
        sets.unite(classes.output[:-1], classes.output[1:])
    root = sets.find(everything)
    first: dict[int, None] = {}
    put_out = np.zeros(coupling.n_classes, dtype=np.bool_)
    for classes in coupling.weights.values():
        put_out[classes.output] = True
        if classes.output.size:
            first.setdefault(int(root[classes.output[0]]))
    members = np.flatnonzero(put_out)
    members = members[np.argsort(root[members], kind="stable")]
    starts = np.flatnonzero(np.diff(root[members], prepend=-1))
    found = {int(root[part[0]]): part for part in np.split(members, starts[1:]) if part.size}
    return tuple(found[one] for one in first)
