"""A float32 copy of a float16 or bfloat16 model: the same graph, wide enough to compare small differences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from evonnx.onnx_io import Detached

_LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def is_low_precision(model: onnx.ModelProto) -> bool:
    """Whether any stored tensor, input or cast of the model is float16 or bfloat16."""
    return any(
        any(tensor.data_type in _LOW for tensor in graph.initializer)
        or any(value.type.tensor_type.elem_type in _LOW for value in graph.input)
        or any(
            (attribute.type == AttributeProto.TENSOR and attribute.t.data_type in _LOW)
            or (attribute.name in _TYPE_ATTRIBUTES and attribute.i in _LOW)
            for node in graph.node
            for attribute in node.attribute
        )
        for graph in _graphs(model.graph)
    )


def float32_copy(model: Detached) -> Detached:
    """A copy in which every float16 and bfloat16 tensor, type and cast target is float32; others stay."""
    copy = model.copy()
    for graph in _graphs(copy.proto.graph):
        for tensor in graph.initializer:
            _widen(copy, tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _LOW:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        _widen_attributes(copy, graph.node)
    for function in copy.proto.functions:
        _widen_attributes(copy, function.node)
    return copy


def _widen_attributes(model: Detached, nodes: Iterator[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen(model, attribute.t)
            elif (
                attribute.name in _TYPE_ATTRIBUTES
                and attribute.type == AttributeProto.INT
                and attribute.i in _LOW
            ):
                attribute.i = TensorProto.FLOAT


def _widen(model: Detached, tensor: TensorProto) -> None:
    if tensor.data_type in _LOW:
        model.set_values(tensor, model.values(tensor).astype(np.float32))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)
