"""ONNX files in and out: read with every check that a stranger's file needs, written atomically.

Files are not trusted. `load_model` looks at sizes, names and external data before anything is allocated;
every refusal is a `ModelError` naming the file. Weights in external files stay there, memory-mapped on use.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from evonnx.durable import digest_of, write_whole
from evonnx.errors import ModelError
from evonnx.onnx_io.bounds import check_bulk, check_counts, operators_in
from evonnx.onnx_io.checks import check_proto
from evonnx.onnx_io.detached import Detached, detach
from evonnx.onnx_io.mapping import is_external, map_external
from evonnx.onnx_io.message import VALUE_INFO, last_line, proto_of
from evonnx.onnx_io.reading import read_message
from evonnx.onnx_io.tensors import graphs_of, is_string, replace_tensors, tensors_of
from evonnx.onnx_io.unloading import unloadable, unloaded
from evonnx.onnx_io.versions import DEFAULT_DOMAINS, check_versions
from evonnx.onnx_io.wire import chunks

_EXTERNAL_FROM_BYTES = 1_500_000_000
"""Above this, weights go beside the file: a protobuf message ends at 2 GB."""
_MESSAGE_BYTES = 1 << 31
_OWN_FROM_BYTES = 1 << 26
"""Above this, tensors are taken out of the parsed message, which copies them each time they are looked at."""
LOOPS = ("Loop", "Scan")
"""Operators that run a graph again and again."""
_USUAL_TENSORS = (ir.Tensor, ir.serde.TensorProtoTensor)


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file.

    External data must lie in the model's folder; it is checked for size here and mapped when touched.

    Raises:
        ModelError: the file is missing, not ONNX, truncated, too new for the installed onnxruntime, has
            missing or misplaced external data, data that does not fit a shape, duplicate names or a cycle.
    """
    file = Path(path)
    check_bulk(file)
    proto, arrays = _parse(file)
    check_counts(proto, file)
    check_versions(proto, file)
    check_proto(proto, file, arrays.keys())
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises many kinds; all of them mean that the file is unusable
        raise ModelError(
            f"{file} cannot be read as an ONNX model: {last_line(error)}. Export it again."
        ) from error
    folder = file.absolute().parent
    try:
        map_external(model, folder)
    except OSError as error:
        raise ModelError(f"{file}: its external data cannot be read: {error.strerror or error}.") from error
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, folder)
    _mark_value_info(model, proto)
    for name, array in arrays.items():
        _put_values(model.graph.initializers[name], array)
    if file.stat().st_size > _OWN_FROM_BYTES:  # the message itself would be serialised to tell
        replace_tensors(model, (ir.serde.TensorProtoTensor,))
    return model


