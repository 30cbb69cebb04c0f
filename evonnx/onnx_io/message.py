"""A model as a protobuf message, with no more in it than the user's own file had."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from evonnx.errors import ModelError

VALUE_INFO = "evonnx.value_info"
"""Marks (in `ir.Value.meta`, never in a file) an initializer whose value_info the user wrote."""


def proto_of(model: ir.Model) -> onnx.ModelProto:
    """The message that describes a model.

    Raises:
        ModelError: the model cannot be written as ONNX.
    """
    try:
        proto = ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise ModelError(f"The model cannot be written as ONNX: {last_line(error)}.") from error
    kept = {n for g in model.graphs() for n, v in g.initializers.items() if VALUE_INFO in v.meta}
    _drop_added_value_info(proto.graph, kept)
    return proto


def _drop_added_value_info(graph: onnx.GraphProto, kept: set[str]) -> None:
    """onnx_ir writes value_info for every initializer; keep only what the user's file had."""
    added = {tensor.name for tensor in graph.initializer} - kept
    infos = [info for info in graph.value_info if info.name not in added]
    if len(infos) != len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(infos)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _drop_added_value_info(attribute.g, kept)
            for subgraph in attribute.graphs:
                _drop_added_value_info(subgraph, kept)


def last_line(error: BaseException) -> str:
    """The innermost cause: onnx_ir wraps errors once per level of nesting."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def first_line(error: BaseException) -> str:
    """What an error says first, without a final full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]
