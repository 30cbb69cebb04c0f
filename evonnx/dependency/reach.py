"""What a graph still computes: additions of zero that can be bypassed, inputs that hold nothing anybody sees,
and the nodes nobody needs then."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

import onnx_ir as ir

from evonnx.dependency.coupling import Coupling, Place
from evonnx.dependency.observed import Edges
from evonnx.dependency.scope import captured_values
from evonnx.dependency.zeros import Flags
from evonnx.network import Network

_ADDITIONS = frozenset({"Add", "Sub", "Sum"})


Input = tuple[ir.Node, int]
"""A node and the index of one of its inputs."""


def find_bypasses(network: Network, zeros: Mapping[tuple[str, Place], Flags]) -> list[Input]:
    """Additions of two activations, one of which is exactly zero and does not shape the result; with each,
    the input that takes its place."""
    empty = {name for (name, _), flags in zeros.items() if flags.all()}
    found = []
    for node in network.model.graph:
        if node.op_type not in _ADDITIONS or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
            continue
        for slot in (1,) if node.op_type == "Sub" else (1, 0):
            absent, other = node.inputs[slot], node.inputs[1 - slot]
            if absent is None or other is None or absent is other or absent.name not in empty:
                continue
            if _same_shape(network, other, node.outputs[0]):
                found.append((node, 1 - slot))
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
    bypasses: Collection[Input],
    relabelled: Mapping[ir.Value, ir.Value],
    dropped: Set[Input],
) -> set[ir.Node]:
    """Nodes that still lead somewhere.

    A node that nobody read in the first place is the user's own business and stays, with all it reads.

    Args:
        graph: the graph.
        bypasses: nodes that stand for one of their operands: see `find_bypasses`.
        relabelled: values that are taken from another one directly.
        dropped: (node, input index) that are no longer read.
    """

    def maker(value: ir.Value) -> ir.Node | None:
        while value in relabelled:  # one relabelling may read another's result
            value = relabelled[value]
        return value.producer()

    stand_in = {node: node.inputs[slot] for node, slot in bypasses}
    needed: set[ir.Node] = set()
    waiting: list[ir.Node | None] = [maker(value) for value in graph.outputs]
    waiting += [node for node in graph if not any(v.uses() or v.is_graph_output() for v in node.outputs)]
    while waiting:
        node = waiting.pop()
        if node is None or node in needed or node.graph is not graph:
            continue
        needed.add(node)
        inputs = [value for slot, value in enumerate(node.inputs) if (node, slot) not in dropped]
        reads = [stand_in[node]] if node in stand_in else [*inputs, *captured_values(node)]
        waiting.extend(maker(value) for value in reads if value is not None)
    return needed


def weights_read(
    network: Network, coupling: Coupling, needed: Collection[ir.Node]
) -> dict[str, list[tuple[str | None, int]]]:
    """Per weight that a needed node reads, the (activation, axis) that each of its readers contracts."""
    found: dict[str, list[tuple[str | None, int]]] = {}
    for read in coupling.reads:
        if read.node in needed:
            found.setdefault(read.weight, []).append((read.source, read.axis))
    for name, weight in network.weights.items():
        if any(use.node in needed for use in weight.uses):
            found.setdefault(name, [])
    return found


def empty_inputs(
    network: Network, coupling: Coupling, needed: Collection[ir.Node], kept: Flags
) -> set[Input]:
    """Inputs of needed Concats without a channel that is kept, beside others with some.

    Args:
        network: the file.
        coupling: its coupling.
        needed: nodes that lead somewhere.
        kept: shape (n_classes,).
    """
    found: set[Input] = set()
    for node in network.model.graph:
        if node.op_type != "Concat" or node not in needed or node.domain not in ("", "ai.onnx"):
            continue
        rank = len(network.shapes.get(str(node.outputs[0].name), ()))
        axis = node.attributes.get_int("axis", 1)
        axis = axis + rank if axis < 0 else axis
        ids = [coupling.axes.get((str(value.name if value else ""), axis)) for value in node.inputs]
        empty = [one is not None and not kept[one].any() for one in ids]
        if any(empty) and not all(empty):
            found |= {(node, slot) for slot, gone in enumerate(empty) if gone}
    return found


def unread_operands(edges: Mapping[str, Edges]) -> set[Input]:
    """What is contracted with weights none of whose synapses counts: it shapes the result, no more."""
    return {
        (use.node, 1 - use.input_index)
        for edge in edges.values()
        if not edge.live.any()
        for use in edge.weight.uses
    }
