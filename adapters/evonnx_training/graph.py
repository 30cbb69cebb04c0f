"""An ONNX graph as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx.onnx_io import constant_tensor, node_labels


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

    def leading_to(self, outputs: Iterable[str]) -> list[Node]:
        """The nodes that some tensors depend on, in order."""
        wanted = set(outputs)
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(name for name in node.outputs if name):
                kept.append(node)
                wanted.update(node.reads())
        return kept[::-1]


def is_float(dtype: ir.DataType) -> bool:
    """Whether values of this type are computed in float32 here."""
    return dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def is_float_array(array: Array) -> bool:
    """Whether an array's type is one that training can work on (bfloat16 included)."""
    return array.dtype.name in ("float16", "bfloat16", "float32", "float64")


def read_graph(model: ir.Model, supported: frozenset[str], adapter: str) -> Graph:
    """Plain data from a model; local functions are inlined in a copy.

    Args:
        model: the model; not changed.
        supported: operators that can be run.
        adapter: who runs them, for the message.

    Raises:
        AdapterError: an operator is unknown; names operator and node.
    """
    if model.functions:
        model = model.clone()
        InlinePass()(model)
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    return _read(model.graph, opset, supported, adapter)


def _read(graph: ir.Graph, opset: int, supported: frozenset[str], adapter: str) -> Graph:
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
                f"The {adapter} adapter cannot run operator {domain}{node.op_type} (node {labels[node]!r}). "
                "Retrain with `--adapter command` and your own training program, or export the model "
                "without it."
            )
        nodes.append(_node(node, labels[node], opset, supported, adapter))
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


def _node(node: ir.Node, label: str, opset: int, supported: frozenset[str], adapter: str) -> Node:
    attributes: dict[str, Any] = {}
    branches: dict[str, Graph] = {}
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.GRAPH:
            branches[name] = _read(attribute.as_graph(), opset, supported, adapter)
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
