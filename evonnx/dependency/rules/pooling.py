"""Pooling over space: every channel is a function of itself alone.

x axes 0 and 1 <-> y axes 0 and 1; zero channels stay zero.

- pins: followed spatial axes, MaxPool's Indices output where it is read (it numbers entries across channels).
"""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.scope import Scope


class PoolingRule:
    """Local and global pooling."""

    operators = frozenset(
        {"MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"}
    )
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        tracked = scope.tracked(source)
        if source is None or not tracked:
            return
        if set(tracked) - {0, 1}:
            scope.pin_inputs(node, f"{node.op_type} slides over an axis that carries channels")
            return
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            scope.pin_inputs(node, f"the Indices of {node.op_type} are read")
        scope.pass_through(source, value, zero_preserving=True, axes=(0, 1))
