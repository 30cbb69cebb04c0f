"""The tensors of a model, wherever they are in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir


def map_tensors(
    model: ir.Model,
    function: Callable[[ir.TensorProtocol], ir.TensorProtocol],
    where: Callable[[ir.Value | None], bool] = lambda _: True,
) -> None:
    """Other tensors instead of those of a model, in place.

    Args:
        model: its initializers and attributes are looked at, in subgraphs and functions too.
        function: from a tensor to the one that takes its place.
        where: which initializers; called with None for a tensor in an attribute.
    """
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            if value.const_value is not None and where(value):
                value.const_value = function(value.const_value)
        for node in graph:
            for name, attribute in tuple(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref() and where(None):
                    tensor = attribute.as_tensor()
                    other = function(tensor)
                    if other is not tensor:
                        node.attributes[name] = ir.AttrTensor(name, other)


def replace_tensors(
    model: ir.Model, kinds: tuple[type, ...], where: Callable[[ir.Value | None], bool] = lambda _: True
) -> None:
    """Arrays instead of tensors of some kinds, in place: they then depend on no message.

    Args:
        model: as for `map_tensors`.
        kinds: classes of the tensors to replace.
        where: as for `map_tensors`.
    """

    def owned(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, kinds) or is_string(tensor):
            return tensor
        return ir.Tensor(
            tensor.numpy(),
            dtype=tensor.dtype,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )

    map_tensors(model, owned, where)


def drop_weights(model: ir.Model) -> None:
    """Let go of all initializers of a model that is done with. Its nodes and values refer to each other, so
    without this the garbage collector would have to come along first."""
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            value.const_value = None


def graphs_of(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, all subgraphs, and those of local functions."""
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.graph.subgraphs()


def tensors_of(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """All tensors that a model holds: initializers and attributes of nodes, in every graph."""
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.as_tensor()


def is_string(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor holds strings."""
    return tensor.dtype == ir.DataType.STRING
