"""Reductions over axes that carry no channels (ReduceMean over space and the like).

Over channels themselves: sums (of values, magnitudes, squares) lose nothing when channels that are zero go; a
mean is multiplied by kept / all then.

An axis that is kept <-> its place in y, which moves down by the reduced axes before it unless keepdims is
set.

- pins: maxima, minima and products over channels, channels in rows (heads, groups) that are reduced, axes
  that are not constant, logarithms (not finite at zero).
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.grids import Component
from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope

_LOGARITHMS = frozenset({"ReduceLogSum"})
_UNCHANGED = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
"""Zeros add nothing."""


class ReductionRule:
    """The Reduce* family."""

    operators = (
        frozenset(
            [
                "ReduceMean",
                "ReduceSum",
                "ReduceMax",
                "ReduceMin",
                "ReduceL1",
                "ReduceL2",
                "ReduceSumSquare",
                "ReduceProd",
                "ReduceLogSumExp",
            ]
        )
        | _LOGARITHMS
    )
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        shape = scope.shape(source)
        components = scope.components(source)
        if source is None or not components:
            return
        axes = self._axes(node, scope, len(shape)) if shape is not None else None
        if axes is None or node.op_type in _LOGARITHMS:
            scope.pin_inputs(node, f"{node.op_type} over axes that are not constant, or not finite at zero")
            return
        keep = bool(node.attributes.get_int("keepdims", 1))
        for component in components:
            if axes & set(component.axes):
                self._over(node, scope, source, component)
                continue
            moved = [axis if keep else axis - sum(other < axis for other in axes) for axis in component.axes]
            zero = node.op_type != "ReduceLogSumExp"
            place = component.axes if len(component.axes) > 1 else component.axes[0]
            flow = scope.activation(source, place) if zero else None
            scope.carry_grid(value, component.moved(moved), flow)

    def _over(self, node: ir.Node, scope: Scope, source: ir.Value, component: Component) -> None:
        """Reduce channels themselves: those that are zero may go."""
        if len(component.axes) > 1 or node.op_type not in (*_UNCHANGED, "ReduceMean"):
            scope.pin(component.everything(), node, f"{node.op_type} mixes channels")
            return
        reason = f"{node.op_type} over channels"
        scope.read_by(component.ids, None, node, reason, scope.activation(source, component.axes[0]))
        if node.op_type == "ReduceMean":
            scope.correct_mean(node, component.ids)

    def _axes(self, node: ir.Node, scope: Scope, rank: int) -> set[int] | None:
        """The reduced axes; None where they are computed at run time."""
        given: list[int] | None = None
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            array = scope.constant(node.inputs[1])
            if array is None:
                return None
            given = [int(axis) for axis in array.ravel()]
        elif "axes" in node.attributes:
            given = list(node.attributes.get_ints("axes", ()))
        if not given:
            return set() if node.attributes.get_int("noop_with_empty_axes", 0) else set(range(rank))
        return {normalized_axis(axis, rank) for axis in given}
