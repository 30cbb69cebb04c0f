"""Prunable weights of a graph: which constants are synapses, and how each node lays them out.

Algebra: operand of shape (...) -> canonical (O, I, K), by operator
    Conv            input 1, (O, I, k...)            outputs on axis 0, inputs per group on axis 1
    ConvTranspose   input 1, (groups * I, O / groups, k...)          outputs on axis 1, inputs on axis 0
    Gemm            input 1, (I, O), or (O, I) with transB; input 0, (O, I), or (I, O) with transA
    MatMul          input 1, (batch..., I, O); input 0, (batch..., O, I); batch dimensions become taps
A weight may reach its node through Reshape, Transpose, Squeeze, Unsqueeze, Flatten and Identity (`Relayout`).
Everything else that looks like a weight is listed as `Unprunable`, with the reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.errors import ModelError
from evonnx.network.inference import Dim
from evonnx.network.operands import (
    RELAYOUTS,
    WEIGHT_PORTS,
    Relayout,
    Source,
    einsum_terms,
    static_shape,
    trace,
)
from evonnx.network.quantization import Quantization, quantization_of
from evonnx.onnx_io import constant_tensor, model_label, node_labels, subgraphs

Array = NDArray[np.generic]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class WeightUse:
    """One node that reads a prunable weight."""

    node: ir.Node
    node_label: str
    """The node's name, or `OpType#position` where the file gives none."""
    op_type: str
    input_index: int
    """Which input of the node is the weight."""
    relayouts: tuple[Relayout, ...]
    """Steps from the initializer to the node's operand, in order; empty for most models."""


@dataclass(frozen=True)
class Weight:
    """One prunable initializer (or Constant node): one set of synapses, counted once however often read.

    The canonical view has shape (O, I, K): O output channels in total, I input channels *per group*, K taps
    (kernel positions; 1 for Gemm and MatMul). Output o belongs to group o // (O // groups).
    """

    name: str
    """The tensor's name in the graph."""
    shape: tuple[int, ...]
    """Shape of the tensor as stored."""
    dtype: ir.DataType
    uses: tuple[WeightUse, ...]
    """At least one; the first defines the canonical view."""
    groups: int
    outputs: int
    inputs_per_group: int
    taps: int
    is_convolution: bool
    """Conv or ConvTranspose: its (o, i) slices are 2-D kernels in the paper's sense."""
    macs_per_tap: float | None = None
    """Multiply-accumulates each synapse costs per inference with a batch of 1 (output positions);
    None where shapes are not known."""
    operand_shape: tuple[int, ...] = ()
    """Shape after the relayouts of the first use: what the node sees."""
    output_axis: int = 0
    """Axis of the operand that carries output channels (for ConvTranspose: O / groups of them)."""
    input_axis: int = 1
    """Axis of the operand that carries input channels (for ConvTranspose: all groups' inputs)."""
    quantization: Quantization | None = None
    """How stored integers become numbers; None where numbers are stored. Such a weight has no relayouts, so
    axes of the stored tensor and of the operand are the same."""

    @property
    def scales_along(self) -> Literal["outputs", "inputs"] | None:
        """Which channels have a scale and zero point of their own; None: none, or they run along taps."""
        axis = None if self.quantization is None else self.quantization.axis
        if axis is None:
            return None
        return {self.output_axis: "outputs", self.input_axis: "inputs"}.get(axis)  # type: ignore[return-value]

    def to_canonical(self, stored: NDArray[Scalar]) -> NDArray[Scalar]:
        """The (O, I, K) view (a copy where strides cannot express it) of an array in the stored layout."""
        operand = stored
        for step in self.uses[0].relayouts:
            operand = (
                operand.reshape(step.argument) if step.kind == "reshape" else operand.transpose(step.argument)
            )
        moved = operand.transpose(self._axes())
        if not self._is_transposed_convolution():
            return moved.reshape(self.outputs, self.inputs_per_group, self.taps)
        # Stored (g * I, O / g, K): the input axis runs over groups, the output axis within one.
        split = moved.reshape(self.outputs // self.groups, self.groups, self.inputs_per_group, self.taps)
        return split.swapaxes(0, 1).reshape(self.outputs, self.inputs_per_group, self.taps)

    def from_canonical(self, canonical: NDArray[Scalar]) -> NDArray[Scalar]:
        """The stored layout of an (O, I, K) array: inverse of `to_canonical`."""
        moved = canonical
        if self._is_transposed_convolution():
            split = moved.reshape(self.groups, self.outputs // self.groups, self.inputs_per_group, self.taps)
            moved = split.swapaxes(0, 1)
        axes = self._axes()
        operand = moved.reshape([self.operand_shape[axis] for axis in axes]).transpose(np.argsort(axes))
        for step in reversed(self.uses[0].relayouts):
            if step.kind == "reshape":
                operand = operand.reshape(step.source_shape)
            else:
                operand = operand.transpose(np.argsort(step.argument))
        return operand

    def _axes(self) -> tuple[int, ...]:
        """The operand's axes with outputs first, inputs second, taps last."""
        first = (self.output_axis, self.input_axis)
        return (*first, *(axis for axis in range(len(self.operand_shape)) if axis not in first))

    def _is_transposed_convolution(self) -> bool:
        return self.uses[0].op_type == "ConvTranspose"


@dataclass(frozen=True)
class Unprunable:
    """A weight that is seen and left alone, with the reason."""

    name: str
    node_label: str
    reason: str


_OTHER_PORTS = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ((1, 2), "recurrent weights are not clusters yet")),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), ((1,), "integer weights are not synapses")),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), ((3,), "integer weights are not synapses")),
    "Gather": ((0,), "an embedding table has no producing and consuming channels"),
    "DeformConv": ((1,), "deformable convolutions are not clusters yet"),
}
_FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE))
_FINITE_CHUNK = 1 << 22


