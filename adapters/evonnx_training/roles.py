"""Which constants of a graph are trained.

Trained are the floating-point constants of the main graph that reach a weight port (`_PORTS`), directly or
through a constant relayout or fake quantisation; vectors that act on activations entry by entry; and tables
of embeddings that integer inputs index. Everything else (shapes, bounds, priors, position and frequency
tables, constants of control-flow subgraphs) keeps its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from evonnx.network import Array
from evonnx_training.graph import Graph, Node, is_float, is_float_array

_PORTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "Einsum": (0, 1, 2),
}
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div"})
"""Their constants are trained where they are one value per channel: scalars and whole maps (priors) are not
weights."""
_RELAYOUTS = frozenset(
    {
        "Reshape",
        "Transpose",
        "Identity",
        "Cast",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Concat",
        "Expand",
        "Flatten",
        "QuantizeLinear",
        "DequantizeLinear",
    }
)
_LOOKUPS = frozenset({"Cast", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Slice", "Clip", "Flatten"})
"""What may stand between an integer input and the Gather that looks it up in a table."""
_PRODUCTS = frozenset({"MatMul", "Einsum"})
_SHAPES = frozenset({"Shape", "Size"})
_STATISTICS = (3, 4)
"""Inputs of BatchNormalization that training re-estimates."""


_DEEP = 8
"""Convolutions from which on a network without normalisation is taken for a folded one."""
NORMS = (
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "LRN",
)


@dataclass(frozen=True)
class Roles:
    """What training may change, by tensor name."""

    trained: tuple[str, ...]
    statistics: tuple[str, ...]
    """Running means and variances."""
    decayed: frozenset[str]
    """Trained ones that weight decay applies to: weights of two and more axes, not biases and norm
    parameters."""


class _Search:
    """One walk over the nodes."""

    def __init__(self, graph: Graph) -> None:
        self.floats = {name: array for name, array in graph.constants.items() if is_float_array(array)}
        self.constants = graph.constants.keys()
        self.inputs = {value.name for value in graph.inputs}
        self.origins: dict[str, tuple[str, ...]] = {name: (name,) for name in self.floats}
        """The stored constants that a constant tensor is laid out from."""
        self.active = {value.name for value in graph.inputs if is_float(value.dtype)}
        """Tensors that carry activations, unlike shapes, positions and what is computed from them."""
        self.ids = {value.name for value in graph.inputs if not is_float(value.dtype)}
        """Integer inputs and relayouts of them."""
        self.trained: dict[str, None] = {}
        self.weights: set[str] = set()
        self.statistics: dict[str, None] = {}

    def visit(self, node: Node) -> None:
        """Take in one node; those before it have been."""
        if node.op_type in _RELAYOUTS:
            sources = [
                self.origins.get(name) for name in node.inputs[: None if node.op_type == "Concat" else 1]
            ]
            if sources and all(source is not None for source in sources):
                self.origins[node.outputs[0]] = tuple(name for source in sources for name in source or ())
        if node.op_type in _LOOKUPS and node.inputs[0] in self.ids:
            self.ids.add(node.outputs[0])
        if node.op_type in _ELEMENTWISE and len(node.inputs) == 2:
            for name, other in (node.inputs, node.inputs[::-1]):
                if other in self.active and other not in self.inputs:
                    # A relaid vector keeps its size, so the stored shape tells.
                    vectors = [o for o in self.origins.get(name, ()) if _is_learned(self.floats[o])]
                    self.trained.update(dict.fromkeys(vectors))
        found = self._at_ports(node)
        table = self._table(node)
        if node.op_type not in _SHAPES and (
            found or table or any(name in self.active for name in node.inputs)
        ):
            self.active.update(name for name in node.outputs if name)
        if node.op_type == "BatchNormalization":
            statistics = [node.inputs[i] for i in _STATISTICS]
            self.statistics.update({name: None for name in statistics if name in self.floats})

    def _at_ports(self, node: Node) -> bool:
        """Note constants at weight ports; whether there are any."""
        found = False
        for port in _PORTS.get(node.op_type, ()):
            name = node.inputs[port] if port < len(node.inputs) else ""
            others = (other for other in node.inputs if other != name)
            for origin in self.origins.get(name, ()):
                # A vector times positions gives the angles of a rotary embedding: no weight.
                if (
                    node.op_type in _PRODUCTS
                    and _per_channel(self.floats[origin])
                    and not any(other in self.active for other in others)
                ):
                    continue
                found = True
                self.trained[origin] = None
                if port < 2 and "Normalization" not in node.op_type and node.op_type != "PRelu":
                    self.weights.add(origin)
        return found

    def _table(self, node: Node) -> bool:
        """Note a table of embeddings; whether the node looks one up."""
        if node.op_type != "Gather" or node.inputs[1] not in self.ids or node.attributes.get("axis", 0):
            return False
        tables = [name for name in self.origins.get(node.inputs[0], ()) if self.floats[name].ndim == 2]
        self.trained.update(dict.fromkeys(tables))
        return bool(tables)


def find_roles(graph: Graph) -> Roles:
    """Which constants of the main graph are trained, and which are norm statistics."""
    search = _Search(graph)
    for node in _all_nodes(graph, frozenset()):
        search.visit(node)
    return Roles(
        trained=tuple(
            name for name in graph.constants if name in search.trained and name not in search.statistics
        ),
        statistics=tuple(search.statistics),
        decayed=frozenset(name for name in search.weights if search.floats[name].ndim >= 2),
    )


def _all_nodes(graph: Graph, shadowed: frozenset[str]) -> Iterator[Node]:
    """Nodes of a graph and its branches; names that a branch defines itself are hidden from the result."""
    for node in graph.nodes:
        if shadowed:
            names = tuple("" if name in shadowed else name for name in node.inputs)
            node = replace(node, inputs=names)
        yield node
        for branch in node.branches.values():
            yield from _all_nodes(branch, shadowed | branch.constants.keys())


def _per_channel(array: Array) -> bool:
    return array.size > 1 and np.count_nonzero(np.array(array.shape) > 1) == 1


def _is_learned(array: Array) -> bool:
    """A vector that is not one of strides, offsets or flags: those are whole numbers, and not all alike."""
    values = array.astype(np.float32)
    whole = bool(np.all(values == np.rint(values)))
    return _per_channel(array) and not (whole and bool(np.any(values != values.flat[0])))


def is_bare_and_deep(graph: Graph) -> bool:
    """Whether a network has many convolutions and no normalisation: most likely one whose was folded away."""
    convolutions = sum(node.op_type == "Conv" for node in graph.nodes)
    return convolutions >= _DEEP and not any(node.op_type in NORMS for node in graph.nodes)
