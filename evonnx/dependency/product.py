"""Products of two activations as label algebra, whatever operator writes them (MatMul, Einsum).

    y[labels] = sum over labels that y lacks of a[labels] * b[labels]

A label that both operands have unites what lies along it. A channel that is contracted is read by its line
(the head) where it has one, else by something that stays; it may go where either factor is zero. A line that
is an axis of its own in one operand (attention weights) is read by the other's members of that line (values).

- pins: a label with channels in one operand only, lines that are summed over, heads that meet other heads'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import AnyOf, Taken
from evonnx.dependency.grids import Component
from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope


@dataclass(frozen=True)
class Operand:
    """A factor and the label of each of its axes; labels of broadcast axes (of length 1) are None."""

    value: ir.Value
    labels: tuple[str | None, ...]


@dataclass(frozen=True)
class _Channels:
    """One component of an operand, by label."""

    operand: Operand
    component: Component
    labels: tuple[str | None, ...]

    def aligned(self, labels: Sequence[str | None], array: IdArray) -> IdArray:
        """An array over the component's axes, with axes in the order of `labels` (length 1 where absent)."""
        order = [self.labels.index(label) for label in labels if label in self.labels]
        shape = [array.shape[self.labels.index(label)] if label in self.labels else 1 for label in labels]
        return array.transpose(order).reshape(shape)


def relate_product(
    node: ir.Node, scope: Scope, one: Operand, other: Operand, result: tuple[str | None, ...]
) -> None:
    """Relate the channels of a product's operands and result.

    Args:
        node: the node.
        scope: where to say it.
        one: first factor.
        other: second factor.
        result: labels of the result's axes.
    """
    sides = []
    for operand in (one, other):
        components = scope.components(operand.value)
        sides.append(
            [_Channels(operand, c, tuple(operand.labels[axis] for axis in c.axes)) for c in components]
        )
    shared = {label for label in one.labels if label is not None} & set(other.labels)
    for mine, theirs in ((sides[0], sides[1]), (sides[1], sides[0])):
        for channels in mine:
            _pin_lonely(node, scope, channels, theirs, shared, result)
    _unite_lines(scope, sides, shared)
    for a in sides[0]:
        for b in sides[1]:
            if _ragged(a) in shared and _ragged(a) == _ragged(b):
                _meet(node, scope, a, b, result)
    for mine, theirs in ((sides[0], sides[1]), (sides[1], sides[0])):
        for channels in mine:
            _carry(node, scope, channels, theirs, result)


def _ragged(channels: _Channels) -> str | None:
    return channels.labels[channels.component.ragged]


def _along(channels: _Channels, label: str | None) -> IdArray | None:
    """Ids of a label by itself: of lines, or of channels along one axis; None for a grid's ragged axis."""
    place = channels.labels.index(label)
    line = channels.component.lines[place]
    if line is not None:
        return line
    return channels.component.ids if len(channels.labels) == 1 else None


def _kind(channels: _Channels, label: str | None) -> str:
    """ "line" of a grid, "member" of a grid, or "axis" of its own."""
    if channels.component.lines[channels.labels.index(label)] is not None:
        return "line"
    return "member" if len(channels.labels) > 1 else "axis"


def _pin_lonely(
    node: ir.Node,
    scope: Scope,
    channels: _Channels,
    others: Sequence[_Channels],
    shared: set[str],
    result: Sequence[str | None],
) -> None:
    """Pin what can't be followed through the product."""
    everything = channels.component.everything()
    for label in channels.labels:
        kind = _kind(channels, label)
        met = [_kind(other, label) for other in others if label in other.labels]
        if label is None:
            scope.pin(everything, node, f"{node.op_type} spreads a single channel")
        elif label not in shared and label not in result:
            scope.pin(everything, node, f"{node.op_type} sums over them")
        elif kind == "line" and label not in result:
            scope.pin(everything, node, f"{node.op_type} sums over heads or groups")
        elif {kind, *met} >= {"line", "member"}:
            scope.pin(everything, node, f"{node.op_type} joins heads with what lies within others")
        elif label in shared and not met:
            lonely = _along(channels, label) if kind == "line" else everything
            assert lonely is not None
            scope.pin(lonely, node, f"{node.op_type} joins them with something that is not followed")