def find_weights(
    model: ir.Model, shapes: Mapping[str, tuple[Dim, ...]], batch: int, source: str
) -> tuple[dict[str, Weight], tuple[Unprunable, ...]]:
    """All prunable weights in graph order, and everything that looks like one and is not.

    Args:
        model: the graph.
        shapes: concrete shapes by tensor name, for MACs.
        batch: the batch those shapes were inferred for; MACs are stated per example.
        source: the file, for messages.

    Raises:
        ModelError: a prunable weight holds NaN or infinite values.
    """
    labels = node_labels(model.graph)
    uses: dict[str, list[WeightUse]] = {}
    values: dict[str, ir.Value] = {}
    unprunable: dict[str, Unprunable] = {}
    for node in model.graph:
        for index, refusal in _ports(node):
            found = trace(node.inputs[index])
            if found is None:
                continue
            name = found.value.name or ""
            values.setdefault(name, found.value)
            refusal = refusal or _refusal(found, node, index)
            if refusal:
                unprunable.setdefault(name, Unprunable(name, labels[node], refusal))
            else:
                use = WeightUse(node, labels[node], node.op_type, index, found.relayouts)
                uses.setdefault(name, []).append(use)
    weights: dict[str, Weight] = {}
    for name, found_uses in uses.items():
        if name in unprunable:
            continue
        reason = _reader_refusal(
            values[name], {(use.node, use.input_index) for use in found_uses}, model.graph
        )
        weight = None if reason else _weight(name, values[name], tuple(found_uses), shapes, batch)
        if weight is None:
            reason = reason or "it is read in several layouts that do not agree on what an output is"
            unprunable[name] = Unprunable(name, found_uses[0].node_label, reason)
            continue
        _require_finite(weight, values[name], source)
        weights[name] = weight
    nested = _nested_weights(model, labels)
    return weights, (*unprunable.values(), *nested)


def _ports(node: ir.Node) -> list[tuple[int, str]]:
    """(input index, reason why a constant there is not prunable or "") for a node."""
    if node.domain not in ("", "ai.onnx"):
        return [
            (index, f"operator {node.domain}.{node.op_type} is not understood")
            for index, value in enumerate(node.inputs)
            if len(static_shape(value) or ()) > 1
        ]
    if node.op_type in WEIGHT_PORTS:
        return [(index, "") for index in WEIGHT_PORTS[node.op_type] if index < len(node.inputs)]
    indices, reason = _OTHER_PORTS.get(node.op_type, ((), ""))
    return [
        (index, reason) for index in indices if index < len(node.inputs) and _is_float(node.inputs[index])
    ]


