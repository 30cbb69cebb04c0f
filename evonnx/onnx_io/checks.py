"""Checks on a parsed file before it is believed: tensor sizes, external data, names, order of nodes.

Everything here costs O(size of the graph) and never allocates what a tensor merely declares.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from evonnx.errors import ModelError
from evonnx.onnx_io.ranges import check_ranges


def check_proto(proto: onnx.ModelProto, file: Path, elsewhere: Collection[str] = ()) -> None:
    """Refuse a model whose tensors, names or order cannot be right.

    Args:
        proto: the message.
        file: what to call it in messages.
        elsewhere: initializers whose values, known to fit their shapes, are not in the message.

    Raises:
        ModelError: naming the tensor or node at fault.
    """
    _check_graph(proto.graph, file, outer=frozenset(), elsewhere=elsewhere)
    check_ranges(proto, file)
    for function in proto.functions:
        for node in function.node:
            for attribute in node.attribute:
                _check_attribute_tensors(attribute, node, file)


def _check_graph(
    graph: onnx.GraphProto, file: Path, outer: frozenset[str], elsewhere: Collection[str] = ()
) -> None:
    if graph.sparse_initializer:
        raise ModelError(
            f"{file} stores {graph.sparse_initializer[0].values.name!r} as a sparse initializer, which "
            "evonnx does not read. Store it as a dense initializer."
        )
    initializers = _unique((t.name for t in graph.initializer), "initializer", file)
    inputs = _unique((i.name for i in graph.input), "graph input", file)
    for tensor in graph.initializer:
        if tensor.name not in elsewhere:
            _check_tensor(tensor, f"initializer {tensor.name!r}", file)
    known = set(outer) | initializers | inputs
    produced_by = _producers(graph, known - outer, file)
    for position, node in enumerate(graph.node):
        for name in node.input:
            if name and name not in known:
                _refuse_order(graph, name, node, position, produced_by, file)
        for attribute in node.attribute:
            _check_attribute_tensors(attribute, node, file)
            for subgraph in _subgraphs(attribute):
                _check_graph(subgraph, file, frozenset(known))
        known.update(name for name in node.output if name)
    for output in graph.output:
        if output.name not in known:
            raise ModelError(
                f"{file} declares an output {output.name!r} that no node makes. Export it again."
            )


def _producers(graph: onnx.GraphProto, taken: set[str], file: Path) -> dict[str, int]:
    made: dict[str, int] = {}
    for position, node in enumerate(graph.node):
        for name in node.output:
            if not name:
                continue
            if name in made or name in taken:
                raise ModelError(
                    f"{file} is not a valid graph: the tensor name {name!r} is used twice (node "
                    f"{_label(node, position)}). Export it again with unique names."
                )
            made[name] = position
    return made


def _refuse_order(
    graph: onnx.GraphProto, name: str, node: onnx.NodeProto, position: int, made: dict[str, int], file: Path
) -> None:
    label = _label(node, position)
    if name not in made:
        raise ModelError(f"{file} is not a valid graph: node {label} reads {name!r}, which nothing makes.")
    if _reaches(graph, made, start=made[name], goal=position):
        raise ModelError(
            f"{file} is not a valid graph: node {label} is part of a cycle through {name!r}. Export it again."
        )
    raise ModelError(
        f"{file} is not a valid graph: node {label} reads {name!r} before it is made; nodes must be in "
        "order. Sort the nodes topologically or export it again."
    )


def _reaches(graph: onnx.GraphProto, made: dict[str, int], start: int, goal: int) -> bool:
    """Whether node `start` needs, directly or not, an output of node `goal`."""
    seen, stack = set[int](), [start]
    while stack:
        position = stack.pop()
        if position == goal:
            return True
        if position not in seen:
            seen.add(position)
            stack.extend(made[name] for name in graph.node[position].input if name in made)
    return False


def _check_attribute_tensors(attribute: onnx.AttributeProto, node: onnx.NodeProto, file: Path) -> None:
    if attribute.type in (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS):
        raise ModelError(
            f"{file}: node {node.name or node.op_type!r} holds a sparse tensor, which evonnx does not read."
        )
    tensors = [attribute.t] if attribute.type == onnx.AttributeProto.TENSOR else list(attribute.tensors)
    for tensor in tensors:
        _check_tensor(
            tensor, f"the constant in node {node.name or (node.output[0] if node.output else '')!r}", file
        )


def _check_tensor(tensor: onnx.TensorProto, what: str, file: Path) -> None:
    if (
        tensor.data_type not in ir.DataType.__members__.values()
        or tensor.data_type == onnx.TensorProto.UNDEFINED
    ):
        raise ModelError(f"{file}: {what} has an unknown element type ({tensor.data_type}). Export it again.")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{file}: {what} has a negative dimension, {list(tensor.dims)}. Export it again.")
    dtype = ir.DataType(tensor.data_type)
    count = math.prod(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, math.ceil(count * dtype.bitwidth / 8), what, file)
    elif dtype == ir.DataType.STRING:
        if len(tensor.string_data) != count:
            raise _size_error(tensor, what, len(tensor.string_data), count, "strings", file)
    elif tensor.HasField("raw_data"):
        want = math.ceil(count * dtype.bitwidth / 8)
        if len(tensor.raw_data) != want:
            raise _size_error(tensor, what, len(tensor.raw_data), want, "bytes", file)
    else:
        have, want = _typed_elements(tensor, dtype, count)
        if have != want:
            raise _size_error(tensor, what, have, want, "elements", file)


def _typed_elements(tensor: onnx.TensorProto, dtype: ir.DataType, count: int) -> tuple[int, int]:
    """(stored, needed) entries of the typed field that the standard assigns to this element type."""
    if dtype in (ir.DataType.FLOAT, ir.DataType.COMPLEX64):
        return len(tensor.float_data), count * (2 if dtype == ir.DataType.COMPLEX64 else 1)
    if dtype in (ir.DataType.DOUBLE, ir.DataType.COMPLEX128):
        return len(tensor.double_data), count * (2 if dtype == ir.DataType.COMPLEX128 else 1)
    if dtype == ir.DataType.INT64:
        return len(tensor.int64_data), count
    if dtype in (ir.DataType.UINT32, ir.DataType.UINT64):
        return len(tensor.uint64_data), count
    per_entry = max(1, 8 // dtype.bitwidth) if dtype.bitwidth in (2, 4) else 1
    return len(tensor.int32_data), math.ceil(count / per_entry)


def _check_external(tensor: onnx.TensorProto, want: int, what: str, file: Path) -> None:
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    advice = "Put the data file into the model's folder, or save the model again with its data."
    if not location:
        raise ModelError(f"{file}: {what} is external but names no file. {advice}")
    folder = file.absolute().parent
    target = folder / location
    outside = Path(location).is_absolute() or not target.resolve().is_relative_to(folder.resolve())
    if outside or ".." in Path(location).parts:
        raise ModelError(f"{file}: {what} points to data outside the model's folder ({location!r}). {advice}")
    if not target.is_file():
        raise ModelError(f"{file}: the external data file {location!r} of {what} is missing. {advice}")
    stat = target.stat()
    if stat.st_nlink > 1:
        raise ModelError(
            f"{file}: the external data file {location!r} has several hard links. Copy it instead."
        )
    offset, length = _integer(info, "offset", 0, what, file), _integer(info, "length", want, what, file)
    if length != want or offset + want > stat.st_size:
        raise ModelError(
            f"{file}: {what} needs {want} bytes at offset {offset} of {location!r}, which declares {length} "
            f"and has {stat.st_size} in all. The data file is truncated or belongs to another model."
        )


def _integer(info: dict[str, str], key: str, default: int, what: str, file: Path) -> int:
    text = info.get(key) or str(default)
    if not text.isdecimal():
        raise ModelError(
            f"{file}: {what} has external data with {key} {text!r}, which is no size. Export it again."
        )
    return int(text)


def _size_error(
    tensor: onnx.TensorProto, what: str, have: int, want: int, unit: str, file: Path
) -> ModelError:
    return ModelError(
        f"{file}: {what} of shape {list(tensor.dims)} needs {want} {unit} and the file holds {have}. "
        "The file is damaged; download or export it again."
    )


def _unique(names: Iterable[str], kind: str, file: Path) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ModelError(f"{file} is not a valid graph: two {kind}s are named {name!r}. Export it again.")
        seen.add(name)
    return seen


def _subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs


def _label(node: onnx.NodeProto, position: int) -> str:
    return node.name or f"{node.op_type}#{position}"
