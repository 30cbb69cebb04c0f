"""Views that have come back to one axis: relabellings of channels, such as a channel shuffle."""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.coupling import Relabel, Taken
from evonnx.dependency.grids import Component, is_take
from evonnx.dependency.scope import Scope


def arrive(node: ir.Node, output: int, scope: Scope, component: Component) -> str | None:
    """Carry a view that lies along one axis again to a result of the node, as a relabelling of its source.

    Args:
        node: the last node of the chain.
        output: which of its outputs.
        scope: where to say it.
        component: the channels with their view, as they lie in that output.

    Returns:
        None, or why it is no relabelling of channels alone (yet).
    """
    view, value = component.view, node.outputs[output]
    assert view is not None
    before = scope.shape(view.source)
    if before is None or None in before:
        return f"{node.op_type} of a shape that is not known"
    shape = [dim for dim in before if dim is not None]
    axis = component.axes[0]
    if not is_take(shape, view.axis, view.steps, axis, view.positions):
        return f"{node.op_type} reorders more than channels"
    scope.carry(value, axis, component.ids, Taken(scope.activation(view.source, view.axis), view.positions))
    scope.relabels.append(
        Relabel(node, scope.label(node), output, axis, view.source, view.axis, view.positions)
    )
    return None
