"""What a graph still computes: additions of zero that can be bypassed, and the nodes nobody needs then."""

from __future__ import annotations

from collections.abc import Mapping, Set

import onnx_ir as ir

from evonnx.compaction.plan import Bypass, NodeAt
from evonnx.dependency.coupling import Place
from evonnx.dependency.scope import captured_values
from evonnx.dependency.zeros import Flags
from evonnx.network import Network

_ADDITIONS = frozenset({"Add", "Sub", "Sum"})


def find_bypasses(network: Network, zeros: Mapping[tuple[str, Place], Flags]) -> list[Bypass]:
    """Additions of two activations, one of which is exactly zero and does not shape the result."""
    empty = {name for (name, _), flags in zeros.items() if flags.all()}
    found = []
    for index, node in enumerate(network.model.graph):
        if node.op_type not in _ADDITIONS or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
            continue
        for slot in (1,) if node.op_type == "Sub" else (1, 0):
            absent, other = node.inputs[slot], node.inputs[1 - slot]
            if absent is None or other is None or absent is other or absent.name not in empty:
                continue
            if _same_shape(network, other, node.outputs[0]):
                found.append(Bypass(NodeAt(index, network.label(node)), 1 - slot))
                break
    return found


def _same_shape(network: Network, operand: ir.Value, result: ir.Value) -> bool:
    """Whether nothing is broadcast, for any value of symbolic dimensions."""
    one, other = network.shapes.get(operand.name or ""), network.shapes.get(result.name or "")
    if one is None or other is None or one != other:
        return False
    if operand.shape is None or result.shape is None:
        return True
    pairs = zip(operand.shape, result.shape, strict=True)
    return not any(before == 1 and not isinstance(after, int) for before, after in pairs)


def needed_nodes(
    graph: ir.Graph,
    bypasses: Mapping[ir.Node, ir.Value],
    relabelled: Mapping[ir.Value, ir.Value],
    dropped: Set[tuple[ir.Node, int]],
) -> set[ir.Node]:
    """Nodes that still lead somewhere.

    A node that nobody read in the first place is the user's own business and stays, with all it reads.

    Args:
        graph: the graph.
        bypasses: nodes that stand for one of their operands.
        relabelled: values that are taken from another one directly.
        dropped: (node, input index) that are no longer read.
    """

    def maker(value: ir.Value) -> ir.Node | None:
        while value in relabelled:  # one relabelling may read another's result
            value = relabelled[value]
        return value.producer()

    needed: set[ir.Node] = set()
    waiting: list[ir.Node | None] = [maker(value) for value in graph.outputs]
    waiting += [node for node in graph if not any(v.uses() or v.is_graph_output() for v in node.outputs)]
    while waiting:
        node = waiting.pop()
        if node is None or node in needed or node.graph is not graph:
            continue
        needed.add(node)
        inputs = [value for slot, value in enumerate(node.inputs) if (node, slot) not in dropped]
        reads = [bypasses[node]] if node in bypasses else [*inputs, *captured_values(node)]
        waiting.extend(maker(value) for value in reads if value is not None)
    return needed
