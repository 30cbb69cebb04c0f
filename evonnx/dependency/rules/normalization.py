"""BatchNormalization, InstanceNormalization and GroupNormalization: affine maps of x axis 1.

    y[n, c] = scale[c] * (x[n, c] - mean[c]) / sqrt(variance[c] + eps) + shift[c]

x axis 1 <-> y axis 1 <-> axis 0 of every parameter. InstanceNormalization takes mean and variance from x
itself, channel by channel. The result is zero where shift = 0 and either scale = 0 or x = mean.

InstanceNormalization of groups in rows (groups x members), and GroupNormalization, take mean and variance
from a whole group: its channels go together, and num_groups with them.

- pins: parameters that are not constants, training mode, `spatial = 0`, followed axes other than 0 and 1.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import AllOf, AnyOf, Constant, Flow, Taken
from evonnx.dependency.grids import Component
from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope


class NormalizationRule:
    """BatchNormalization (inference), InstanceNormalization and GroupNormalization."""

    operators = frozenset({"BatchNormalization", "InstanceNormalization", "GroupNormalization"})
    size_slots: frozenset[int] = frozenset()
    follows_grids = True

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        grids, tracked = scope.grids(source), scope.tracked(source)
        if source is None or not (grids or tracked):
            return
        roles = ("scale", "shift", "mean", "variance")[: len(node.inputs) - 1]
        constants = all(scope.constant(parameter) is not None for parameter in node.inputs[1:])
        training = node.attributes.get_int("training_mode", 0) or any(
            output.uses() for output in node.outputs[1:]
        )
        if not constants or training or not node.attributes.get_int("spatial", 1) or set(tracked) - {0, 1}:
            scope.pin_inputs(
                node, f"{node.op_type} in training mode, or with parameters or axes that are not followed"
            )
            return
        for grid in grids:
            self._rows(node, scope, source, grid)
        if 0 in tracked:
            scope.carry(value, 0, tracked[0])
        if 1 in tracked:
            ids = tracked[1]
            grouped = node.op_type == "GroupNormalization"
            groups = self._groups(node, scope, ids) if grouped else ids
            for slot, role in enumerate(roles, start=1):
                parameter = scope.constant(node.inputs[slot])
                whole = parameter is not None and parameter.shape[0] == ids.size
                scope.vector(node, slot, 0, ids if whole else groups, role, source)
            if grouped:
                scope.carry(value, 1, ids)
                return
            scope.carry(value, 1, ids, self._flow(node, scope, source))
        scope.continue_layer(source, value, zero_preserving=True)

    def _groups(self, node: ir.Node, scope: Scope, ids: IdArray) -> IdArray:
        """Unite the channels of each group; gives one id per group."""
        groups = ids.reshape(node.attributes.get_int("num_groups", 1), -1)
        scope.unite(np.broadcast_to(groups[:, :1], groups.shape), groups)
        first: IdArray = groups[:, 0]
        scope.count(node, "num_groups", None, first)
        return first

    def _rows(self, node: ir.Node, scope: Scope, source: ir.Value, grid: Component) -> None:
        """Groups x members, normalised group by group."""
        line = grid.lines[0]
        if (
            node.op_type != "InstanceNormalization"
            or grid.axes[0] != 1
            or len(grid.axes) != 2
            or line is None
        ):
            scope.pin(grid.everything(), node, f"{node.op_type} of channels in rows (heads, groups)")
            return
        scope.unite(np.broadcast_to(line[:, None], grid.ids.shape), grid.ids)
        for slot, role in ((1, "scale"), (2, "shift")):
            scope.vector(node, slot, 0, line, role, source)
        spread = np.broadcast_to(np.arange(line.size)[:, None], grid.ids.shape)
        shift = Taken(Constant(str(node.inputs[2].name if node.inputs[2] else ""), 0), spread)
        scope.carry_grid(node.outputs[0], grid, AllOf((shift, scope.activation(source, grid.axes))))

    def _flow(self, node: ir.Node, scope: Scope, source: ir.Value) -> Flow:
        names = [str(parameter.name) for parameter in node.inputs[1:] if parameter is not None]
        centred: Flow = scope.activation(source, 1)
        if len(names) > 2:
            centred = AllOf((centred, Constant(names[2], 0)))
        return AllOf((Constant(names[1], 0), AnyOf((Constant(names[0], 0), centred))))
