"""What a rule can say: ids of (tensor, axis), what to unite, pin, cut along, rewrite, and when a channel is
zero.

A rule sees one node at a time, in topological order, and speaks to a `Scope` only. An axis that has no ids is
not followed: it cannot change its length, and whatever meets it element by element is pinned (`require`,
`pin`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from evonnx.dependency.branches import Branches
from evonnx.dependency.coupling import (
    Activation,
    Constant,
    Flow,
    FlowStep,
    Frozen,
    Link,
    Place,
    Read,
    Relabel,
    Taken,
)
from evonnx.dependency.grids import Component, Equal, line_component
from evonnx.dependency.ids import IdArray, UnionFind
from evonnx.dependency.rewrites import Rewrites
from evonnx.dependency.sizes import Size, Sizes, sizes_of_constant, type_of_sizes
from evonnx.errors import ModelError
from evonnx.network import Array, Network, Weight, quantization_of
from evonnx.onnx_io import constant_tensor, subgraphs


@dataclass(frozen=True)
class Vector:
    """A per-channel constant as a rule registers it; ids are wires."""

    name: str
    axis: int
    role: str
    node_label: str
    layer: str | None


@dataclass(frozen=True)
class WeightIds:
    """Ids of one weight in its canonical view."""

    output: IdArray
    """Shape (O,)."""
    input: IdArray
    """Shape (groups, I)."""


class Scope(Rewrites, Branches):
    """The state of one forward walk over a graph, and the vocabulary of the rules."""

    def __init__(self, network: Network) -> None:
        Rewrites.__init__(self, network)
        Branches.__init__(self, network)
        self.opset = network.model.opset_imports.get("", 1)
        self.wires = UnionFind()
        self.classes = UnionFind()
        self.axes: dict[tuple[str, int], IdArray] = {}
        self.axes_of: dict[str, set[int]] = {}
        self.weight_ids: dict[str, WeightIds] = {}
        self.vectors: list[Vector] = []
        self.pins: list[tuple[IdArray, str, str]] = []
        self.grids_of: dict[str, list[Component]] = {}
        self.equal_counts: list[Equal] = []
        self.links: list[Link] = []
        self.given: list[IdArray] = []
        self.fed: list[IdArray] = []
        self.relabels: list[Relabel] = []
        self.frozen: list[Frozen] = []
        self.flows: list[FlowStep] = []
        self.reads: list[Read] = []
        self.sizes: dict[str, Sizes] = {}
        self._weight_at = {
            (use.node, use.input_index): (weight, position)
            for weight in network.weights.values()
            for position, use in enumerate(weight.uses)
        }

    # ------------------------------------------------------------------------------------------------ looking

    def constant(self, value: ir.Value | None) -> Array | None:
        """The array behind an initializer or Constant node; None for anything else (and for strings)."""
        tensor = constant_tensor(value)
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            return None
        return tensor.numpy()

    def shape(self, value: ir.Value | None) -> tuple[int | None, ...] | None:
        """Concrete shape for the network's input shapes, None for dims that are not known; None: rank not
        known."""
        if value is None or value.name is None:
            return None
        tensor = constant_tensor(value)
        found: Sequence[object] | None
        found = tuple(tensor.shape) if tensor is not None else self.network.shapes.get(value.name)
        return None if found is None else tuple(dim if isinstance(dim, int) else None for dim in found)

    def weight(self, node: ir.Node, slot: int) -> tuple[Weight, int] | None:
        """The prunable weight at an input of a node, and which of its uses this is."""
        return self._weight_at.get((node, slot))

    def ids(self, value: ir.Value | None, axis: int) -> IdArray | None:
        """Ids of an axis, or None where it is not followed."""
        return None if value is None or value.name is None else self.axes.get((value.name, axis))

    def tracked(self, value: ir.Value | None) -> dict[int, IdArray]:
        """Every followed axis of a value."""
        if value is None or value.name is None:
            return {}
        return {axis: self.axes[value.name, axis] for axis in sorted(self.axes_of.get(value.name, ()))}

    def views(self, value: ir.Value | None) -> tuple[Component, ...]:
        """Channels of a value that lie over several axes, for a rule that only relabels them."""
        return tuple(self.grids_of.get(value.name or "", ())) if value is not None else ()

    def grids(self, value: ir.Value | None) -> tuple[Component, ...]:
        """Channels of a value that lie over several axes, for a rule that computes with them as they lie:
        from here on every line keeps equally many."""
        found = self.views(value)
        if value is None or all(one.view is None for one in found):
            return found
        for one in found:
            for equal in one.pending:
                self._register(equal)
        self.grids_of[str(value.name)] = [one for one in found if one.view is None]
        for one in found:
            if one.view is not None:
                flow = Taken(self.activation(one.view.source, one.view.axis), one.view.positions)
                self.carry_grid(value, replace(one, view=None, pending=()), flow)
        return self.views(value)

    def components(self, value: ir.Value | None) -> list[Component]:
        """All followed channels of a value, over one axis or several; see `grids`."""
        grids = self.grids(value)
        return [*(line_component(axis, ids) for axis, ids in self.tracked(value).items()), *grids]

    def counted(self, name: str, axis: int) -> IdArray | None:
        """What the length of an axis counts: ids, shape (n,), or ids in rows (..., n); None: not followed."""
        if (name, axis) in self.axes:
            return self.axes[name, axis]
        for grid in self.grids_of.get(name, ()):
            if axis in grid.axes:
                return grid.counted(grid.axes.index(axis))
        return None

    def same(self, one: IdArray | None, other: IdArray | None) -> bool:
        """Whether two counts are certain to agree."""
        if one is None or other is None or one.shape != other.shape:
            return False
        return bool(np.array_equal(self.classes.find(one.copy()), self.classes.find(other.copy())))

    def sizes_at(self, value: ir.Value | None) -> Sizes | None:
        """The entries of a small integer tensor (a shape), as far as known: numbers, or what they are sizes
        of."""
        if value is None or value.name is None:
            return None
        if value.name in self.sizes:
            return self.sizes[value.name]
        array = self.constant(value)
        return None if array is None else sizes_of_constant(array)

    # ------------------------------------------------------------------------------------------------- saying

    def fresh(self, count: int) -> IdArray:
        """New ids, shape (count,)."""
        self.classes.grow(count)
        return self.wires.grow(count)

    def carry(self, value: ir.Value, axis: int, ids: IdArray, flow: Flow | None = None) -> None:
        """From now on `axis` of `value` has these ids. `flow` says when its channels are certainly zero."""
        assert value.name is not None
        key = (value.name, axis)
        if key in self.axes:
            self.unite(self.axes[key], ids)
        else:
            self.axes[key] = ids
            self.axes_of.setdefault(value.name, set()).add(axis)
        if flow is not None:
            self.flows.append(FlowStep(value.name, axis, flow))

    def carry_grid(self, value: ir.Value, grid: Component, flow: Flow | None = None) -> None:
        """From now on these channels lie over several axes of `value`, or along one."""
        assert value.name is not None
        if len(grid.axes) == 1:
            line = grid.lines[0]
            self.carry(value, grid.axes[0], grid.ids if line is None else line, flow)
            return
        self.grids_of.setdefault(value.name, []).append(grid)
        if flow is not None:
            self.flows.append(FlowStep(value.name, grid.axes, flow))

    def carry_view(self, value: ir.Value, grid: Component) -> None:
        """From now on `value` shows these channels, relabelled, and nothing has computed with them yet."""
        self.grids_of.setdefault(str(value.name), []).append(grid)

    def unite(self, one: IdArray, other: IdArray) -> None:
        """Index by index, these carry one value or are combined element by element."""
        self.wires.unite(one, other)
        self.classes.unite(one, other)

    def bind(self, one: IdArray, other: IdArray) -> None:
        """Index by index, these can only be removed together, yet carry different values."""
        self.classes.unite(one, other)

    def pin(self, ids: IdArray, node: ir.Node | str, reason: str) -> None:
        """These cannot be removed."""
        if ids.size:
            self.pins.append((ids.ravel(), node if isinstance(node, str) else self.label(node), reason))

    def pin_value(self, value: ir.Value | None, node: ir.Node | str, reason: str) -> None:
        """Nothing of this value can be removed, nor of what its entries are sizes of."""
        for ids in self.tracked(value).values():
            self.pin(ids, node, reason)
        for grid in self.views(value):
            self.pin(grid.everything(), node, reason)
        if value is not None and value.name in self.sizes:
            self.pin_sizes(self.sizes[value.name], node, reason)

    def pin_sizes(self, entries: Sizes, node: ir.Node | str, reason: str) -> None:
        """The numbers of channels that these entries depend on must stay."""
        for entry in entries.ravel():
            self.need_number(entry, None)
            if isinstance(entry, Size):
                for name, axis in sorted(entry.depends):
                    counted = self.counted(name, axis)
                    if counted is not None:
                        self.pin(counted, node, reason)

    def pin_inputs(self, node: ir.Node, reason: str) -> None:
        """Nothing that reaches this node can be removed, by its inputs or captured by its subgraphs."""
        for value in (*node.inputs, *captured_values(node)):
            self.pin_value(value, node, reason)

    def pin_node(self, node: ir.Node, reason: str) -> None:
        """Nothing that this node reads, holds or makes can be removed, whatever was said of it before."""
        self.pin_inputs(node, reason)
        for slot, value in enumerate(node.inputs):
            found = self.weight(node, slot)
            ids = None if found is None else self.weight_ids.get(found[0].name)
            for held in () if ids is None else (ids.output, ids.input):
                self.pin(held, node, reason)
            self.pin_value(value, node, reason)
        for value in node.outputs:
            self.pin_value(value, node, reason)

    def require(self, value: ir.Value, axis: int, length: int, node: ir.Node) -> IdArray:
        """Ids of an axis; where it is not followed, new ones that are pinned."""
        found = self.ids(value, axis)
        if found is not None:
            if found.size != length:
                raise ModelError(
                    f"{self.network.source} is not consistent: node {self.label(node)!r} reads {length} "
                    f"channels from {value.name!r}, which has {found.size}. Check the export."
                )
            return found
        ids = self.fresh(length)
        if value.is_graph_input():
            self.pin(ids, node, f"graph input {value.name!r} keeps its shape")
        else:
            self.pin(ids, node, f"the channels of {value.name!r} are not followed before this node")
        self.carry(value, axis, ids)
        return ids

    def equal_count(
        self, ids: IdArray, node: ir.Node, reason: str, lines: Sequence[IdArray | None] = ()
    ) -> None:
        """Every row (along the last axis) that is kept must keep equally many members.

        Args:
            ids: shape (..., M).
            node: who demands it.
            reason: why.
            lines: per axis before the last, ids of its lines, which can go whole; None or absent: they can't.
        """
        lines = (*lines, *[None] * (ids.ndim - 1 - len(lines)))
        self._register(Equal(ids, lines, node, reason))

    def _register(self, equal: Equal) -> None:
        if not any(equal is known for known in self.equal_counts):
            self.equal_counts.append(equal)

    def line_ids(self, count: int) -> IdArray:
        """New ids of lines (heads, groups), which no weight puts out."""
        ids = self.fresh(count)
        self.given.append(ids)
        return ids

    def rows_alike(self, grid: Component) -> IdArray:
        """From now on every line of a grid keeps the same indices; gives ids along the ragged axis, (M,)."""
        rows = np.moveaxis(grid.ids, grid.ragged, -1).reshape(-1, grid.ids.shape[grid.ragged])
        self.unite(np.broadcast_to(rows[0], rows.shape), rows)
        return np.asarray(rows[0])

    def dissolve(self, value: ir.Value, grid: Component, node: ir.Node, reason: str) -> None:
        """From now on a grid of `value` is one axis whose channels all lines share; no line can go."""
        ids = self.rows_alike(grid)
        self.grids_of[str(value.name)] = [one for one in self.views(value) if one.axes != grid.axes]
        self.carry(value, grid.axes[grid.ragged], ids)
        for line in grid.lines:
            if line is not None:
                self.pin(line, node, reason)

    def read_by(
        self,
        source: IdArray,
        target: IdArray | None,
        node: ir.Node,
        reason: str,
        zero: Flow | None = None,
    ) -> None:
        """The node reads channels otherwise than by a weight: they stay while what they lead to does.

        Args:
            source: ids read.
            target: ids of what each leads to, in the same shape; None: something that stays.
            node: the node.
            reason: what it does with them.
            zero: when they are zero, and may go all the same: a flow term with flags for `source`, flattened.
        """
        flat = None if target is None else np.broadcast_to(target, source.shape).ravel()
        self.links.append(Link(source.ravel(), flat, zero, self.label(node), reason))

    def vector(
        self, node: ir.Node, slot: int, axis: int, ids: IdArray, role: str, along: ir.Value | None
    ) -> None:
        """The constant at input `slot` is cut along `axis` with these ids and dies with them.

        Args:
            node: the node that reads it.
            slot: input index.
            axis: axis of the constant.
            ids: shape (length of that axis,).
            role: see `ChannelVector.role`.
            along: the activation that it shapes, None where it is a bias of `layer`'s own node.
        """
        value = node.inputs[slot]
        assert value is not None
        assert value.name is not None
        shape = self.shape(value)
        if shape is not None and (axis >= len(shape) or shape[axis] not in (None, ids.size)):
            raise ValueError(f"{value.name!r} of shape {list(shape)} does not fit {ids.size} channels")
        self.claim(node, slot)
        self.carry(value, axis, ids)
        if along is not None:
            layer = self.layer_of(along)
        else:
            layer = next((found[0].name for s in (0, 1) if (found := self.weight(node, s))), None)
        self.vectors.append(Vector(value.name, axis, role, self.label(node), layer))

    def bias(self, node: ir.Node, slot: int, axis: int, ids: IdArray) -> Flow | None:
        """The bias at input `slot`, a constant, has these channels; gives when it is zero (None: unknown)."""
        value = node.inputs[slot]
        assert value is not None
        if self.constant(value) is not None:
            self.vector(node, slot, axis, ids, "bias", None)
            return Constant(str(value.name), axis)
        quantized = quantization_of(value)[0]
        if quantized is None:
            self.pin(ids, node, "the bias is not a constant")
            return None
        self.vector(quantized.node, 0, axis, ids, "bias", None)
        if quantized.axis is not None:
            self._quantizers(quantized.node, ids)
        return Constant(quantized.stored, axis)

    def _quantizers(self, node: ir.Node, ids: IdArray) -> None:
        """Scale and zero point of a DequantizeLinear, one per channel."""
        for slot, value in enumerate(node.inputs[1:], start=1):
            if value is not None:
                self.vector(node, slot, 0, ids, "quantizer", None)

    def freeze(self, node: ir.Node, slot: int) -> bool:
        """Let the node go on computing with the numbers of channels as they are; False where they aren't
        known."""
        value = node.inputs[slot]
        entries = self.sizes_at(value)
        if value is None or entries is None:
            return False
        if any(known.node is node and known.slot == slot for known in self.frozen):
            return True
        depends: list[IdArray] = []
        for entry in entries.ravel():
            if isinstance(entry, Size):
                if entry.number is None:
                    return False
                found = [self.counted(*key) for key in sorted(entry.depends)]
                depends += [ids.ravel() for ids in found if ids is not None]
            self.need_number(entry, None)
        if depends:
            numbers = [entry.number if isinstance(entry, Size) else int(entry) for entry in entries.ravel()]
            array = np.asarray(numbers, dtype=type_of_sizes(value)).reshape(entries.shape)
            self.frozen.append(Frozen(node, self.label(node), slot, array, np.concatenate(depends)))
        return True

    def read(self, weight: str, node: ir.Node, source: ir.Value | None, axis: int) -> None:
        """This node contracts `axis` of `source` with the weight."""
        self.reads.append(Read(weight, node, None if source is None else source.name, axis))

    def weight_axes(self, weight: Weight, output: IdArray, inputs: IdArray) -> None:
        """Ids of a weight's canonical outputs, shape (O,), and inputs, shape (groups, I); a second use
        unites."""
        known = self.weight_ids.get(weight.name)
        if weight.quantization is not None and weight.scales_along is not None:
            along = output if weight.scales_along == "outputs" else inputs[0]
            if along.size == inputs.size or weight.scales_along == "outputs":
                self._quantizers(weight.quantization.node, along)
            else:
                self.pin(inputs, weight.quantization.node, "its scales are shared by several groups")
        if known is None:
            self.weight_ids[weight.name] = WeightIds(output, inputs)
            return
        self.unite(known.output, output)
        self.unite(known.input, inputs)

    # ------------------------------------------------------------------------------------------------
    # shorthand

    def activation(self, value: ir.Value, axis: Place) -> Activation:
        """The flow term of a followed axis, or of the axes of a grid."""
        assert value.name is not None
        return Activation(value.name, axis)

    def pass_through(
        self,
        source: ir.Value,
        value: ir.Value,
        *,
        zero_preserving: bool,
        axes: Collection[int] | None = None,
    ) -> None:
        """`value` has the channels of `source`, each a function of itself alone.

        Args:
            source: input.
            value: output.
            zero_preserving: f(0) = 0.
            axes: those whose length stays, None: all; what lies along another is not followed any further.
        """
        for component in self.components(source):
            if axes is None or set(component.axes) <= set(axes):
                place = component.axes if len(component.axes) > 1 else component.axes[0]
                flow = self.activation(source, place) if zero_preserving else None
                self.carry_grid(value, component.moved(component.axes), flow)
        self.continue_layer(source, value, zero_preserving=zero_preserving)


def captured_values(node: ir.Node) -> list[ir.Value]:
    """Values of outer graphs that a node's subgraphs (If, Loop, Scan bodies) read."""
    found: dict[int, ir.Value] = {}
    for graph in subgraphs(node):
        inner = {id(value) for value in graph.inputs}
        for body in graph:
            inner.update(id(value) for value in body.outputs)
        reads = [
            value for body in graph for value in (*body.inputs, *captured_values(body)) if value is not None
        ]
        for value in (*reads, *graph.outputs):
            if id(value) not in inner and not (value.is_initializer() and value.graph is graph):
                found[id(value)] = value
    return list(found.values())
