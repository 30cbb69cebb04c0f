"""Weights beside a model's file: written from where they are, one after another, and never all copied."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from evonnx.onnx_io.mapping import MappedTensor, is_external
from evonnx.onnx_io.tensors import graphs_of, is_string, replace_tensors

Chunk = bytes | memoryview
_LARGE = 1024
"""Bytes from which an initializer is written beside the file."""
_PAGE = 4096
"""Where a weight begins is a multiple of this, so that it can be mapped."""


def unloaded(model: ir.Model, location: str) -> tuple[ir.Model, list[Chunk]]:
    """A copy of a model whose large initializers are in the file `location`, and the content of that file.

    Chunks share memory with the model. External data in attributes and of small initializers is taken in.
    """
    shell = model.clone()
    replace_tensors(shell, (ir.ExternalTensor, MappedTensor), where=lambda value: value is None)
    chunks: list[Chunk] = []
    end = 0
    for graph in graphs_of(shell):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or is_string(tensor):
                continue
            if tensor.nbytes < _LARGE:
                if is_external(tensor):
                    value.const_value = ir.Tensor(
                        np.array(tensor.numpy()), dtype=tensor.dtype, name=tensor.name
                    )
                continue
            gap = -end % _PAGE
            chunks += [bytes(gap), _content(tensor)]
            value.const_value = ir.ExternalTensor(
                location,
                end + gap,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(tensor.name),
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
            )
            end += gap + tensor.nbytes
    return shell, chunks


def unloadable(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """What `unloaded` takes out of a model."""
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and not is_string(tensor) and tensor.nbytes >= _LARGE:
                yield tensor


def _content(tensor: ir.TensorProtocol) -> Chunk:
    array = tensor.numpy()
    if array.dtype.itemsize * 8 != tensor.dtype.bitwidth:  # several to a byte
        return tensor.tobytes()
    array = np.ascontiguousarray(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data
