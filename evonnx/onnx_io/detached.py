"""A model whose large weights stand beside its message, as the arrays that they are.

Protobuf copies a weight whenever it is written, read or serialised. What only runs a model, or changes its
weights, has no need of that: onnxruntime takes the arrays as they are (`sessions.make_session`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from evonnx.errors import ModelError
from evonnx.onnx_io.message import last_line, proto_of
from evonnx.onnx_io.tensors import is_external, is_string, replace_tensors, tensors_of

LARGE = 1024
"""Bytes from which an initializer stands beside the message."""
PLAIN = "fiub"
"""Kinds of numpy dtypes that onnxruntime takes from an array; others stay in the message."""
BESIDE = "beside"
"""The external file that the message names, and that nobody opens."""


@dataclass(frozen=True)
class Detached:
    """A message and arrays. Arrays may be shared with other models: replace them, never write to them."""

    proto: onnx.ModelProto
    """Initializers named in `arrays` have shape and type there, and no values."""
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    """Initializers of the main graph, by name."""

    def copy(self) -> Detached:
        """A copy of the message with the same arrays."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return Detached(proto, dict(self.arrays))

    def values(self, tensor: onnx.TensorProto) -> NDArray[np.generic]:
        """The values of a tensor of the message, wherever they are."""
        found = self.arrays.get(tensor.name) if _is_beside(tensor) else None
        return numpy_helper.to_array(tensor) if found is None else found

    def set_values(self, tensor: onnx.TensorProto, values: NDArray[np.generic]) -> None:
        """Give a tensor of the message other values; shape and type may change."""
        name, values = tensor.name, np.ascontiguousarray(values).reshape(values.shape)
        if not _is_beside(tensor):
            tensor.CopyFrom(numpy_helper.from_array(values, name))
            return
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
    if any(map(is_external, tensors_of(shell))):
        replace_tensors(shell, (ir.ExternalTensor,))
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