def _is_float(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and (
        tensor.dtype in _FLOATS or tensor.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    )


def _refusal(found: Source, node: ir.Node, index: int) -> str:
    tensor = constant_tensor(found.value)
    assert tensor is not None
    if found.dequantized is not None:
        quantization, reason = quantization_of(found.dequantized)
        if quantization is None:
            return reason or f"it is stored as {tensor.dtype.name} and not dequantised at once"
        if found.relayouts:
            return "it is dequantised and then reshaped or transposed"
    elif tensor.dtype not in _FLOATS:
        return f"it is stored as {tensor.dtype.name}; only floating-point weights are synapses"
    if tensor.size == 0:
        return "it is empty"
    rank = len(found.relayouts[-1].argument) if found.relayouts else len(tensor.shape)
    if rank < 2:
        return "a vector operand has no output channels"
    if node.op_type == "Einsum":
        terms = einsum_terms(node)
        if terms is None or terms.matrix_axes(index) is None:
            return "this Einsum is not a product with a matrix"
    other = node.inputs[1 - index] if node.op_type in ("Gemm", "MatMul", "Einsum") else None
    return "both operands are constant" if other is not None and trace(other) is not None else ""


def _reader_refusal(value: ir.Value, ports: set[tuple[ir.Node, int]], graph: ir.Graph) -> str:
    """Why a constant must be left alone because of who else reads it; "" if all readers are weight ports."""
    if value.is_graph_output():
        return "it is also an output of the model"
    for node, index in value.uses():
        if (node, index) in ports:
            continue
        if node.graph is not graph:
            return "it is also read inside a control-flow subgraph"
        if node.op_type not in (*RELAYOUTS, "DequantizeLinear") or index != 0:
            return f"it is also read by {model_label(node)} ({node.op_type}), which has no such channels"
        reason = _reader_refusal(node.outputs[0], ports, graph)
        if reason:
            return reason
    return ""


def _weight(
    name: str,
    value: ir.Value,
    uses: tuple[WeightUse, ...],
    shapes: Mapping[str, tuple[Dim, ...]],
    batch: int,
) -> Weight | None:
    """The weight as its first use sees it; None where another use sees other outputs, inputs or taps."""
    tensor = constant_tensor(value)
    assert tensor is not None
    views = [_view(name, tensor, (use,), shapes, batch) for use in uses]
    first = views[0]
    if first is None:
        return None
    for view in views[1:]:
        if view is None or not _same_view(first, view):
            return None
        if not _same_numbers(first.quantization, view.quantization):
            return None
    per_tap = [view.macs_per_tap for view in views if view is not None]
    macs = sum(m for m in per_tap if m is not None) if None not in per_tap else None
    return dataclasses.replace(first, uses=uses, macs_per_tap=macs)


def _same_numbers(one: Quantization | None, other: Quantization | None) -> bool:
    return one is None and other is None if one is None or other is None else one.agrees(other)


def _same_view(a: Weight, b: Weight) -> bool:
    if (a.outputs, a.inputs_per_group, a.taps, a.groups) != (b.outputs, b.inputs_per_group, b.taps, b.groups):
        return False
    ids = np.arange(math.prod(a.shape)).reshape(a.shape)
    return bool(np.array_equal(a.to_canonical(ids), b.to_canonical(ids)))


def _view(
    name: str,
    tensor: ir.TensorProtocol,
    uses: tuple[WeightUse],
    shapes: Mapping[str, tuple[Dim, ...]],
    batch: int,
) -> Weight | None:
    use = uses[0]
    stored = tuple(int(dim) for dim in tensor.shape.numpy())
    operand = stored
    for step in use.relayouts:
        operand = step.argument if step.kind == "reshape" else tuple(operand[axis] for axis in step.argument)
    output_axis, input_axis = _axes(use, len(operand))
    groups = use.node.attributes.get_int("group", 1) or 1
    outputs, inputs = operand[output_axis], operand[input_axis]
    if use.op_type == "ConvTranspose":
        outputs, inputs = outputs * groups, inputs // groups
    if outputs % groups or (use.op_type in ("Gemm", "Einsum") and len(operand) != 2):
        return None
    taps = math.prod(operand) // (operand[output_axis] * operand[input_axis])
    return Weight(
        name=name,
        shape=stored,
        dtype=tensor.dtype,
        uses=uses,
        groups=groups,
        outputs=outputs,
        inputs_per_group=inputs,
        taps=taps,
        is_convolution=use.op_type in ("Conv", "ConvTranspose"),
        macs_per_tap=_macs_per_tap(use, outputs, inputs * groups, taps, shapes, batch),
        operand_shape=operand,
        output_axis=output_axis,
        input_axis=input_axis,
        quantization=quantization_of(use.node.inputs[use.input_index])[0],
    )


def _axes(use: WeightUse, rank: int) -> tuple[int, int]:
    """(output axis, input axis) of the operand."""
    if use.op_type == "Conv":
        return 0, 1
    if use.op_type == "ConvTranspose":
        return 1, 0
    if use.op_type == "Einsum":
        terms = einsum_terms(use.node)
        axes = None if terms is None else terms.matrix_axes(use.input_index)
        assert axes is not None
        return axes
    rows_are_outputs = use.input_index == 0
    if use.op_type == "Gemm":
        flag = "transA" if use.input_index == 0 else "transB"
        rows_are_outputs ^= bool(use.node.attributes.get_int(flag, 0))
    return (rank - 2, rank - 1) if rows_are_outputs else (rank - 1, rank - 2)


def _macs_per_tap(
    use: WeightUse,
    outputs: int,
    inputs: int,
    taps: int,
    shapes: Mapping[str, tuple[Dim, ...]],
    batch: int,
) -> float | None:
    """How often a weight is multiplied per example: output positions (input positions for ConvTranspose)."""
    transposed = use.op_type == "ConvTranspose"
    value = use.node.inputs[0] if transposed else use.node.outputs[0]
    elements = 1
    for dim in shapes.get((value.name if value is not None else None) or "", (None,)):
        if not isinstance(dim, int):
            return None
        elements *= dim
    per_position = inputs if transposed else outputs * (taps if use.op_type == "MatMul" else 1)
    return elements / per_position / batch


def _require_finite(weight: Weight, value: ir.Value, source: str) -> None:
    quantization = weight.quantization
    tensor = constant_tensor(value if quantization is None else quantization.node.inputs[1])
    assert tensor is not None
    flat = tensor.numpy().reshape(-1)
    for start in range(0, flat.size, _FINITE_CHUNK):
        if not np.isfinite(flat[start : start + _FINITE_CHUNK]).all():
            raise ModelError(
                f"{source}: weight {weight.name!r} of node {weight.uses[0].node_label} holds NaN or infinite "
                "values; such a model cannot be evolved. Train or export it again."
            )


def _nested_weights(model: ir.Model, labels: Mapping[ir.Node, str]) -> list[Unprunable]:
    """Weights of subgraphs (If, Loop, Scan) and of local functions: seen, and left alone."""
    found: list[Unprunable] = []
    for node in model.graph:
        for graph in subgraphs(node):
            reason = f"it is inside the {node.op_type} subgraph of node {labels[node]}"
            found.extend(_all_ports(graph, labels[node], reason))
    for function in model.functions.values():
        found.extend(_all_ports(function.graph, function.name, f"it is inside function {function.name}"))
    return list({(item.name, item.node_label): item for item in found}.values())


def _all_ports(graph: ir.Graph, label: str, reason: str) -> list[Unprunable]:
    found: list[Unprunable] = []
    for node in graph:
        for index, _ in _ports(node):
            origin = trace(node.inputs[index])
            if origin is not None and origin.value.name:
                found.append(Unprunable(origin.value.name, label, reason))
        for inner in subgraphs(node):
            found.extend(_all_ports(inner, label, reason))
    return found
