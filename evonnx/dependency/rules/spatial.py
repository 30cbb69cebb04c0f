"""Sampling over space: Resize, Upsample, GridSample, RoiAlign, MaxRoiPool.

    Resize, Upsample        axes whose length stays pass
    GridSample              x (N, C, ...) and places (N, ..., dims): batch and channels of x pass
    RoiAlign, MaxRoiPool    x (N, C, H, W) and regions (R, ...): channels of x pass

Zero channels stay zero, but for a Resize that extrapolates with another value. Sizes that count channels are
rewritten, or follow by themselves where they are computed as the length of an axis with the same ids.

- pins: a followed axis that is scaled, or cropped by a region; sizes computed from channels otherwise; places
  and regions computed from channels; the batch of RoiAlign and MaxRoiPool.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.ids import IdArray
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.rules._targets import follow_entry
from evonnx.dependency.scope import Scope

_REGIONS = frozenset({"RoiAlign", "MaxRoiPool"})


class SpatialRule:
    """Resize, Upsample, GridSample, RoiAlign, MaxRoiPool."""

    operators = _REGIONS | {"Resize", "Upsample", "GridSample"}
    size_slots = frozenset({3})

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source = node.inputs[0]
        if source is None or not scope.tracked(source):
            scope.pin_inputs(node, f"{node.op_type} by numbers computed from these channels")
        elif node.op_type in ("Resize", "Upsample"):
            self._resize(node, scope, source)
        else:
            self._sample(node, scope, source)

    def _sample(self, node: ir.Node, scope: Scope, source: ir.Value) -> None:
        for place in node.inputs[1:]:
            scope.pin_value(place, node, f"{node.op_type} takes them as places")
        for axis, ids in scope.tracked(source).items():
            if axis == 1 or (axis == 0 and node.op_type not in _REGIONS):
                scope.carry(node.outputs[0], axis, ids, scope.activation(source, axis))
            else:
                scope.pin(ids, node, f"{node.op_type} samples along an axis that carries channels")

    def _resize(self, node: ir.Node, scope: Scope, source: ir.Value) -> None:
        value, tracked = node.outputs[0], scope.tracked(source)
        before, after = scope.shape(source), scope.shape(value)
        axes = self._axes(node, len(before or ()))
        lengths = [] if before is None or after is None else zip(before, after, strict=True)
        stay = {axis for axis, (was, now) in enumerate(lengths) if was == now is not None}
        for axis, ids in tracked.items():
            if axis not in stay or (
                axis in axes and not self._untouched(node, scope, axes.index(axis), len(axes))
            ):
                scope.pin(ids, node, f"{node.op_type} scales an axis that carries channels")
        self._sizes(node, scope, axes, tracked)
        crops = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        plain = not crops or node.attributes.get_float("extrapolation_value", 0.0) == 0
        scope.pass_through(source, value, zero_preserving=plain, axes=stay)

    def _axes(self, node: ir.Node, rank: int) -> list[int]:
        """The axes that scales, sizes and regions speak of."""
        given = node.attributes.get_ints("axes")
        return list(range(rank)) if given is None else [normalized_axis(axis, rank) for axis in given]

    def _untouched(self, node: ir.Node, scope: Scope, position: int, count: int) -> bool:
        """Whether constant scales and regions leave an axis alone, however many channels it has."""
        policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            return False
        old = node.op_type == "Upsample" or scope.opset < 11
        roi, scales = (None, 1) if old else (1, 2)
        factor = self._constant(node, scope, scales)
        if factor is None and "scales" in node.attributes:
            factor = np.asarray(node.attributes.get_floats("scales", ()), dtype=np.float64)
        if factor is not None and factor.size == count and factor.ravel()[position] != 1:
            return False
        if node.attributes.get_string("coordinate_transformation_mode", "") != "tf_crop_and_resize":
            return True
        region = None if roi is None else self._constant(node, scope, roi)
        if region is None or region.size != 2 * count:
            return False
        return bool(region.ravel()[position] == 0 and region.ravel()[position + count] == 1)

    def _constant(self, node: ir.Node, scope: Scope, slot: int) -> np.ndarray | None:
        return scope.constant(node.inputs[slot]) if len(node.inputs) > slot else None

    def _sizes(self, node: ir.Node, scope: Scope, axes: list[int], tracked: dict[int, IdArray]) -> None:
        if len(node.inputs) < 4 or node.inputs[3] is None:
            return
        entries = scope.sizes_at(node.inputs[3])
        if entries is None:
            scope.pin_inputs(node, f"the sizes of {node.op_type} are computed in a way that is not followed")
            return
        for position, entry in enumerate(entries):
            follow_entry(node, scope, 3, position, entry, tracked.get(axes[position]))
