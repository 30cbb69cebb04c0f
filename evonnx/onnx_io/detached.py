"""A model whose large weights stand beside its message, as the arrays that they are.

Protobuf copies a weight whenever it is written, read or serialised. What only runs a model, or changes its
weights, has no need of that: onnxruntime takes the arrays as they are (`sessions.make_session`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from evonnx.errors import ModelError
from evonnx.onnx_io.mapping import MappedTensor, forget_pages, is_mapped
from evonnx.onnx_io.message import last_line, proto_of
from evonnx.onnx_io.spooling import Spool
from evonnx.onnx_io.tensors import is_string, replace_tensors, tensors_of

LARGE = 1024
"""Bytes from which an initializer stands beside the message."""
PLAIN = "fiub"
"""Kinds of numpy dtypes that onnxruntime takes from an array; others stay in the message."""
BESIDE = "beside"
"""The external file that the message names, and that nobody reads. onnxruntime and the checker ask that it
is there."""


@dataclass(frozen=True)
class Detached:
    """A message and arrays. Arrays may be shared with other models: replace them, never write to them."""

    proto: onnx.ModelProto
    """Initializers named in `arrays` have shape and type there, and no values."""
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    """Initializers of the main graph, by name."""
    spool: Spool | None = None
    """Where arrays go that are set; None: they stay in memory."""

    def copy(self) -> Detached:
        """A copy of the message with the same arrays, and a spool of its own where this one has one."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return Detached(proto, dict(self.arrays), self.spool and self.spool.another())

    def spooled(self, folder: Path, *, move: bool = False) -> Detached:
        """The same model, of which arrays that are set from now on lie in a file of the folder, and so do
        those of copies.

        Args:
            folder: where the file is.
            move: put into it what is in memory now, too. That helps where nobody else has it.

        Raises:
            OSError: there can't be one, or there is no room.
        """
        spool = Spool(folder, self.nbytes)
        arrays = {
            name: spool.put(name, array) if move and not is_mapped(array) else array
            for name, array in self.arrays.items()
        }
        return Detached(self.proto, arrays, spool)

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def forget(self) -> None:
        """Let go of the memory of arrays that are mapped from files, until they are touched."""
        for array in self.arrays.values():
            forget_pages(array)

    def values(self, tensor: onnx.TensorProto) -> NDArray[np.generic]:
        """The values of a tensor of the message, wherever they are."""
        found = self.arrays.get(tensor.name) if _is_beside(tensor) else None
        return numpy_helper.to_array(tensor) if found is None else found

    def set_values(self, tensor: onnx.TensorProto, values: NDArray[np.generic]) -> None:
        """Give a tensor of the message other values; shape and type may change.

        Raises:
            OSError: they belong into the model's spool, and there is no room for them.
        """
        name, values = tensor.name, np.ascontiguousarray(values).reshape(values.shape)
        if not _is_beside(tensor):
            tensor.CopyFrom(numpy_helper.from_array(values, name))
            return
        if self.spool is not None:
            forget_pages(self.arrays[name])
            values = self.spool.put(name, values)
        self.arrays[name] = values
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        del tensor.dims[:]
        tensor.dims.extend(values.shape)


def detach(model: ir.Model) -> Detached:
    """A model's message and its large weights, which are shared with it; the model itself is not changed.

    Data of external files is taken in.

    Raises:
        ModelError: the model cannot be written as ONNX.
    """
    try:
        shell = model.clone()
    except RuntimeError as error:  # onnx_ir's word for a graph whose nodes read what nothing makes
        raise ModelError(f"The model cannot be written as ONNX: {last_line(error)}.") from error
    outside = (ir.ExternalTensor, MappedTensor)
    if any(isinstance(tensor, outside) for tensor in tensors_of(shell)):
        replace_tensors(shell, outside)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, value in shell.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < LARGE or is_string(tensor) or not _has_bytes(tensor):
            continue
        array = tensor.numpy()
        if array.dtype.kind not in PLAIN:
            continue
        arrays[name] = np.ascontiguousarray(array)
        value.const_value = ir.ExternalTensor(
            BESIDE,
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
    return Detached(proto_of(shell), arrays)


def _has_bytes(tensor: ir.TensorProtocol) -> bool:
    """False where the user's file has a list of numbers, which stays one."""
    return not isinstance(tensor, ir.serde.TensorProtoTensor) or tensor.raw.HasField("raw_data")


def _is_beside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)
