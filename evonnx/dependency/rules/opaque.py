"""Operators that address entries by their place in the whole tensor, or combine channels in a way that no
index map describes: whatever reaches them stays, each with its reason.

- pins: every followed axis of every input.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from evonnx.dependency.scope import Scope

_BY_PLACE = "addresses entries by numbers computed at run time"
REASONS: Mapping[str, str] = {
    **dict.fromkeys(("GatherElements", "GatherND", "ScatterElements", "ScatterND", "Scatter"), _BY_PLACE),
    **dict.fromkeys(("TensorScatter", "Compress", "Unique", "NonMaxSuppression"), _BY_PLACE),
    "NonZero": "puts out places, however many there are",
    "OneHot": "spreads numbers over an axis",
    "MaxUnpool": "is told places across channels by the Indices of a MaxPool",
    "DeformConv": "samples by offsets that are grouped with channels",
    "ReverseSequence": "reverses parts of an axis",
    "DynamicQuantizeLinear": "takes its scale from all channels",
    "Det": "combines all entries",
}
"""By operator: what it does."""


class OpaqueRule:
    """Operators that pin."""

    operators = frozenset(REASONS)
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        scope.pin_inputs(node, f"{node.op_type} {REASONS[node.op_type]}")