def has_loops(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds a Loop or Scan: what a graph without them costs is told by its shapes.

    False where there is no file, or an empty one: that is for whoever reads it to say.

    Raises:
        ModelError: the file is no regular one, or too large; or it may hold one, and is no model.
    """
    file = Path(path)
    check_bulk(file)
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not any(data.find(name.encode()) >= 0 for name in LOOPS):  # far quicker than to parse it
                return False
    except (OSError, ValueError):
        return False
    proto, _ = _parse(file)
    return any(kind in LOOPS for graph in (proto.graph, *proto.functions) for _, kind in operators_in(graph))


def save_model(model: ir.Model, path: str | os.PathLike[str], detached: Detached | None = None) -> None:
    """Write a model atomically and deterministically; the model itself is not changed.

    Weights are stored inside the file, also where they came from an external one; above about 1.5 GB they
    go to `<file name>.data` beside it. No path of this machine is written.

    Args:
        model: to write.
        path: where.
        detached: the same model, where somebody has it at hand.

    Raises:
        ModelError: the file cannot be written.
    """
    file = Path(path)
    try:
        if _data_bytes(model) > _EXTERNAL_FROM_BYTES:
            beside = _beside(file)
            shell, data = unloaded(model, beside.name)
            write_whole(beside, *data)
            write_whole(file, proto_of(shell).SerializeToString(deterministic=True))
        else:
            write_whole(file, *chunks(detached or detach(model)))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(
            f"Cannot write {file}: {reason}. Choose another output path or free some space."
        ) from error


def external_files(path: Path) -> tuple[str, ...]:
    """Names, relative to its folder, of the files beside a model's own that hold weights of it.

    Args:
        path: of a model that `load_model` takes.
    """
    found = {str(one.location) for one in tensors_of(ir.load(path)) if isinstance(one, ir.ExternalTensor)}
    return tuple(sorted(found))


def model_digest(path: Path) -> str:
    """SHA-256 of a model's content: of its file, and where weights lie in others, of all files together.

    Args:
        path: of a model that `load_model` takes.
    """
    outside = external_files(path)
    if not outside:
        return digest_of(path)
    parts = [digest_of(path), *(f"{name} {digest_of(path.parent / name)}" for name in outside)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def written_bytes(model: ir.Model) -> int:
    """How many bytes `save_model` writes, a second file with weights included; none are put together."""
    return sum(map(len, chunks(detach(model))))


def to_bytes(model: ir.Model) -> bytes:
    """The serialized model with all its weights inside: what `save_model` writes for models below 1.5 GB.

    Raises:
        ModelError: the model exceeds the 2 GB of a protobuf message.
    """
    data = chunks(detach(model))
    if sum(map(len, data)) >= _MESSAGE_BYTES:
        raise ModelError("The model exceeds the 2 GB of one ONNX message; save it to a file.")
    return b"".join(data)


def model_label(node: ir.Node) -> str:
    """What to call a node in messages: its name, or `OpType#position` in its graph where it has none."""
    if node.name:
        return node.name
    graph = node.graph
    position = next((i for i, other in enumerate(graph) if other is node), 0) if graph is not None else 0
    return f"{node.op_type}#{position}"


def node_labels(graph: ir.Graph) -> dict[ir.Node, str]:
    """`model_label` of every node of a graph (subgraphs not included), in one pass."""
    return {node: node.name or f"{node.op_type}#{position}" for position, node in enumerate(graph)}


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind an initializer or the output of a Constant node; None for any other value."""
    if value is None:
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS:
        return None
    for name, attribute in node.attributes.items():
        if name == "value":
            found = attribute.value
            # Asking for one of the usual classes is a hundred times faster than for the protocol.
            return found if isinstance(found, _USUAL_TENSORS) else attribute.as_tensor()
        if name in ("value_float", "value_floats"):
            return ir.tensor(np.asarray(attribute.value, dtype=np.float32), name=value.name)
        if name in ("value_int", "value_ints"):
            return ir.tensor(np.asarray(attribute.value, dtype=np.int64), name=value.name)
    return None


def constant_values(model: ir.Model) -> Iterator[tuple[str, ir.Value, ir.TensorProtocol]]:
    """(name, value, tensor) of every initializer and Constant node of the main graph, in graph order."""
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            yield name, value, value.const_value
    for node in model.graph:
        if node.op_type == "Constant":
            value = node.outputs[0]
            tensor = constant_tensor(value)
            if value.name and tensor is not None:
                yield value.name, value, tensor


def initializer_arrays(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    """Every constant of the main graph by tensor name, initializer or Constant node, as stored."""
    return {name: tensor.numpy() for name, _, tensor in constant_values(model) if not is_string(tensor)}


def set_array(model: ir.Model, name: str, array: NDArray[np.generic]) -> None:
    """Replace the data of an initializer or Constant node, in place; the shape may change, the dtype may not.

    Raises:
        ModelError: the model has no such constant, or the dtype differs.
    """
    value = find_constant(model, name)
    tensor = constant_tensor(value)
    if value is None or tensor is None:
        raise ModelError(f"The model has no initializer or Constant node named {name!r}.")
    if array.dtype != tensor.dtype.numpy():
        raise ModelError(
            f"{name!r} is stored as {tensor.dtype.name}; an array of {array.dtype} cannot replace it."
        )
    fresh = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=tensor.dtype, name=name)
    if value.is_initializer():
        value.const_value = fresh
        value.shape = ir.Shape(array.shape)
        return
    node = value.producer()
    assert node is not None
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", fresh)
    if value.shape is not None:
        value.shape = ir.Shape(array.shape)


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """Bodies of a control-flow node (If, Loop, Scan), one level down."""
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs.extend(attribute.as_graphs())
    return graphs


def find_constant(model: ir.Model, name: str) -> ir.Value | None:
    """The value of an initializer or Constant node of the main graph, by tensor name."""
    value = model.graph.initializers.get(name)
    if value is not None:
        return value
    for node in model.graph:
        if node.op_type == "Constant" and node.outputs[0].name == name:
            return node.outputs[0]
    return None


def stored_parameters(model: ir.Model) -> int:
    """Elements of all floating-point constants, zeros included, those of subgraphs and functions too.

    Integers that a DequantizeLinear turns into such numbers count like them.
    """
    dequantized = {
        id(constant_tensor(node.inputs[0]))
        for graph in graphs_of(model)
        for node in graph
        if node.op_type == "DequantizeLinear"
    }
    return sum(
        tensor.size
        for tensor in tensors_of(model)
        if tensor.dtype.is_floating_point() or id(tensor) in dequantized
    )


def stored_bytes(path: str | os.PathLike[str], model: ir.Model) -> int:
    """Size of a model's file and of its tensors in external files.

    Args:
        path: the file.
        model: what it holds, as read from it or as `save_model` wrote it.
    """
    file = Path(path)
    size = file.stat().st_size
    outside = sum(tensor.nbytes for tensor in tensors_of(model) if is_external(tensor))
    # In memory, and written with its weights beside: computed constants, too, may be more than a file holds.
    if not outside and size < _data_bytes(model) and _beside(file).is_file():
        outside = sum(tensor.nbytes for tensor in unloadable(model))
    return size + outside


def _parse(file: Path) -> tuple[onnx.ModelProto, dict[str, NDArray[np.generic]]]:
    """The message in a file, and the values that are left out of it (see `reading`)."""
    try:
        if file.is_file() and not file.stat().st_size:
            raise ModelError(f"{file} is empty; it holds no ONNX model. Download or export it again.")
        proto, arrays = read_message(file)
    except FileNotFoundError:
        raise ModelError(f"{file} does not exist; check the path of the model.") from None
    except IsADirectoryError:
        raise ModelError(f"{file} is a folder; give the .onnx file inside it.") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except DecodeError as error:
        raise ModelError(
            f"{file} is not an ONNX file, or is truncated ({file.stat().st_size} bytes do not parse). "
            "Download or export it again."
        ) from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{file} is not an ONNX file: it holds no graph. Check that this is the right file.")
    return proto, arrays


def _put_values(value: ir.Value, array: NDArray[np.generic]) -> None:
    """Give an initializer the values that were left out of its message."""
    shell = value.const_value
    assert shell is not None
    value.const_value = ir.Tensor(
        array,
        dtype=shell.dtype,
        name=shell.name,
        doc_string=shell.doc_string,
        metadata_props=dict(shell.metadata_props),
    )


def _mark_value_info(model: ir.Model, proto: onnx.ModelProto) -> None:
    declared = {info.name for info in proto.graph.value_info}
    for name, value in model.graph.initializers.items():
        if name in declared:
            value.meta[VALUE_INFO] = True


def _beside(file: Path) -> Path:
    """Where `save_model` puts weights that do not fit into a file."""
    return file.with_name(f"{file.name}.data")


def _data_bytes(model: ir.Model) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(model) if not is_string(tensor))
