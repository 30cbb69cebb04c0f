"""What a rule can say of numbers that stand in the graph and count, number or average channels."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from evonnx.dependency.coupling import Correction, CountRewrite, IndexRewrite, Parts, Selection
from evonnx.dependency.ids import IdArray
from evonnx.dependency.sizes import Number, Origin
from evonnx.network import Network


class Rewrites:
    """What must change in the graph, besides weights, when channels go."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.claims: dict[str, set[tuple[ir.Node, int]]] = {}
        self.counts: list[CountRewrite] = []
        self.indices: list[IndexRewrite] = []
        self.parts: list[Parts] = []
        self.selections: list[Selection] = []
        self.corrections: list[Correction] = []
        self.wanted_numbers: dict[Origin, list[IdArray | None]] = {}

    def label(self, node: ir.Node) -> str:
        """The node's name, or `OpType#position`."""
        return self.network.label(node)

    def claim(self, node: ir.Node, slot: int) -> None:
        """This rule knows how the constant at `slot` changes when channels go; readers without a claim pin
        it."""
        value = node.inputs[slot]
        if value is not None and value.name is not None:
            self.claims.setdefault(value.name, set()).add((node, slot))

    def count(
        self,
        node: ir.Node,
        slot: int | str,
        position: int | None,
        ids: IdArray,
        axis: IdArray | None = None,
    ) -> None:
        """A number stored at input `slot` (or attribute) counts these channels: (n,), or rows (..., n).

        Args:
            node: the node.
            slot: where it is stored.
            position: at which place.
            ids: what it counts.
            axis: ids of the whole axis, where it is written as a number from the end.
        """
        self.counts.append(CountRewrite(node, self.label(node), slot, position, ids, axis))

    def need_number(self, entry: object, ids: IdArray | None) -> None:
        """An entry of a computed shape is needed as the number of these channels; None: as it is."""
        if isinstance(entry, Number):
            self.wanted_numbers.setdefault(entry.origin, []).append(ids)

    def reindex(self, node: ir.Node, slot: int, ids: IdArray) -> None:
        """The constant at input `slot` holds indices into an axis with these ids."""
        self.indices.append(IndexRewrite(node, self.label(node), slot, ids))

    def split_parts(self, node: ir.Node, parts: Sequence[IdArray]) -> None:
        """A Split into equal parts that may become unequal ones."""
        self.parts.append(Parts(node, self.label(node), tuple(parts)))

    def select(self, node: ir.Node, slot: int, axis: int, ids: IdArray) -> None:
        """The operand at `slot`, itself not followed, is read along `axis` channel by channel with these."""
        self.selections.append(Selection(node, self.label(node), slot, axis, ids))

    def correct_mean(self, node: ir.Node, ids: IdArray) -> None:
        """The node's result is a mean over these channels."""
        self.corrections.append(Correction(node, self.label(node), ids))
