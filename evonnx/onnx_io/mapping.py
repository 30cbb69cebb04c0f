"""External data mapped into memory: one mapping per file, however many weights lie in it.

onnx_ir maps the file anew for every weight, each time with a file handle that stays open, of which a process
has a thousand.
"""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.onnx_io.tensors import is_string, map_tensors


class MappedTensor(ir.Tensor[NDArray[np.generic]]):
    """A tensor of an external file, as an array over the file's mapping. Nothing is read until it is looked
    at."""


def map_external(model: ir.Model, folder: Path) -> None:
    """Map a model's external data, in place. Types of less than a byte are left as they are.

    Args:
        model: its external tensors were checked to lie in `folder`, and within their files.
        folder: the model's.

    Raises:
        OSError: a file cannot be read.
    """
    if sys.byteorder != "little":
        return
    mappings: dict[str, mmap.mmap] = {}

    def mapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if (
            not isinstance(tensor, ir.ExternalTensor)
            or is_string(tensor)
            or not tensor.size
            or tensor.dtype.bitwidth < 8
        ):
            return tensor
        location = str(tensor.location)
        if location not in mappings:
            with (folder / location).open("rb") as file:
                mappings[location] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        array = np.frombuffer(mappings[location], tensor.dtype.numpy(), tensor.size, tensor.offset or 0)
        return MappedTensor(
            array.reshape(tensor.shape.numpy()),
            dtype=tensor.dtype,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )

    map_tensors(model, mapped)


def is_external(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor lies in another file."""
    return isinstance(tensor, ir.ExternalTensor | MappedTensor)


def forget_pages(array: NDArray[np.generic]) -> None:
    """Let go of the memory of an array that is mapped from a file; it is read again when touched. Other
    arrays are left alone."""
    owner = _owner(array)
    if not isinstance(owner, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED") or not array.size:
        return
    whole = np.lib.array_utils.byte_bounds(np.frombuffer(owner, np.uint8))
    low, high = (bound - whole[0] for bound in np.lib.array_utils.byte_bounds(array))
    start = low - low % mmap.PAGESIZE
    owner.madvise(mmap.MADV_DONTNEED, start, high - start)


def is_mapped(array: NDArray[np.generic]) -> bool:
    """Whether an array lies in a file."""
    return isinstance(_owner(array), mmap.mmap)


def _owner(array: NDArray[np.generic]) -> Any:
    """What an array's memory belongs to."""
    owner: Any = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.obj if isinstance(owner, memoryview) else owner.base
    return owner
