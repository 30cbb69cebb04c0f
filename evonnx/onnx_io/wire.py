"""A detached model as the bytes of one ONNX file, chunk by chunk: weights are written from where they are.

Protobuf's own serialiser needs the weights in its message and gives a copy of everything. These are the same
bytes, as the wire format has it: a field is its tag, its length and its content, fields in order of number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import Message

from evonnx.onnx_io.detached import Detached

Chunk = bytes | memoryview

GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
LENGTH_DELIMITED = 2


def chunks(model: Detached) -> list[Chunk]:
    """What `SerializeToString(deterministic=True)` gives of the model with its weights in it, in pieces."""
    graph = list(_with(model.proto.graph, INITIALIZER, _tensors(model)))
    return list(_with(model.proto, GRAPH, _field(GRAPH, graph)))


def _tensors(model: Detached) -> Iterator[Chunk]:
    for tensor in model.proto.graph.initializer:
        array = model.arrays.get(tensor.name)
        if array is None:
            content: list[Chunk] = [_serialized(tensor)]
        else:
            shell = onnx.TensorProto()
            shell.CopyFrom(tensor)
            shell.ClearField("data_location")
            shell.ClearField("external_data")
            raw = _little_endian(array).reshape(-1).view(np.uint8).data
            content = list(_with(shell, RAW_DATA, _field(RAW_DATA, [raw])))
        yield from _field(INITIALIZER, content)


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _with(message: Message, number: int, content: Iterator[Chunk]) -> Iterator[Chunk]:
    """A message's fields, with `content` in the place of field `number`."""
    lower, higher = type(message)(), type(message)()
    for field, _ in message.ListFields():
        if field.number != number:
            _copy_field(message, lower if field.number < number else higher, field.name)
    yield _serialized(lower)
    yield from content
    yield _serialized(higher)


def _copy_field(source: Message, target: Message, name: str) -> None:
    value = getattr(source, name)
    if isinstance(value, Message):
        getattr(target, name).CopyFrom(value)
    elif hasattr(value, "MergeFrom"):
        getattr(target, name).MergeFrom(value)
    else:
        setattr(target, name, value)


def _field(number: int, content: list[Chunk]) -> Iterator[Chunk]:
    """A field whose content has a length."""
    yield header(number, sum(len(chunk) for chunk in content))
    yield from content


def header(number: int, length: int) -> bytes:
    """What stands before the content of a field that has a length."""
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _serialized(message: Message) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data
