"""Pad.

Along an axis without padding, channels pass. Along one that is padded with zeros, y's ids are

    [low new ids, the ids of x, high new ids]

and the new channels are always zero, so that they go with whatever they are added to (a shortcut that is
widened with zeros); the pads then count what is left of them. Elsewhere zero channels stay zero where Pad
copies entries (reflect, edge, wrap) or fills with zero.

- pins: new channels that are not zero; channels that are mirrored or cropped; pads computed from channels.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import Flow, Joined, Zeros
from evonnx.dependency.ids import IdArray
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.rules._targets import follow_entry
from evonnx.dependency.scope import Scope


class PaddingRule:
    """Pad, by an attribute (before opset 11) or an input."""

    operators = frozenset({"Pad"})
    size_slots = frozenset({1})

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        tracked = scope.tracked(source)
        if source is None or not tracked:
            scope.pin_inputs(node, "Pad by numbers computed from these channels")
            return
        if len(node.inputs) > 1:
            scope.pin_value(node.inputs[1], node, "Pad by numbers computed from these channels")
        pads = self._pads(node, scope, len(scope.shape(source) or ()))
        if pads is None:
            scope.pin_inputs(node, "Pad by numbers that are not constant")
            return
        fill = self._fill(node, scope)
        copies = node.attributes.get_string("mode", "constant") != "constant"
        padded = {axis for axis, pad in pads.items() if pad != (0, 0)}
        if not padded & set(tracked):
            rest = set(range(len(scope.shape(source) or ()))) - padded
            scope.pass_through(source, value, zero_preserving=copies or fill == 0, axes=rest)
            return
        for axis, ids in tracked.items():
            if axis not in padded:
                flow = scope.activation(source, axis) if copies or fill == 0 else None
                scope.carry(value, axis, ids, flow)
                continue
            low, high = pads[axis]
            if copies or low is None or high is None or min(low, high) < 0:
                scope.pin(ids, node, "Pad mirrors, repeats or crops channels, or adds an unknown number")
                continue
            self._widen(node, scope, axis, (low, high), zero=fill == 0)

    def _widen(self, node: ir.Node, scope: Scope, axis: int, pads: tuple[int, int], *, zero: bool) -> None:
        source, value = node.inputs[0], node.outputs[0]
        assert source is not None
        before, after = (scope.fresh(length) for length in pads)
        flows: list[tuple[Flow | None, int]] = [
            (Zeros(ids.size) if zero else None, ids.size) for ids in (before, after)
        ]
        if not zero:
            for ids in (before, after):
                scope.pin(ids, node, "Pad adds channels that are not zero")
        for half, ids in enumerate((before, after)):
            if ids.size:
                self._count(node, scope, axis, half, ids)
        ids = scope.tracked(source)[axis]
        middle = (scope.activation(source, axis), ids.size)
        scope.carry(value, axis, np.concatenate([before, ids, after]), Joined((flows[0], middle, flows[1])))

    def _count(self, node: ir.Node, scope: Scope, axis: int, half: int, ids: IdArray) -> None:
        """`half`: 0 for what is added in front, 1 behind."""
        rank = len(scope.shape(node.inputs[0]) or ())
        axes = self._axes(node, scope, rank) or []
        position = axes.index(axis) + half * len(axes)
        if "pads" in node.attributes:
            scope.count(node, "pads", position, ids)
            return
        entries = scope.sizes_at(node.inputs[1])
        assert entries is not None
        follow_entry(node, scope, 1, position, entries.ravel()[position], ids)

    def _pads(
        self, node: ir.Node, scope: Scope, rank: int
    ) -> dict[int, tuple[int | None, int | None]] | None:
        """Axis -> (low, high), None for a number that is not known; None where nothing is."""
        axes = self._axes(node, scope, rank)
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            entries = scope.sizes_at(node.inputs[1])
            numbers = None if entries is None else list(entries.ravel())
        else:
            found = node.attributes.get_ints("pads")
            numbers = None if found is None else list(found)
        if axes is None or numbers is None or len(numbers) != 2 * len(axes):
            return None
        known = [int(pad) if isinstance(pad, (int, np.integer)) else None for pad in numbers]
        return dict(zip(axes, zip(known[: len(axes)], known[len(axes) :], strict=True), strict=True))

    def _axes(self, node: ir.Node, scope: Scope, rank: int) -> list[int] | None:
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            given = scope.constant(node.inputs[3])
            return None if given is None else [normalized_axis(int(axis), rank) for axis in given.ravel()]
        return list(range(rank)) if rank else None

    def _fill(self, node: ir.Node, scope: Scope) -> float:
        """What is filled in; not a number where it is computed."""
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            constant = scope.constant(node.inputs[2])
            return float("nan") if constant is None else float(constant.reshape(-1)[0].astype(float))
        return node.attributes.get_float("value", 0.0)
