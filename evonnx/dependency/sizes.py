"""Small integer tensors computed from shapes (`Shape -> Gather -> Concat -> Reshape`), entry by entry.

An entry is a number, or a `Size`: something computed at run time from the lengths of certain axes. Where
those axes are followed, their lengths may shrink; a rule accepts an entry only where that is provably what it
needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.onnx_io import constant_tensor

Sizes = NDArray[np.object_]
"""Entries: int or `Size`; rank 0 or 1."""

_LARGEST = 64
"""Longer constants are data, not shapes."""


@dataclass(frozen=True)
class Origin:
    """Where a number of a computed shape is written down: an entry of a constant that a node reads."""

    node: ir.Node
    slot: int
    position: int


class Number(int):
    """A constant entry of a computed shape that can be rewritten where it is written down."""

    origin: Origin

    def __new__(cls, value: int, origin: Origin) -> Number:
        """The number with its origin."""
        made = super().__new__(cls, value)
        made.origin = origin
        return made


@dataclass(frozen=True)
class Size:
    """A number known at run time only."""

    depends: frozenset[tuple[str, int]]
    """Followed (tensor, axis) pairs whose length it depends on."""
    exact: bool
    """Whether it is the length of one axis (the one in `depends`, if that is not empty)."""
    number: int | float | None = None
    """What it is as long as no channel goes; None where that depends on the model's inputs."""


def sizes_of_constant(array: NDArray[np.generic]) -> Sizes | None:
    """A small integer constant as entries; None for anything else."""
    if array.dtype.kind not in "iu" or array.size > _LARGEST:
        return None
    return array.astype(object)


def sizes_of_shape(
    name: str, rank: int, followed: Mapping[int, int | None], start: int = 0, end: int | None = None
) -> Sizes:
    """What `Shape` of a tensor gives.

    Args:
        name: the tensor.
        rank: its rank.
        followed: the axes that carry channels, with their lengths; None where the model's inputs set it.
        start: first axis.
        end: axis after the last one.
    """
    entries = np.empty(rank, dtype=object)
    for axis in range(rank):
        depends = frozenset({(name, axis)} if axis in followed else ())
        entries[axis] = Size(depends, exact=True, number=followed.get(axis))
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


def type_of_sizes(value: ir.Value) -> np.dtype[Any]:
    """Element type of a tensor computed from shapes, declared or not."""
    while value.dtype is None:
        node = value.producer()
        if node is None or node.op_type == "Shape" or not node.inputs or node.inputs[0] is None:
            return np.dtype(np.int64)
        if node.op_type == "Cast":
            return ir.DataType(node.attributes["to"].as_int()).numpy()
        value = node.inputs[0]
    return value.dtype.numpy()


def _same(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    return operands[0]


def _cast(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    kind: type[int | float] = (
        float if ir.DataType(node.attributes["to"].as_int()).is_floating_point() else int
    )

    def entry(one: Any) -> Any:
        if isinstance(one, Size):
            return one if one.number is None else replace(one, number=kind(one.number))
        return one if isinstance(one, kind) else kind(one)

    assert operands[0] is not None
    return _array(np.frompyfunc(entry, 1, 1)(operands[0]))


def _quotient(one: Any, other: Any) -> Any:
    """As ONNX divides: integers toward zero."""
    both_whole = isinstance(one, (int, np.integer)) and isinstance(other, (int, np.integer))
    return int(one / other) if both_whole else one / other


def _root(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    def entry(one: Any) -> Any:
        if isinstance(one, Size):
            return Size(one.depends, exact=False, number=None if one.number is None else one.number**0.5)
        return one**0.5

    assert operands[0] is not None
    return _array(np.frompyfunc(entry, 1, 1)(operands[0]))


def _gather(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data, indices = operands[0], _numbers(operands[1])
    if data is None or indices is None or data.ndim != 1:
        return None
    return _array(data[indices])


def _concat(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    parts = [_written(node, slot, operand) for slot, operand in enumerate(operands) if operand is not None]
    return np.concatenate(parts) if len(parts) == len(operands) else None


def _unsqueeze(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data = operands[0]
    return None if data is None or data.ndim else _written(node, 0, data).reshape(1)


def _written(node: ir.Node, slot: int, entries: Sizes) -> Sizes:
    """Plain numbers know from here on where they are written down."""
    if constant_tensor(node.inputs[slot]) is None:
        return entries
    found = np.empty(entries.size, dtype=object)
    for position, entry in enumerate(entries.ravel()):
        plain = isinstance(entry, (int, np.integer)) and not isinstance(entry, Number)
        found[position] = Number(int(entry), Origin(node, slot, position)) if plain else entry
    return found.reshape(entries.shape)


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


def _reshape(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data, target = operands[0], _numbers(operands[1])
    return data.ravel() if data is not None and target is not None and target.tolist() == [-1] else None


def _shape(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data = operands[0]
    return None if data is None or node.attributes else np.asarray(data.shape, dtype=object)


def _filled(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    shape, value = _numbers(operands[0]), node.attributes.get("value")
    number = 0 if value is None else value.as_tensor().numpy().item()
    if shape is None or shape.size > 1 or np.prod(shape) > _LARGEST or not isinstance(number, int):
        return None
    return np.full(tuple(shape), number, dtype=np.object_)


def _equal(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    """Of sizes with the mark -1, which no size is, whatever becomes of it."""

    def counts(side: Any) -> bool:
        return isinstance(side, Size) or (isinstance(side, Number) and side >= 0)

    def entry(one: Any, other: Any) -> bool:
        if not counts(one) and not counts(other):
            return bool(one == other)
        if counts(min(one, other, key=counts)) or min(one, other, key=counts) >= 0:
            raise ValueError("the comparison may change with the sizes")
        return False

    one, other = operands
    return None if one is None or other is None else _array(np.frompyfunc(entry, 2, 1)(one, other))


def _where(node: ir.Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    def entry(chosen: Any, one: Any, other: Any) -> Any:
        if not isinstance(chosen, bool):
            raise ValueError("the choice is made at run time")
        return one if chosen else other

    if any(operand is None for operand in operands):
        return None
    return _array(np.frompyfunc(entry, 3, 1)(*operands))


def _arithmetic(
    combine: Callable[[Any, Any], Any],
) -> Callable[[ir.Node, Sequence[Sizes | None]], Sizes | None]:
    def entry(one: Any, other: Any) -> Any:
        if isinstance(one, Size) or isinstance(other, Size):
            depends = [side.depends for side in (one, other) if isinstance(side, Size)]
            numbers = [side.number if isinstance(side, Size) else side for side in (one, other)]
            number = None if None in numbers else combine(*numbers)
            return Size(frozenset().union(*depends), exact=False, number=number)
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
    "Cast": _cast,
    "Floor": _same,
    "Ceil": _same,
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "Shape": _shape,
    "ConstantOfShape": _filled,
    "Equal": _equal,
    "Where": _where,
    "Add": _arithmetic(lambda one, other: one + other),
    "Sub": _arithmetic(lambda one, other: one - other),
    "Mul": _arithmetic(lambda one, other: one * other),
    "Div": _arithmetic(_quotient),
    "Sqrt": _root,
}

ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Sqrt", "Floor", "Ceil"})
"""Operators that need numbers as they are."""
