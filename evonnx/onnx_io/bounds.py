"""How large a file may be: in bytes before it is read, in memory before it is parsed, in nodes before it is
looked at.

Protobuf makes a hundred bytes and more of an empty message, which is two bytes in the file, and eight of a
small number in a list. The estimate looks at tags and lengths of the wire format only; weights are passed
over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from evonnx.errors import ModelError
from evonnx.untrusted import fault_of_file

MOST_NODES = 100_000
"""In all graphs together, several times what the largest known models have: about 10 s of analysis."""
MOST_EDGES = 1_000_000
"""Inputs and outputs of nodes, initializers and attributes, likewise."""
_MESSAGE_LIMIT = 1 << 31
_SMALL = 1 << 22
"""Files up to this size are parsed without an estimate: they cannot take more than about 300 MiB."""
_FREE_BYTES = 1 << 29
"""What a parsed message may take beside twice its file."""
_MESSAGE_BYTES, _STRING_BYTES, _NUMBER_BYTES = 160, 32, 8
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def check_bulk(file: Path) -> None:
    """Refuse a file that is too large for an ONNX message, or would be in memory. One that is missing, empty
    or a folder is left to the reader.

    Raises:
        ModelError: saying how large it is.
    """
    fault = fault_of_file(file, _MESSAGE_LIMIT)
    if fault is not None:
        raise ModelError(
            f"{file} {fault}, so it holds no ONNX model that can be read. An ONNX file ends at 2 GiB; "
            "larger models keep their weights in a second file (onnx.save with save_as_external_data)."
        )
    if not file.is_file() or file.stat().st_size <= _SMALL:
        return
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            limit = _FREE_BYTES + 2 * len(data)
            if parsed_bytes(data, limit) > limit:
                raise ModelError(
                    f"{file} would take more than {limit >> 20:,} MiB in memory, although it has "
                    f"{len(data) >> 20:,}: it consists of millions of tiny parts. It is damaged, or made to "
                    "do harm; export it again."
                )
    except OSError:  # the reader will meet it too, and say it
        return


def check_counts(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse a model of more nodes, inputs and outputs than can be looked at in reasonable time, its
    functions written out wherever they are called.

    Raises:
        ModelError: with the number, or naming a function that calls itself.
    """
    nodes = edges = 0
    for graph_nodes, others in _graphs(proto.graph, *proto.functions):
        nodes += len(graph_nodes)
        edges += others
        if nodes <= MOST_NODES:
            edges += sum(len(node.input) + len(node.output) + len(node.attribute) for node in graph_nodes)
        if nodes > MOST_NODES or edges > MOST_EDGES:
            what = f"{nodes:,} nodes" if nodes > MOST_NODES else f"{edges:,} tensors and attributes of nodes"
            limit = MOST_NODES if nodes > MOST_NODES else MOST_EDGES
            raise ModelError(
                f"{file} has {what} or more; evonnx reads up to {limit:,}. Simplify the model (onnxsim, or "
                "constant folding of the exporter) or export it without unrolled loops."
            )
    for one in _walk(proto.graph, *proto.functions):
        _check_text(one, file)
    if proto.functions:
        _check_functions(proto, file)


def _check_functions(proto: onnx.ModelProto, file: Path) -> None:
    """Local functions are written out wherever they are called: ten that call the next one twice are a
    thousand nodes, and one that calls itself has no end."""
    functions = {(one.domain, one.name): one for one in proto.functions}
    sizes: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()
    stack = [(key, False) for key in functions]
    while stack:
        key, called = stack.pop()
        calls = [one for one in operators_in(functions[key]) if one in functions]
        if called:
            open_calls.discard(key)
            sizes[key] = len(functions[key].node) + sum(sizes[one] for one in calls)
        elif key in open_calls:
            raise ModelError(
                f"{file} is not a valid model: its function {key[1]!r} calls itself, directly or through "
                "others. Export it again."
            )
        elif key not in sizes:
            open_calls.add(key)
            stack.append((key, True))
            stack.extend((one, False) for one in calls if one not in sizes)
    total = sum(sizes[one] for one in operators_in(proto.graph) if one in sizes)
    if total > MOST_NODES:
        raise ModelError(
            f"{file} has {total:,} nodes once its functions are written out; evonnx reads up to "
            f"{MOST_NODES:,}. Export it without functions that call functions."
        )


def operators_in(graph: Any) -> Iterator[tuple[str, str]]:
    """(domain, type) of the nodes of a graph or function, and of the subgraphs in them."""
    for nodes, _ in _graphs(graph):
        yield from ((node.domain, node.op_type) for node in nodes)


def _check_text(graph: Any, file: Path) -> None:
    """Names are text: what is no UTF-8 comes out of protobuf as bytes."""
    names: list[Any] = [graph.name]
    for node in graph.node:
        names += (node.name, node.op_type, node.domain, *node.input, *node.output)
        names += [attribute.name for attribute in node.attribute]
    if isinstance(graph, onnx.GraphProto):
        for parts in (graph.initializer, graph.input, graph.output, graph.value_info):
            names += [part.name for part in parts]
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ModelError(
            f"{file} holds the name {wrong!r}, which is no text in UTF-8. The file is "
            "damaged; download or export it again."
        )


def _graphs(*roots: Any) -> Iterator[tuple[Any, int]]:
    """(nodes, number of other parts) of graphs or functions, and of the subgraphs in them."""
    for one in _walk(*roots):
        others = len(one.initializer) + len(one.value_info) if isinstance(one, onnx.GraphProto) else 0
        yield one.node, others + len(one.input) + len(one.output)


def _walk(*roots: Any) -> Iterator[Any]:
    """Graphs or functions, and the subgraphs in them."""
    stack: list[Any] = list(roots)
    while stack:
        one = stack.pop()
        yield one
        for node in one.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    stack.append(attribute.g)
                stack.extend(attribute.graphs)


def parsed_bytes(data: bytes | mmap.mmap, limit: int) -> int:
    """About how many bytes the parsed message of an ONNX file takes; the count ends soon above `limit`.

    Damaged bytes end it too: the parser will say what is wrong with them.
    """
    total = 0
    stack = [(0, len(data), onnx.ModelProto.DESCRIPTOR)]
    try:
        while stack:
            place, end, kind = stack.pop()
            fields = _fields(kind)
            while place < end and total <= limit:
                tag, place = _varint(data, place)
                wire = tag & 7
                if wire == _LENGTH:
                    length, place = _varint(data, place)
                    inner, growth = fields.get(tag >> 3, (None, 1))
                    if inner is None:
                        total += _STRING_BYTES + growth * length
                    else:
                        total += _MESSAGE_BYTES
                        if length:
                            stack.append((place, min(place + length, end), inner))
                    place += length
                elif wire == _VARINT:
                    _, place = _varint(data, place)
                    total += _NUMBER_BYTES
                else:
                    place += {_FIXED64: 8, _FIXED32: 4}[wire]
                    total += _NUMBER_BYTES
    except (IndexError, KeyError):
        return total
    return total


@cache
def _fields(kind: Descriptor) -> dict[int, tuple[Descriptor | None, int]]:
    """By number: the message that a field holds, else how many bytes become of each of its bytes."""
    return {field.number: (field.message_type, _growth(field)) for field in kind.fields}


def _growth(field: Any) -> int:
    """Numbers of variable length in a list take a byte at least, and their whole size in memory."""
    if field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64):
        return 8
    return 4 if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM) else 1


def _varint(data: bytes | mmap.mmap, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError
