"""Operators that compute every channel from several: they pin, with that reason.

    Softmax, LogSoftmax, Hardmax       along their axis (before opset 13: along every axis from it on)
    LayerNormalization and the like    over groups or all channels
    LRN                                over neighbouring channels
    ArgMax, ArgMin, TopK               along their axis

Softmax and its kind along an axis without channels, before which and after which channels are followed, pass
them through (not zero-preserving).
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.rules._base import normalized_axis
from evonnx.dependency.scope import Scope

_ALONG_AXIS = frozenset({"Softmax", "LogSoftmax", "Hardmax"})


class MixingRule:
    """Softmax, normalisations over channels, arg-reductions."""

    operators = _ALONG_AXIS | frozenset(
        [
            "LayerNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "LRN",
            "MeanVarianceNormalization",
            "LpNormalization",
            "ArgMax",
            "ArgMin",
            "TopK",
            "CumSum",
            "Einsum",
            "Attention",
        ]
    )
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        shape = scope.shape(source)
        if source is None or node.op_type not in _ALONG_AXIS or shape is None:
            scope.pin_inputs(node, f"{node.op_type} mixes channels")
            return
        old = scope.opset < 13
        axis = normalized_axis(node.attributes.get_int("axis", 1 if old else -1), len(shape))
        for other, ids in scope.tracked(source).items():
            if other == axis or (old and other > axis):
                scope.pin(ids, node, f"{node.op_type} mixes channels")
            else:
                scope.carry(value, other, ids)
