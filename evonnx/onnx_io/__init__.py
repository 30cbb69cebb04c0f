"""Files in and out: an ONNX file becomes a checked model, a model a file renamed into place."""

from evonnx.onnx_io.detached import Detached, detach
from evonnx.onnx_io.files import (
    LOOPS,
    constant_tensor,
    constant_values,
    external_files,
    find_constant,
    has_loops,
    initializer_arrays,
    load_model,
    model_digest,
    model_label,
    node_labels,
    save_model,
    set_array,
    stored_bytes,
    stored_parameters,
    subgraphs,
    to_bytes,
    written_bytes,
)
from evonnx.onnx_io.mapping import MappedTensor, forget_pages
from evonnx.onnx_io.standard import check_detached, check_file
from evonnx.onnx_io.tensors import drop_weights
from evonnx.onnx_io.versions import newest_supported

__all__ = [
    "LOOPS",
    "Detached",
    "MappedTensor",
    "check_detached",
    "check_file",
    "constant_tensor",
    "constant_values",
    "detach",
    "drop_weights",
    "external_files",
    "find_constant",
    "forget_pages",
    "has_loops",
    "initializer_arrays",
    "load_model",
    "model_digest",
    "model_label",
    "newest_supported",
    "node_labels",
    "save_model",
    "set_array",
    "stored_bytes",
    "stored_parameters",
    "subgraphs",
    "to_bytes",
    "written_bytes",
]
