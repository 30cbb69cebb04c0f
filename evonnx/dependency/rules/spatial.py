"""Resize, Upsample and Pad over space.

Axes whose length stays pass through; zero channels stay zero (Pad: where it pads with zeros or copies).

- pins: a followed axis that is scaled or padded; sizes computed at run time from channels, unless an entry is
the
  length of an axis with the same ids; pads that are not constant.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.ids import IdArray
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope
from evonnx.dependency.sizes import Size


class SpatialRule:
    """Resize, Upsample, Pad."""

    operators = frozenset({"Resize", "Upsample", "Pad"})
    size_slots = frozenset({3})

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        tracked = scope.tracked(source)
        if source is None or not tracked:
            scope.pin_inputs(node, f"{node.op_type} by numbers computed from these channels")
            return
        if node.op_type == "Pad":
            self._pad(node, scope, source, value)
            return
        before, after = scope.shape(source), scope.shape(value)
        for axis, ids in tracked.items():
            if before is None or after is None or before[axis] is None or before[axis] != after[axis]:
                scope.pin(ids, node, f"{node.op_type} scales an axis that carries channels")
        self._sizes(node, scope, tracked)
        plain = node.attributes.get_string("coordinate_transformation_mode", "") != "tf_crop_and_resize"
        scope.pass_through(source, value, zero_preserving=plain)

    def _sizes(self, node: ir.Node, scope: Scope, tracked: dict[int, IdArray]) -> None:
        if len(node.inputs) < 4 or node.inputs[3] is None:
            return
        entries = scope.sizes_at(node.inputs[3])
        axes = node.attributes.get_ints("axes")
        if entries is None:
            scope.pin_inputs(node, f"the sizes of {node.op_type} are computed in a way that is not followed")
            return
        scope.claim(node, 3)
        for position, entry in enumerate(entries):
            axis = (
                position
                if axes is None
                else normalized_axis(axes[position], len(scope.shape(node.inputs[0]) or ()))
            )
            ids = tracked.get(axis)
            if not isinstance(entry, Size):
                if ids is not None:
                    scope.count(node, 3, position, ids)
                continue
            same = ids is not None and all(np.array_equal(ids, scope.axes[key]) for key in entry.depends)
            if entry.depends and not (same and entry.exact):
                scope.pin_sizes(
                    np.asarray([entry], dtype=object), node, f"{node.op_type} uses their number otherwise"
                )
            if ids is not None and not (same and entry.exact and entry.depends):
                scope.pin(ids, node, f"{node.op_type} sets their number at run time")

    def _pad(self, node: ir.Node, scope: Scope, source: ir.Value, value: ir.Value) -> None:
        rank = len(scope.shape(source) or ())
        pads, axes = self._pads(node, scope, rank)
        constant = scope.constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if pads is None or not rank:
            scope.pin_inputs(node, "Pad by numbers that are not constant")
            return
        half = len(pads) // 2
        padded = {axis for axis, low, high in zip(axes, pads[:half], pads[half:], strict=True) if low or high}
        for axis, ids in scope.tracked(source).items():
            if axis in padded:
                scope.pin(ids, node, "Pad lengthens an axis that carries channels")
        fill = node.attributes.get_float("value", 0.0)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            fill = float("nan") if constant is None else float(constant.reshape(-1)[0].astype(float))
        copies = node.attributes.get_string("mode", "constant") != "constant"
        if not padded & set(scope.tracked(source)):
            scope.pass_through(source, value, zero_preserving=copies or fill == 0)

    def _pads(self, node: ir.Node, scope: Scope, rank: int) -> tuple[list[int] | None, list[int]]:
        """(begins then ends, the axes they stand for)."""
        axes = list(range(rank))
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            given = scope.constant(node.inputs[3])
            if given is None:
                return None, axes
            axes = [normalized_axis(int(axis), rank) for axis in given.ravel()]
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            array = scope.constant(node.inputs[1])
            return (None if array is None else [int(pad) for pad in array.ravel()]), axes
        found = node.attributes.get_ints("pads")
        return (None if found is None else list(found)), axes
