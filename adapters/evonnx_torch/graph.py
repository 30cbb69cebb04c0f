"""An ONNX graph as plain data, and which of its constants are trained.

Trained are the floating-point constants of the main graph that reach a weight port (`_PORTS`), directly or
through a constant relayout. Everything else (shapes, bounds, priors, constants of control-flow subgraphs)
keeps its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx.onnx_io import constant_tensor, node_labels

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
    }
)
_STATISTICS = (3, 4)
"""Inputs of BatchNormalization that training re-estimates."""


@dataclass(frozen=True)
class Input:
    """A graph input: element type and declared dimensions (int, or None where symbolic or unknown)."""

    name: str
    dtype: ir.DataType
    dims: tuple[int | None, ...] | None

    @property
    def is_host_scalar(self) -> bool:
        """An integer or boolean scalar: its value steers the graph (a sampling rate), so programs depend on
        it."""
        return self.dims == () and not is_float(self.dtype)


@dataclass(frozen=True)
class Node:
    """One operator call. Absent optional inputs and outputs are empty names."""

    op_type: str
    label: str
    """The node's name, or `OpType#position`."""
    attributes: Mapping[str, Any]
    """int, float, str, tuples of them, or numpy arrays for tensors."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    branches: Mapping[str, Graph]
    """Subgraphs by attribute name."""

    def reads(self) -> Iterator[str]:
        """Every name it needs from its own scope: inputs, and what its branches capture."""
        yield from (name for name in self.inputs if name)
        for branch in self.branches.values():
            own = {*branch.constants, *(i.name for i in branch.inputs)}
            for node in branch.nodes:
                yield from (name for name in node.reads() if name not in own)
                own.update(node.outputs)
            yield from (name for name in branch.outputs if name not in own)


@dataclass(frozen=True)
class Graph:
    """Nodes in order; constants are initializers and Constant nodes alike, by tensor name, as stored."""

    nodes: tuple[Node, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array]
    opset: int
    float_outputs: frozenset[str] = frozenset()

    def producers(self) -> dict[str, Node]:
        """The node behind each tensor name."""
        return {name: node for node in self.nodes for name in node.outputs if name}


@dataclass(frozen=True)
class Roles:
    """What training may change, by tensor name."""

    trained: tuple[str, ...]
    statistics: tuple[str, ...]
    """Running means and variances."""
    decayed: frozenset[str]
    """Trained ones that weight decay applies to: weights of two and more axes, not biases and norm
    parameters."""


def is_float(dtype: ir.DataType) -> bool:
    """Whether values of this type are computed in float32 here."""
    return dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def is_float_array(array: Array) -> bool:
    """Whether an array's type is one that training can work on (bfloat16 included)."""
    return array.dtype.name in ("float16", "bfloat16", "float32", "float64")


def read_graph(model: ir.Model, supported: frozenset[str]) -> Graph:
    """Plain data from a model; local functions are inlined in a copy.

    Args:
        model: the model; not changed.
        supported: operators that can be run.

    Raises:
        AdapterError: an operator is unknown; names operator and node.
    """
    if model.functions:
        model = model.clone()
        InlinePass()(model)
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    return _read(model.graph, opset, supported)


def _read(graph: ir.Graph, opset: int, supported: frozenset[str]) -> Graph:
    constants: dict[str, Array] = {}
    for name, value in graph.initializers.items():
        if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
            constants[name] = value.const_value.numpy()
    nodes = []
    labels = node_labels(graph)
    for node in graph:
        if node.op_type == "Constant" and (tensor := constant_tensor(node.outputs[0])) is not None:
            if tensor.dtype != ir.DataType.STRING:
                constants[node.outputs[0].name or ""] = tensor.numpy()
            continue
        if node.domain not in ("", "ai.onnx") or node.op_type not in supported:
            domain = f"{node.domain}." if node.domain else ""
            raise AdapterError(
                f"The torch adapter cannot run operator {domain}{node.op_type} (node {labels[node]!r}). "
                "Retrain with `--adapter command` and your own training program, or export the model "
                "without it."
            )
        nodes.append(_node(node, labels[node], opset, supported))
    outputs = tuple(value.name or "" for value in graph.outputs)
    used = {*outputs, *(name for node in nodes for name in node.reads())}
    # Optional outputs that nobody reads are as good as absent.
    nodes = [
        replace(
            node, outputs=tuple(name if i == 0 or name in used else "" for i, name in enumerate(node.outputs))
        )
        for node in nodes
    ]
    return Graph(
        nodes=tuple(nodes),
        inputs=tuple(_input(value) for value in graph.inputs if value.name not in constants),
        outputs=outputs,
        constants=constants,
        opset=opset,
        float_outputs=frozenset(v.name or "" for v in graph.outputs if v.dtype is None or is_float(v.dtype)),
    )


def _node(node: ir.Node, label: str, opset: int, supported: frozenset[str]) -> Node:
    attributes: dict[str, Any] = {}
    branches: dict[str, Graph] = {}
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.GRAPH:
            branches[name] = _read(attribute.as_graph(), opset, supported)
        elif attribute.type == ir.AttributeType.TENSOR:
            attributes[name] = attribute.as_tensor().numpy()
        else:
            attributes[name] = attribute.value
    return Node(
        op_type=node.op_type,
        label=label,
        attributes=attributes,
        inputs=tuple(value.name or "" if value is not None else "" for value in node.inputs),
        outputs=tuple(value.name or "" for value in node.outputs),
        branches=branches,
    )


def _input(value: ir.Value) -> Input:
    dims = None
    if value.shape is not None:
        dims = tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape.dims)
    return Input(value.name or "", value.dtype or ir.DataType.FLOAT, dims)


def find_roles(graph: Graph) -> Roles:
    """Which constants of the main graph are trained, and which are norm statistics."""
    floats = {name: array for name, array in graph.constants.items() if is_float_array(array)}
    origins: dict[str, tuple[str, ...]] = {name: (name,) for name in floats}
    inputs = {value.name for value in graph.inputs}
    trained: dict[str, None] = {}
    weights: set[str] = set()
    statistics: dict[str, None] = {}
    for node in _all_nodes(graph, frozenset()):
        if node.op_type in _RELAYOUTS:
            sources = [origins.get(name) for name in node.inputs[: None if node.op_type == "Concat" else 1]]
            if sources and all(source is not None for source in sources):
                origins[node.outputs[0]] = tuple(name for source in sources for name in source or ())
        if node.op_type in _ELEMENTWISE and len(node.inputs) == 2:
            for name, other in (node.inputs, node.inputs[::-1]):
                if other not in inputs and other not in graph.constants:
                    # A relaid vector keeps its size, so the stored shape tells.
                    vectors = [o for o in origins.get(name, ()) if _per_channel(floats[o])]
                    trained.update(dict.fromkeys(vectors))
        for port in _PORTS.get(node.op_type, ()):
            for name in origins.get(node.inputs[port], ()) if port < len(node.inputs) else ():
                trained[name] = None
                if port < 2 and "Normalization" not in node.op_type and node.op_type != "PRelu":
                    weights.add(name)
        if node.op_type == "BatchNormalization":
            statistics.update({node.inputs[i]: None for i in _STATISTICS if node.inputs[i] in floats})
    return Roles(
        trained=tuple(name for name in graph.constants if name in trained and name not in statistics),
        statistics=tuple(statistics),
        decayed=frozenset(name for name in weights if floats[name].ndim >= 2),
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
