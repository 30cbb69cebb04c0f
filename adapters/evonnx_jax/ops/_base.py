"""What an operator's function sees.

A graph is walked once per trace. A numpy array among the operands is known there and then: it follows from
constants and shapes alone. Everything else is an array of JAX's that stands for data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from evonnx.network import Array
from evonnx_training.graph import Node

Value = Any
"""A numpy array (known) or an array of JAX's (data)."""
Result = Any
"""One `Value`, or a tuple of them, one per output."""
Operator = Callable[["Call"], Result]


class Unsupported(Exception):
    """An operator meets a case it does not cover; the message says which, the walk adds the node."""


@dataclass
class Context:
    """What one walk over a graph shares beside tensors."""

    training: bool = False
    frozen: bool = False
    """Normalise by running statistics in training too (batches too small to estimate from)."""
    share: Value | None = None
    """Weight of this batch's statistics in the running ones, where it is not the node's own momentum."""
    key: Value | None = None
    """Of random draws."""
    axis: str | None = None
    """Name of the axis over which the examples of a batch are mapped, where a graph takes few at a time."""
    statistics: dict[str, Value] = field(default_factory=dict)
    """New running statistics by tensor name."""
    elements: int = 0
    """Of all tensors that were made."""
    draws: int = 0

    def fresh_key(self) -> Value:
        """A key that nobody else draws from."""
        if self.key is None:
            raise Unsupported("it draws random numbers, which only training has")
        self.draws += 1
        key = jax.random.fold_in(self.key, self.draws)
        return key if self.axis is None else jax.random.fold_in(key, jax.lax.axis_index(self.axis))


@dataclass(frozen=True)
class Call:
    """One node with its operands."""

    node: Node
    opset: int
    inputs: tuple[Value | None, ...]
    context: Context

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.node.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def given(self) -> list[Value]:
        """All operands that are given."""
        return [value for value in self.inputs if value is not None]

    def value(self, index: int) -> Value:
        """An operand as it is."""
        if not self.has(index):
            raise Unsupported(f"input {index} is missing")
        return self.inputs[index]

    def data(self, index: int = 0) -> jax.Array:
        """An operand as an array of JAX's."""
        return jnp.asarray(self.value(index))

    def optional(self, index: int) -> jax.Array | None:
        """The same, None where it is not given."""
        return self.data(index) if self.has(index) else None

    def content(self, index: int) -> Array:
        """A known operand."""
        value = self.value(index)
        if not isinstance(value, np.ndarray):
            raise Unsupported(
                f"input {index} depends on the data; only constants and shapes are supported there"
            )
        return value

    def ints(self, index: int) -> tuple[int, ...]:
        """A known operand as integers."""
        return tuple(int(i) for i in self.content(index).reshape(-1))

    def ints_from(self, attribute: str, index: int) -> tuple[int, ...] | None:
        """Integers that older opsets give as an attribute and newer ones as an input."""
        if self.has(index):
            return self.ints(index)
        value = self.attr(attribute)
        return None if value is None else tuple(int(i) for i in value)

    def float_from(self, attribute: str, index: int, default: float | None = None) -> float | None:
        """The same for one number."""
        if self.has(index):
            return float(self.content(index).reshape(-1)[0])
        value = self.attr(attribute, default)
        return None if value is None else float(value)

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, not negative."""
        rank = self.value(0).ndim if rank is None else rank
        return int(self.attr("axis", default)) % max(rank, 1)

    def only_first_output(self) -> None:
        """Refuse calls whose further outputs somebody reads."""
        if any(self.node.outputs[1:]):
            raise Unsupported("an optional output is used")


OPERATORS: dict[str, Operator] = {}


def operator(*op_types: str) -> Callable[[Operator], Operator]:
    """Register a function for operators of the standard domain."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(op_types, function))
        return function

    return register


def on_operands(table: Mapping[str, Callable[..., Any]]) -> None:
    """Register functions of the operands alone."""

    def apply(function: Callable[..., Any], call: Call) -> Result:
        return function(*map(jnp.asarray, call.given()))

    OPERATORS.update({op_type: partial(apply, function) for op_type, function in table.items()})


def spatial_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """Padding (begin, end) per spatial axis, whatever form it is declared in."""
    auto = call.attr("auto_pad", "NOTSET") or "NOTSET"
    if auto == "NOTSET":
        pads = [int(p) for p in call.attr("pads") or [0] * (2 * len(sizes))]
        return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    if auto == "VALID":
        return [(0, 0)] * len(sizes)
    found = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return found


def spatial(call: Call, name: str, rank: int) -> tuple[int, ...]:
    """An attribute with one integer per spatial axis, 1 where it is absent."""
    return tuple(int(i) for i in call.attr(name) or [1] * rank)
