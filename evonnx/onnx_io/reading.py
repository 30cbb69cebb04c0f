"""A file as a message without its large weights, and these as arrays, read from disk to where they stay.

Protobuf needs the whole file in memory, copies it into its message, and copies a weight each time it is
looked at. The structure of a file is a few bytes per node and tensor: it is walked here as far as the values
of initializers, which are left out, and protobuf reads all the rest. A file that has anything in it that
protobuf itself would not write (a graph in two parts, say) is left to protobuf as a whole.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.onnx_io.detached import LARGE, PLAIN
from evonnx.onnx_io.wire import GRAPH, INITIALIZER, LENGTH_DELIMITED, RAW_DATA, header

Arrays = dict[str, NDArray[np.generic]]

_VARINT, _FIXED64, _FIXED32 = 0, 1, 5
_LONGEST_VARINT = 10
_BLOCK = 1 << 13
"""Bytes read at once of what is not values."""
_MOST_AXES = 32
"""That an array has."""


class _UnusualError(Exception):
    """Left to protobuf."""


@dataclass(frozen=True)
class _Field:
    """Where a field of a message lies in a file."""

    number: int
    kind: int
    start: int
    """Of its tag."""
    content: int
    end: int

    @property
    def size(self) -> int:
        """Of its content, in bytes."""
        return self.end - self.content


def read_message(path: Path) -> tuple[onnx.ModelProto, Arrays]:
    """Read a file.

    Returns:
        The message, and by name the values of initializers that were left out of it: their types and shapes
        are there. Nothing is checked, but that values fit their shape; arrays are not to be written to.

    Raises:
        OSError: the file cannot be read.
        DecodeError: it is no message.
    """
    with path.open("rb") as file:
        if sys.byteorder == "little" and file.seekable():
            try:
                return _Reader(file).message()
            except _UnusualError:
                file.seek(0)
        proto = onnx.ModelProto()
        proto.ParseFromString(file.read())
        return proto, {}


class _Reader:
    """One file, whose structure is walked."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._block, self._at = b"", 0
        self._arrays: Arrays = {}

    def message(self) -> tuple[onnx.ModelProto, Arrays]:
        graphs = [field for field in self._fields(0, self._size) if field.number == GRAPH]
        if len(graphs) != 1 or graphs[0].kind != LENGTH_DELIMITED:
            raise _UnusualError
        [graph] = graphs
        parts: list[bytes] = []
        copied = graph.content
        for field in self._fields(graph.content, graph.end):
            shell = self._shell(field) if field.number == INITIALIZER else None
            if shell is not None:
                parts += [self._cut(copied, field.start), header(INITIALIZER, len(shell)), shell]
                copied = field.end
        inner = b"".join([*parts, self._cut(copied, graph.end)])
        before, after = self._cut(0, graph.start), self._cut(graph.end, self._size)
        proto = onnx.ModelProto()
        proto.ParseFromString(b"".join([before, header(GRAPH, len(inner)), inner, after]))
        return proto, self._arrays

    def _shell(self, field: _Field) -> bytes | None:
        """A tensor's message without its values, which become an array; None where they stay in it."""
        if field.kind != LENGTH_DELIMITED:
            raise _UnusualError
        if field.size < LARGE:
            return None
        found = [one for one in self._fields(field.content, field.end) if one.number == RAW_DATA]
        if len(found) != 1 or found[0].kind != LENGTH_DELIMITED or found[0].size < LARGE:
            return None
        [raw] = found
        shell = self._cut(field.content, raw.start) + self._cut(raw.end, field.end)
        tensor = onnx.TensorProto()
        tensor.ParseFromString(shell)
        if not tensor.name or tensor.name in self._arrays:
            return None
        array = _room(tensor, raw.size)
        if array is None:
            return None
        self._file.seek(raw.content)
        if self._file.readinto(array.reshape(-1).view(np.uint8).data) != raw.size:
            raise _UnusualError
        array.flags.writeable = False
        self._arrays[tensor.name] = array
        return shell

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of a message that lies from `start` to `end`."""
        at = start
        while at < end:
            tag, content = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if kind == LENGTH_DELIMITED:
                length, content = self._varint(content, end)
                last = content + length
            elif kind == _VARINT:
                last = self._varint(content, end)[1]
            elif kind in (_FIXED64, _FIXED32):
                last = content + (8 if kind == _FIXED64 else 4)
            else:
                raise _UnusualError
            if last > end or not number:
                raise _UnusualError
            yield _Field(number, kind, at, content, last)
            at = last

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number, and where it ends."""
        if not self._at <= at <= self._at + len(self._block) - _LONGEST_VARINT:
            self._block, self._at = self._cut(at, min(at + _BLOCK, self._size)), at
        value = 0
        for place in range(at, min(end, at + _LONGEST_VARINT)):
            byte = self._block[place - self._at]
            value |= (byte & 0x7F) << 7 * (place - at)
            if byte < 0x80:
                return value, place + 1
        raise _UnusualError

    def _cut(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        data = self._file.read(end - start)
        if len(data) != end - start:
            raise _UnusualError
        return data


def _room(tensor: onnx.TensorProto, size: int) -> NDArray[np.generic] | None:
    """An array for so many bytes of a tensor, if that is what it needs; None where they are not numpy's."""
    if tensor.data_type not in ir.DataType.__members__.values() or tensor.data_location:
        return None
    kind = ir.DataType(tensor.data_type)
    if kind in (ir.DataType.UNDEFINED, ir.DataType.STRING) or kind.bitwidth < 8:
        return None
    dtype, shape = kind.numpy(), tuple(tensor.dims)
    if dtype.kind not in PLAIN or len(shape) > _MOST_AXES or min(shape, default=0) < 0:
        return None
    return np.empty(shape, dtype) if math.prod(shape) * dtype.itemsize == size else None
