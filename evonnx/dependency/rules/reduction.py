"""Reductions over axes that carry no channels (ReduceMean over space and the like).

An axis that is kept <-> its place in y, which moves down by the reduced axes before it unless keepdims is
set.

- pins: a reduced axis that carries channels, axes that are not constant, logarithms (not finite at zero).
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope

_LOGARITHMS = frozenset({"ReduceLogSum"})


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

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        shape = scope.shape(source)
        tracked = scope.tracked(source)
        if source is None or not tracked:
            return
        axes = self._axes(node, scope, len(shape)) if shape is not None else None
        if axes is None or node.op_type in _LOGARITHMS:
            scope.pin_inputs(node, f"{node.op_type} over axes that are not constant, or not finite at zero")
            return
        keep = bool(node.attributes.get_int("keepdims", 1))
        for axis in sorted(axes & set(tracked)):
            scope.pin(tracked[axis], node, f"{node.op_type} mixes channels")
        for axis, ids in tracked.items():
            if axis not in axes:
                moved = axis if keep else axis - sum(other < axis for other in axes)
                zero = node.op_type != "ReduceLogSumExp"
                scope.carry(value, moved, ids, scope.activation(source, axis) if zero else None)

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
