"""External data as a whole: which pieces of which file tensors take, so that a small file cannot stand for
terabytes of weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import onnx

from evonnx.errors import ModelError

_MOST_SHARED = 16
"""Tensors that may be one piece of a file; tools that store equal tensors once have a few."""


def check_ranges(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse tensors whose pieces of a data file overlap in part, or are shared by very many.

    Args:
        proto: its external data has been held against the files, tensor by tensor.
        file: what to call it in messages.

    Raises:
        ModelError: naming two tensors.
    """
    pieces: dict[str, dict[tuple[int, int], list[str]]] = defaultdict(lambda: defaultdict(list))
    for tensor in _external(proto):
        info = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(info.get("offset") or 0), int(info.get("length") or 0)
        if length:
            pieces[info["location"]][offset, offset + length].append(tensor.name)
    for location, found in pieces.items():
        for (span, names), (other, others) in pairwise(sorted(found.items())):
            if other[0] < span[1]:
                raise ModelError(
                    f"{file}: the tensors {names[0]!r} and {others[0]!r} overlap in the external data file "
                    f"{location!r}. The offsets are damaged; save the model again with its data."
                )
        for names in found.values():
            if len(names) > _MOST_SHARED:
                raise ModelError(
                    f"{file}: {len(names)} tensors, {names[0]!r} among them, are one piece of the "
                    f"external data file {location!r}. Save the model again with its data."
                )


def _external(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    stack = [proto.graph, *proto.functions]
    while stack:
        one = stack.pop()
        if isinstance(one, onnx.GraphProto):
            yield from (t for t in one.initializer if t.data_location == onnx.TensorProto.EXTERNAL)
        for node in one.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    stack.append(attribute.g)
                stack.extend(attribute.graphs)
                for tensor in (attribute.t, *attribute.tensors):
                    if tensor.data_location == onnx.TensorProto.EXTERNAL:
                        yield tensor
