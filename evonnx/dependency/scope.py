"""What a rule can say: ids of (tensor, axis), what to unite, pin, cut along, rewrite, and when a channel is
zero.

A rule sees one node at a time, in topological order, and speaks to a `Scope` only. An axis that has no ids is
not followed: it cannot change its length, and whatever meets it element by element is pinned (`require`,
`pin`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from evonnx.dependency.coupling import (
    Activation,
    CountRewrite,
    Flow,
    FlowStep,
    IndexRewrite,
    Merge,
    Read,
)
from evonnx.dependency.ids import IdArray, UnionFind
from evonnx.dependency.sizes import Size, Sizes, sizes_of_constant
from evonnx.errors import ModelError
from evonnx.network import Array, Network, Weight
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


class Scope:
    """The state of one forward walk over a graph, and the vocabulary of the rules."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.opset = network.model.opset_imports.get("", 1)
        self.wires = UnionFind()
        self.classes = UnionFind()
        self.axes: dict[tuple[str, int], IdArray] = {}
        self.axes_of: dict[str, set[int]] = {}
        self.weight_ids: dict[str, WeightIds] = {}
        self.vectors: list[Vector] = []
        self.pins: list[tuple[IdArray, str, str]] = []
        self.equal_counts: list[tuple[tuple[IdArray, ...], str, str]] = []
        self.counts: list[CountRewrite] = []
        self.indices: list[IndexRewrite] = []
        self.merges: list[Merge] = []
        self.flows: list[FlowStep] = []
        self.reads: list[Read] = []
        self.sizes: dict[str, Sizes] = {}
        self.claims: dict[str, set[tuple[ir.Node, int]]] = {}
        self._origins: dict[str, tuple[str, bool]] = {}
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

    def sizes_at(self, value: ir.Value | None) -> Sizes | None:
        """The entries of a small integer tensor (a shape), as far as known: numbers, or what they are sizes
        of."""
        if value is None or value.name is None:
            return None
        if value.name in self.sizes:
            return self.sizes[value.name]
        array = self.constant(value)
        return None if array is None else sizes_of_constant(array)

    def label(self, node: ir.Node) -> str:
        """The node's name, or `OpType#position`."""
        return self.network.label(node)

    def private(self, value: ir.Value) -> bool:
        """Whether one node input is all that sees the value."""
        return len(value.uses()) == 1 and not value.is_graph_output()

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
        if value is not None and value.name in self.sizes:
            self.pin_sizes(self.sizes[value.name], node, reason)

    def pin_sizes(self, entries: Sizes, node: ir.Node | str, reason: str) -> None:
        """The numbers of channels that these entries depend on must stay."""
        for entry in entries.ravel():
            if isinstance(entry, Size):
                for key in sorted(entry.depends):
                    self.pin(self.axes[key], node, reason)

    def pin_inputs(self, node: ir.Node, reason: str) -> None:
        """Nothing that reaches this node can be removed, by its inputs or captured by its subgraphs."""
        for value in (*node.inputs, *captured_values(node)):
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

    def equal_count(self, rows: Sequence[IdArray], node: ir.Node, reason: str) -> None:
        """Every row must keep equally many members."""
        self.equal_counts.append((tuple(rows), self.label(node), reason))

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
        self.claim(node, slot)
        self.carry(value, axis, ids)
        if along is not None:
            layer = self.layer_of(along)
        else:
            layer = next((found[0].name for s in (0, 1) if (found := self.weight(node, s))), None)
        self.vectors.append(Vector(value.name, axis, role, self.label(node), layer))

    def claim(self, node: ir.Node, slot: int) -> None:
        """This rule knows how the constant at `slot` changes when channels go; readers without a claim pin
        it."""
        value = node.inputs[slot]
        if value is not None and value.name is not None:
            self.claims.setdefault(value.name, set()).add((node, slot))

    def count(self, node: ir.Node, slot: int | str, position: int | None, ids: IdArray) -> None:
        """A number stored at input `slot` (or attribute) counts these channels."""
        self.counts.append(CountRewrite(node, self.label(node), slot, position, ids))

    def reindex(self, node: ir.Node, slot: int, ids: IdArray) -> None:
        """The constant at input `slot` holds indices into an axis with these ids."""
        self.indices.append(IndexRewrite(node, self.label(node), slot, ids))

    def read(self, weight: str, node: ir.Node, source: ir.Value | None, axis: int) -> None:
        """This node contracts `axis` of `source` with the weight."""
        self.reads.append(Read(weight, node, None if source is None else source.name, axis))

    def weight_axes(self, weight: Weight, output: IdArray, inputs: IdArray) -> None:
        """Ids of a weight's canonical outputs, shape (O,), and inputs, shape (groups, I); a second use
        unites."""
        known = self.weight_ids.get(weight.name)
        if known is None:
            self.weight_ids[weight.name] = WeightIds(output, inputs)
            return
        self.unite(known.output, output)
        self.unite(known.input, inputs)

    # ---------------------------------------------------------------------------------------- residual
    # branches

    def begin_layer(self, value: ir.Value, weight: str) -> None:
        """`value` is what this weight's node puts out."""
        assert value.name is not None
        self._origins[value.name] = (weight, True)

    def continue_layer(self, source: ir.Value, value: ir.Value, *, zero_preserving: bool) -> None:
        """`value` is a channel-wise function of `source` and constants alone."""
        origin = self._origins.get(source.name or "")
        if origin is not None and self.private(source) and value.name is not None:
            self._origins[value.name] = (origin[0], origin[1] and zero_preserving)

    def layer_of(self, value: ir.Value) -> str | None:
        """The weight whose private output this is."""
        origin = self._origins.get(value.name or "")
        return origin[0] if origin is not None and self.private(value) else None

    def merge(self, node: ir.Node, operand: int) -> None:
        """Note that a residual branch ends at input `operand` of an addition, if it does."""
        value = node.inputs[operand]
        origin = self._origins.get((value.name if value is not None else None) or "")
        if value is not None and origin is not None and origin[1] and self.private(value):
            self.merges.append(Merge(node, self.label(node), operand, origin[0]))

    # ------------------------------------------------------------------------------------------------
    # shorthand

    def activation(self, value: ir.Value, axis: int) -> Activation:
        """The flow term of a followed axis."""
        assert value.name is not None
        return Activation(value.name, axis)

    def pass_through(
        self,
        source: ir.Value,
        value: ir.Value,
        *,
        zero_preserving: bool,
        axes: Mapping[int, int] | None = None,
    ) -> None:
        """`value` has the channels of `source`, each a function of itself alone.

        Args:
            source: input.
            value: output.
            zero_preserving: f(0) = 0.
            axes: source axis -> output axis, for axes that move or go; None: every axis stays.
        """
        for axis, ids in self.tracked(source).items():
            target = axis if axes is None else axes[axis]
            self.carry(value, target, ids, self.activation(source, axis) if zero_preserving else None)
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
