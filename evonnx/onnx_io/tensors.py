"""The tensors of a model, wherever they are in it."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator

import onnx_ir as ir


def replace_tensors(
    model: ir.Model, kinds: tuple[type, ...], where: Callable[[ir.Value | None], bool] = lambda _: True
) -> None:
    """Arrays instead of tensors of some kinds, in place: they then depend on no message and no other file.

    Args:
        model: its initializers and attributes are looked at, in subgraphs and functions too.
        kinds: classes of the tensors to replace.
        where: which initializers; called with None for a tensor in an attribute.
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

    for graph in graphs_of(model):
        for value in graph.initializers.values():
            if value.const_value is not None and where(value):
                value.const_value = owned(value.const_value)
        for node in graph:
            for name, attribute in tuple(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref() and where(None):
                    node.attributes[name] = ir.AttrTensor(name, owned(attribute.as_tensor()))


def drop_weights(model: ir.Model) -> None:
    """Let go of all initializers of a model that is done with. Its nodes and values refer to each other, so
    without this the garbage collector would have to come along first."""
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            value.const_value = None


def forget_pages(tensor: ir.TensorProtocol | None) -> None:
    """Let go of the memory of a tensor that is mapped from a file; it is read again when touched."""
    raw = tensor.raw if isinstance(tensor, ir.ExternalTensor) else None
    if isinstance(raw, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        raw.madvise(mmap.MADV_DONTNEED)


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


def is_external(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor lies in another file."""
    return isinstance(tensor, ir.ExternalTensor)


def is_string(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor holds strings."""
    return tensor.dtype == ir.DataType.STRING
