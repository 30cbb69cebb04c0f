"""Operators that compute along one axis or a few: channels there are mixed and stay, any other axis passes.

    Softmax, LogSoftmax, Hardmax    along their axis (before opset 13: along every axis from it on)
    ArgMax, ArgMin, TopK            along their axis, which ArgMax and ArgMin may drop
    CumSum, CumProd                 along an axis given as an input; zero channels elsewhere stay zero
    MeanVarianceNormalization       over its axes; zero channels elsewhere stay zero
    Trilu                           over the last two axes; zero channels elsewhere stay zero

- pins: followed axes among those; all that reaches LayerNormalization and the like, LpNormalization (not
  defined at zero), Einsum and Attention.
"""

from __future__ import annotations

from collections.abc import Set

import onnx_ir as ir

from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope

_SOFTMAX = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
_ARGUMENTS = frozenset({"ArgMax", "ArgMin"})
_RUNNING = frozenset({"CumSum", "CumProd"})
_KEEP_ZERO = _RUNNING | {"MeanVarianceNormalization", "Trilu"}
_EVERYTHING = frozenset(["LayerNormalization", "RMSNormalization", "LpNormalization", "Einsum", "Attention"])


class MixingRule:
    """Softmax, arg-reductions, running sums, normalisations over channels."""

    operators = _SOFTMAX | _ARGUMENTS | _KEEP_ZERO | _EVERYTHING | {"TopK"}
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source = node.inputs[0]
        shape = scope.shape(source)
        mixed = None if shape is None else self._mixed(node, scope, len(shape))
        if source is None or mixed is None:
            scope.pin_inputs(node, f"{node.op_type} mixes channels")
            return
        for parameter in node.inputs[1:]:
            scope.pin_value(parameter, node, f"{node.op_type} counts with them")
        drops = node.op_type in _ARGUMENTS and not node.attributes.get_int("keepdims", 1)
        for component in scope.components(source):
            if mixed & set(component.axes):
                scope.pin(component.everything(), node, f"{node.op_type} mixes channels")
                continue
            place = component.axes if len(component.axes) > 1 else component.axes[0]
            flow = scope.activation(source, place) if node.op_type in _KEEP_ZERO else None
            before = [sum(other < axis for other in mixed) if drops else 0 for axis in component.axes]
            moved = [axis - gone for axis, gone in zip(component.axes, before, strict=True)]
            for value in node.outputs:
                scope.carry_grid(value, component.moved(moved), flow)

    def _mixed(self, node: ir.Node, scope: Scope, rank: int) -> Set[int] | None:
        """The axes along which entries are combined; None where they are not known."""
        attributes = node.attributes
        if node.op_type in _EVERYTHING:
            return None
        if node.op_type in _SOFTMAX:
            old = scope.opset < 13
            axis = normalized_axis(attributes.get_int("axis", 1 if old else -1), rank)
            return set(range(axis, rank)) if old else {axis}
        if node.op_type in _RUNNING:
            given = scope.constant(node.inputs[1])
            return None if given is None else {normalized_axis(int(given.reshape(())), rank)}
        if node.op_type == "MeanVarianceNormalization":
            return {normalized_axis(axis, rank) for axis in attributes.get_ints("axes", (0, 2, 3)) or ()}
        if node.op_type == "Trilu":
            return {rank - 2, rank - 1}
        default = -1 if node.op_type == "TopK" else 0
        return {normalized_axis(attributes.get_int("axis", default), rank)}
