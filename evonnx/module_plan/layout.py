"""An offspring's weights in the ancestor's shapes, by the lineage that its file carries
(`compaction.places`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evonnx.compaction import kept_by_axis, places, read_lineage
from evonnx.errors import ModelError
from evonnx.module_plan.plan import ModulePlan
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
            kept = kept_by_axis(lineage, name)
            found_at = places(tensor.shape, tensor.relayouts, tensor.groups, kept)
            if found_at is None or found_at.shape != arrays[name].shape:
                raise ModelError(
                    f"{offspring.source} is no offspring of {plan.ancestor}: {name!r} has shape "
                    f"{list(arrays[name].shape)}, which its lineage does not explain. Give the file that the "
                    "plan was made from, or one trained from it."
                )
            whole.reshape(-1)[found_at] = arrays[name]
            there.reshape(-1)[found_at] = True
        found[name] = (whole, there)
    return found
