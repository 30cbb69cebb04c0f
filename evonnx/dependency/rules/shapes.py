"""Shape and Size: the lengths of axes as numbers.

Lengths of followed axes become entries that depend on them; who uses such an entry decides (see `sizes.py`).

- pins: Size (it counts everything).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.scope import Scope
from evonnx.dependency.sizes import sizes_of_shape


class ShapeRule:
    """Shape and Size."""

    operators = frozenset({"Shape", "Size"})
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        shape = scope.shape(source)
        if source is None or source.name is None or value.name is None:
            return
        if node.op_type == "Size" or shape is None:
            scope.pin_inputs(node, f"{node.op_type} counts channels")
            return
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
        grids = scope.grids(source)
        # After a Flatten of images a channel stands at as many places as the image has, whatever its size.
        followed: dict[int, int | None] = {
            axis: ids.size if np.unique(ids).size == ids.size else None
            for axis, ids in scope.tracked(source).items()
        }
        for grid in grids:
            followed.update(zip(grid.axes, grid.ids.shape, strict=True))
        scope.sizes[value.name] = sizes_of_shape(source.name, len(shape), followed, start, end)
