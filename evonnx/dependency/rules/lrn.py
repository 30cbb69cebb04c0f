"""LRN: every channel is divided by a norm over a window of neighbouring channels.

    y[c] = x[c] / (bias + alpha / size * sum of x[k]^2)^beta      k from c - (size-1)//2 to c + size//2

Taking a channel out, even one that is zero, moves its neighbours closer: others than before share a window.
So channels stay, unless the window holds nothing but the channel itself (size 1). Any other followed axis
passes; y is zero where x is (bias > 0).

- pins: the channels, where size > 1.
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.scope import Scope


class LocalResponseRule:
    """LRN."""

    operators = frozenset({"LRN"})
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        if source is None:
            return
        size = node.attributes.get_int("size", 1)
        positive = node.attributes.get_float("bias", 1.0) > 0
        for axis, ids in scope.tracked(source).items():
            if axis == 1 and size > 1:
                scope.pin(ids, node, f"LRN mixes channels: {size} neighbours share a window")
            elif not positive:
                scope.pin(ids, node, "LRN without a positive bias is not finite at zero")
            else:
                scope.carry(value, axis, ids, scope.activation(source, axis))