def _unite_lines(scope: Scope, sides: Sequence[Sequence[_Channels]], shared: set[str]) -> None:
    """What lies along one shared label, alone in both operands, is one thing."""
    for label in sorted(shared):
        found = [
            ids
            for side in sides
            for channels in side
            if label in channels.labels and (ids := _along(channels, label)) is not None
        ]
        for ids in found[1:]:
            if ids.size == found[0].size:
                scope.unite(found[0], ids)


def _meet(node: ir.Node, scope: Scope, a: _Channels, b: _Channels, result: Sequence[str | None]) -> None:
    """Two factors with channels along the same label, in rows or not."""
    labels = list(dict.fromkeys([*a.labels, *b.labels]))
    ids_a, ids_b = a.aligned(labels, a.component.ids), b.aligned(labels, b.component.ids)
    ids_a, ids_b = np.broadcast_arrays(ids_a, ids_b)
    scope.unite(ids_a, ids_b)
    if _ragged(a) in result:
        return
    zero = []
    for channels in (a, b):
        component = channels.component
        place = component.axes if len(component.axes) > 1 else component.axes[0]
        flat = np.arange(component.ids.size).reshape(component.ids.shape)
        spread = np.broadcast_to(channels.aligned(labels, flat), ids_a.shape)
        zero.append(Taken(scope.activation(channels.operand.value, place), spread.ravel()))
    lines = _lines(a, labels, ids_a.shape)
    lines = _lines(b, labels, ids_a.shape) if lines is None else lines
    scope.read_by(
        np.ascontiguousarray(ids_a), lines, node, f"{node.op_type} sums over them", AnyOf(tuple(zero))
    )


def _lines(channels: _Channels, labels: Sequence[str | None], shape: Sequence[int]) -> IdArray | None:
    """For every member the line that it is in, spread over `shape`; None where there are no lines."""
    component = channels.component
    for place, line in enumerate(component.lines):
        if line is not None:
            spot = [1] * len(shape)
            spot[labels.index(channels.labels[place])] = line.size
            return np.broadcast_to(line.reshape(spot), shape)
    return None


def _carry(
    node: ir.Node,
    scope: Scope,
    channels: _Channels,
    others: Sequence[_Channels],
    result: tuple[str | None, ...],
) -> None:
    """What is left of a component in the result."""
    component, value, ragged = channels.component, node.outputs[0], _ragged(channels)
    kept = [label for label in channels.labels if label in result]
    if ragged not in result or len(kept) < len(channels.labels):
        for label, line in zip(channels.labels, component.lines, strict=True):
            if line is not None and label in result:
                scope.carry(value, result.index(label), line)
        return
    axes = tuple(result.index(label) for label in kept)
    if any(axes == known.axes for known in scope.views(value)):
        return  # the other factor has carried what both have
    place = component.axes if len(component.axes) > 1 else component.axes[0]
    for other in others if len(axes) == 1 else ():
        if ragged in other.labels and len(other.labels) > 1 and _ragged(other) in result:
            # An axis of lines by itself (attention weights): the other factor's members carry it on.
            lines = _lines(other, other.labels, other.component.ids.shape)
            assert lines is not None
            scope.read_by(
                np.ascontiguousarray(lines), other.component.ids, node, f"{node.op_type} weights them"
            )
            return
    for known in scope.views(value):
        for axis, line in zip(known.axes, known.lines, strict=True):
            if axis in axes and line is not None:
                scope.pin(line, node, f"{node.op_type} makes two sets of channels in the same heads")
    flow = scope.activation(channels.operand.value, place)
    scope.carry_grid(value, Component(axes, component.ids, component.lines), flow)
