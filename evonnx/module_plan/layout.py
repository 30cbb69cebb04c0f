"""An offspring's weights in the ancestor's shapes, by the lineage that its file carries.

Algebra: ancestor tensor -> relayouts -> operand -> kept indices per axis = the offspring's tensor. The way
back: the ancestor's flat positions take the same steps, and say where each number of the offspring belongs.
Of a grouped convolution axis 1 counts the channels of all groups one after another (`compaction.Lineage`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evonnx.compaction import Lineage, read_lineage
from evonnx.errors import ModelError
from evonnx.module_plan.plan import Indices, ModulePlan, TensorPlan
from evonnx.network import Array, Network
from evonnx.onnx_io import initializer_arrays


def lay_out(plan: ModulePlan, offspring: Network) -> dict[str, tuple[Array, NDArray[np.bool_]]]:
    """Put an offspring's constants back where the ancestor has them.

    Args:
        plan: made for the ancestor.
        offspring: a compact or masked descendant of it.

    Returns:
        By tensor name, in the ancestor's stored shape: the numbers (zero where the offspring has none), and
        where it has some. Tensors that the offspring lost are zero throughout.

    Raises:
        ModelError: the file does not descend from the plan's ancestor.
    """
    lineage, arrays = read_lineage(offspring.model), initializer_arrays(offspring.model)
    found: dict[str, tuple[Array, NDArray[np.bool_]]] = {}
    for name, tensor in plan.tensors.items():
        whole = np.zeros(tensor.shape, dtype=tensor.dtype)
        there = np.zeros(tensor.shape, dtype=np.bool_)
        if name in arrays:
            places = _places(tensor, lineage)
            if places is None or places.shape != arrays[name].shape:
                raise ModelError(
                    f"{offspring.source} is no offspring of {plan.ancestor}: {name!r} has shape "
                    f"{list(arrays[name].shape)}, which its lineage does not explain. Give the file that the "
                    "plan was made from, or one trained from it."
                )
            whole.reshape(-1)[places] = arrays[name]
            there.reshape(-1)[places] = True
        found[name] = (whole, there)
    return found


def lineage_of(lineage: Lineage, name: str) -> Mapping[int, Indices]:
    """Kept indices of one tensor, by axis of its operand."""
    return {axis: kept for (tensor, axis), kept in lineage.items() if tensor == name}


def _places(tensor: TensorPlan, lineage: Lineage) -> Indices | None:
    """For each number of the offspring's tensor its flat position in the ancestor's; None: it cannot be."""
    kept = lineage_of(lineage, tensor.name)
    places = np.arange(int(np.prod(tensor.shape, dtype=np.int64)), dtype=np.int64).reshape(tensor.shape)
    if not kept:
        return places
    for step in tensor.relayouts:
        places = places.reshape(step.argument) if step.kind == "reshape" else places.transpose(step.argument)
    rows = np.asarray(kept.get(0, np.arange(places.shape[0])))
    if tensor.groups > 1:
        columns = kept.get(1, np.arange(tensor.groups * places.shape[1]))
        return _grouped(places, tensor.groups, rows, np.asarray(columns))
    for axis, indices in kept.items():
        if axis >= places.ndim or (indices.size and indices[-1] >= places.shape[axis]):
            return None
        places = np.take(places, indices, axis=axis)
    return places


def _grouped(places: Indices, groups: int, rows: Indices, columns: Indices) -> Indices | None:
    """Group by group: its rows that are kept, at its columns that are kept."""
    per_group, width = places.shape[0] // groups, places.shape[1]
    if (rows.size and rows[-1] >= places.shape[0]) or (columns.size and columns[-1] >= groups * width):
        return None
    parts = [
        places[rows[rows // per_group == group]][:, columns[columns // width == group] - group * width]
        for group in np.unique(rows // per_group)
    ]
    if len({part.shape for part in parts}) != 1:
        return None
    return np.concatenate(parts)
