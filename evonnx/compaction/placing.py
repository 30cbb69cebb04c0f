"""Where a descendant's numbers stand in its ancestor's tensors, by the lineage that its file carries.

Algebra: ancestor tensor -> relayouts -> operand -> kept indices per axis = the descendant's tensor. The way
back: the ancestor's flat positions take the same steps, and say where each number of the descendant belongs.
Of a grouped convolution axis 1 counts the channels of all groups one after another (`Lineage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evonnx.compaction.plan import Indices, Lineage
from evonnx.network import Relayout


def kept_by_axis(lineage: Lineage, name: str) -> dict[int, Indices]:
    """Kept indices of one tensor, by axis of its operand."""
    return {axis: kept for (tensor, axis), kept in lineage.items() if tensor == name}


def places(
    shape: Sequence[int], relayouts: Sequence[Relayout], groups: int, kept: Mapping[int, Indices]
) -> Indices | None:
    """For each number of the descendant's tensor its flat position in the ancestor's; None: it cannot be.

    Args:
        shape: of the ancestor's tensor, as stored.
        relayouts: from the stored tensor to the operand, in which lineage counts.
        groups: of a grouped convolution's weight; 1 for all else.
        kept: from `kept_by_axis`.
    """
    found = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int64).reshape(shape)
    if not kept:
        return found
    for step in relayouts:
        found = found.reshape(step.argument) if step.kind == "reshape" else found.transpose(step.argument)
    if groups > 1:
        rows = np.asarray(kept.get(0, np.arange(found.shape[0])))
        columns = kept.get(1, np.arange(groups * found.shape[1]))
        return _grouped(found, groups, rows, np.asarray(columns))
    for axis, indices in kept.items():
        if axis >= found.ndim or (indices.size and indices[-1] >= found.shape[axis]):
            return None
        found = np.take(found, indices, axis=axis)
    return found


def _grouped(found: Indices, groups: int, rows: Indices, columns: Indices) -> Indices | None:
    """Group by group: its rows that are kept, at its columns that are kept."""
    per_group, width = found.shape[0] // groups, found.shape[1]
    if (rows.size and rows[-1] >= found.shape[0]) or (columns.size and columns[-1] >= groups * width):
        return None
    parts = [
        found[rows[rows // per_group == group]][:, columns[columns // width == group] - group * width]
        for group in np.unique(rows // per_group)
    ]
    if not parts or len({part.shape for part in parts}) != 1:
        return None
    return np.concatenate(parts)
