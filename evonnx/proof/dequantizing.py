"""A copy of a quantised model without its rounding: what small differences can be compared in.

At a quantisation step a difference of 1e-7 becomes one of 1/255, and grows from there. In the copy constants
behind DequantizeLinear are the numbers they stand for; on activations QuantizeLinear is a Clip to what its
integers can hold (quantisers let it do a Relu's work) and DequantizeLinear an Identity. Zeros stay zeros, and
names stay, so that what is cut where can be followed.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from evonnx.onnx_io import Detached
from evonnx.proof.constants import Tensors

_CARRIERS = (
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Concat",
    "Split",
    "Slice",
    "Gather",
    "Identity",
    "MaxPool",
    "Pad",
    "Resize",
    "DepthToSpace",
    "SpaceToDepth",
    "Expand",
    "Tile",
)
"""Operators that pass quantised numbers on, and take floating-point ones as well."""


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the main graph dequantises anything."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def dequantized_copy(model: Detached) -> Detached:
    """See the top of the file; a QuantizeLinear whose integers are computed with stays as it is."""
    copy = model.copy()
    graph = copy.proto.graph
    stored = Tensors(copy)
    opened = _opened(graph)
    numbers: dict[str, np.ndarray] = {}
    limits: dict[str, tuple[float, float] | None] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in opened:
            limits[node.output[0]] = _clip(node, stored)
        elif node.op_type == "DequantizeLinear" and node.input[0] in opened:
            _identity(node)
        elif node.op_type == "DequantizeLinear" and node.input[0] in stored:
            values = _dequantize(node, stored)
            if values is not None:
                numbers[node.input[0]] = values
                _identity(node)
    for name, pair in limits.items():
        for side, limit in zip(("lowest", "highest"), pair or (), strict=False):
            graph.initializer.append(numpy_helper.from_array(np.asarray(limit, np.float32), f"{name}_{side}"))
    for name, values in numbers.items():
        stored.set(name, values)
    for value in (*graph.input, *graph.output):
        if value.name in opened or value.name in numbers:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    return copy


def _opened(graph: onnx.GraphProto) -> set[str]:
    """Quantised activations that nothing computes with as integers: each leads from QuantizeLinear to
    DequantizeLinear or an output, through operators that only pass numbers on."""
    candidates: set[str] = set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" or (node.op_type in _CARRIERS and node.input[0] in candidates):
            candidates.update(node.output)
    while True:
        closed = {
            name
            for node in graph.node
            for name in (*node.input, *node.output)
            if name in candidates and not _passes(node, candidates)
        }
        if not closed:
            return candidates
        candidates -= closed


def _passes(node: onnx.NodeProto, candidates: set[str]) -> bool:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return True
    data = node.input if node.op_type == "Concat" else node.input[:1]
    return node.op_type in _CARRIERS and all(name in candidates for name in (*data, *node.output) if name)


def _clip(node: onnx.NodeProto, stored: Tensors) -> tuple[float, float] | None:
    """Turn a QuantizeLinear into a Clip, whose limits are returned; into an Identity where they vary."""
    parameters = [stored.get(name) for name in node.input[1:] if name in stored]
    if len(parameters) != 2 or any(one.size != 1 for one in parameters):
        _identity(node)
        return None
    scale, zero = float(parameters[0].item()), int(parameters[1].item())
    _identity(node)
    node.op_type = "Clip"
    node.input.extend([f"{node.output[0]}_lowest", f"{node.output[0]}_highest"])
    range_ = np.iinfo(str(parameters[1].dtype))
    return (int(range_.min) - zero) * scale, (int(range_.max) - zero) * scale


def _identity(node: onnx.NodeProto) -> None:
    node.op_type = "Identity"
    del node.input[1:]
    del node.attribute[:]


def _dequantize(node: onnx.NodeProto, stored: Tensors) -> np.ndarray | None:
    """The numbers behind a DequantizeLinear of a constant; None where its parameters are not constants."""
    if any(name and name not in stored for name in node.input):
        return None
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    integers = stored.get(node.input[0])
    parameters = [stored.get(name) for name in node.input[1:] if name]
    if attributes.get("block_size"):
        axis, size = attributes.get("axis", 1), attributes["block_size"]
        parameters = [
            np.repeat(one, size, axis=axis).take(range(integers.shape[axis]), axis) for one in parameters
        ]
    elif parameters[0].size > 1:
        place = [1] * integers.ndim
        place[attributes.get("axis", 1)] = -1
        parameters = [one.reshape(place) for one in parameters]
    else:
        parameters = [one.reshape(()) for one in parameters]
    shifted = integers.astype(np.int64)
    if len(parameters) > 1:
        shifted = shifted - parameters[1].astype(np.int64)
    return (shifted * parameters[0].astype(np.float64)).astype(np.float32)
