"""Small integer tensors computed from shapes (`Shape -> Gather -> Concat -> Reshape`), entry by entry.

An entry is a number, or a `Size`: something computed at run time from the lengths of certain axes. Where
those axes are followed, their lengths may shrink; a rule accepts an entry only where that is provably what it
needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Sizes = NDArray[np.object_]
"""Entries: int or `Size`; rank 0 or 1."""

_LARGEST = 64
"""Longer constants are data, not shapes."""


@dataclass(frozen=True)
class Size:
    """A number known at run time only."""

    depends: frozenset[tuple[str, int]]
    """Followed (tensor, axis) pairs whose length it depends on."""
    exact: bool
    """Whether it is the length of one axis (the one in `depends`, if that is not empty)."""


def sizes_of_constant(array: NDArray[np.generic]) -> Sizes | None:
    """A small integer constant as entries; None for anything else."""
    if array.dtype.kind not in "iu" or array.size > _LARGEST:
        return None
    return array.astype(object)


def sizes_of_shape(
    name: str, rank: int, followed: Sequence[int], start: int = 0, end: int | None = None
) -> Sizes:
    """What `Shape` of a tensor gives."""
    entries = np.empty(rank, dtype=object)
    for axis in range(rank):
        entries[axis] = Size(frozenset({(name, axis)} if axis in followed else ()), exact=True)
    return entries[start:end]


def evaluate(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    """The entries a node computes from entries; None where it is not plain arithmetic on shapes.

    Args:
        node: the node.
        operands: its inputs as entries; None for inputs that are absent or unknown.
    """
    compute = _COMPUTE.get(node.op_type)
    if compute is None or node.domain not in ("", "ai.onnx") or not operands or operands[0] is None:
        return None
    try:
        return compute(node, operands)
    except (IndexError, ValueError, TypeError):  # an odd constant: the caller pins
        return None


def _same(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    return operands[0]


def _gather(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data, indices = operands[0], _numbers(operands[1])
    if data is None or indices is None or data.ndim != 1:
        return None
    return _array(data[indices])


def _concat(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    parts = [operand for operand in operands if operand is not None]
    return np.concatenate(parts) if len(parts) == len(operands) else None


def _unsqueeze(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data = operands[0]
    return None if data is None or data.ndim else data.reshape(1)


def _squeeze(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data = operands[0]
    return None if data is None or data.size != 1 else data.reshape(())


def _slice(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data = operands[0]
    if data is None or data.ndim != 1:
        return None
    if len(operands) > 1:
        starts, ends = _numbers(operands[1]), _numbers(operands[2])
        steps = (
            _numbers(operands[4])
            if len(operands) > 4 and operands[4] is not None
            else np.ones(1, dtype=np.int64)
        )
    else:
        starts = np.asarray(node.attributes.get_ints("starts", ()), dtype=np.int64)
        ends = np.asarray(node.attributes.get_ints("ends", ()), dtype=np.int64)
        steps = np.ones(1, dtype=np.int64)
    if starts is None or ends is None or steps is None or starts.size != 1:
        return None
    return data[int(starts.item()) : int(ends.item()) : int(steps.item())]


def _arithmetic(
    combine: Callable[[Any, Any], Any],
) -> Callable[[ir.Node, Sequence[Sizes | None]], Sizes | None]:
    def entry(one: Any, other: Any) -> Any:
        if isinstance(one, Size) or isinstance(other, Size):
            depends = [side.depends for side in (one, other) if isinstance(side, Size)]
            return Size(frozenset().union(*depends), exact=False)
        return combine(one, other)

    def compute(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
        one, other = operands
        if one is None or other is None:
            return None
        return _array(np.frompyfunc(entry, 2, 1)(one, other))

    return compute


def _numbers(entries: Sizes | None) -> NDArray[np.int64] | None:
    if entries is None or any(isinstance(entry, Size) for entry in entries.ravel()):
        return None
    return entries.astype(np.int64)


def _array(found: Any) -> Sizes:
    if isinstance(found, np.ndarray):
        return found
    scalar = np.empty((), dtype=object)
    scalar[()] = found
    return scalar


_COMPUTE: dict[str, Callable[[ir.Node, Sequence[Sizes | None]], Sizes | None]] = {
    "Identity": _same,
    "Cast": _same,
    "Floor": _same,
    "Ceil": _same,
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Add": _arithmetic(lambda one, other: one + other),
    "Sub": _arithmetic(lambda one, other: one - other),
    "Mul": _arithmetic(lambda one, other: one * other),
    "Div": _arithmetic(lambda one, other: int(one / other)),
}
