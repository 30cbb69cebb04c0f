"""Residual branches: which weight alone shapes a tensor, and where it is added to something else."""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.coupling import Merge
from evonnx.network import Network


class Branches:
    """The origin of every tensor that is a channel-wise function of one weight's output."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.merges: list[Merge] = []
        self._origins: dict[str, tuple[str, bool]] = {}

    def private(self, value: ir.Value) -> bool:
        """Whether one node input is all that sees the value."""
        return len(value.uses()) == 1 and not value.is_graph_output()

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
            self.merges.append(Merge(node, self.network.label(node), operand, origin[0]))
