"""What an operator's builder sees and returns.

A program is compiled for concrete input shapes, so a builder knows the shape of every operand and the value
of every operand that depends on shapes and constants alone. It works all of that out once and returns a
closure over what is left; nothing is parsed, looked up or synchronised per step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Kernel = Callable[..., Any]
"""Tensors in, one Tensor (or a tuple of them, one per output) out."""


class Unsupported(Exception):
    """A builder meets a case it does not cover; the message says which, the compiler adds the node."""


@dataclass(frozen=True)
class Value:
    """An operand while compiling: an example tensor, and whether its content is known (host) or data
    (device)."""

    tensor: Tensor
    known: bool
    slot: int = -1
    """Where data lives in the program; -1 for known values."""
    from_data: bool = False
    """Depends on a graph input, so its leading axis may be the batch."""
    stored: str = ""
    """Element type in the file (numpy's name), of constants; the tensor's own may be wider."""


@dataclass
class NormState:
    """What train-mode normalisation closures share with the trainer."""

    frozen: bool = False
    """Use running statistics in training too (batches too small to estimate from)."""
    cumulative: int | None = None
    """While statistics are re-estimated: batches seen so far; then the running value is their plain mean."""

    def momentum(self, usual: float) -> float:
        """Weight of this batch's statistics in the running ones, as torch counts it."""
        return usual if self.cumulative is None else 1.0 / (self.cumulative + 1)


@dataclass(frozen=True)
class Renorm:
    """A normalisation put behind a convolution for retraining: all tensors have one entry per output
    channel."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor
    eps: float


@dataclass(frozen=True)
class Emit:
    """A builder's result: the closure, and which inputs it reads at run time, in order."""

    kernel: Kernel
    reads: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One node with its operands, as seen by its builder."""

    op_type: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: tuple[str, ...]
    """Names; empty for outputs that nobody reads."""
    training: bool
    norm: NormState = field(default_factory=NormState)
    renorm: Renorm | None = None
    batch: tuple[int, int] | None = None
    """(declared, actual) leading size where a model declared for one batch size is run with another."""
    declared_shape: tuple[int, ...] | None = None
    """Then: the first operand's shape for the declared batch, if the operand comes from data."""
    readers: frozenset[str] = frozenset()
    """Operators that read the first output."""

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def example(self, index: int) -> Tensor:
        """An operand's example tensor: right shape and dtype; right content only where known."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise Unsupported(f"input {index} is missing")
        return value.tensor

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """An operand's shape."""
        return tuple(self.example(index).shape)

    def rank(self, index: int = 0) -> int:
        """An operand's number of axes."""
        return self.example(index).ndim

    def known(self, index: int) -> bool:
        """Whether an operand's content follows from constants and input shapes."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return value is not None and value.known

    def content(self, index: int) -> Tensor:
        """A known operand's content, on the CPU."""
        if not self.known(index):
            raise Unsupported(
                f"input {index} depends on the data; only constants and shapes are supported there"
            )
        return self.example(index)

    def stored_type(self, index: int) -> str:
        """An operand's element type by numpy's name, as the file has it where it is a constant."""
        value = self.inputs[index]
        return value.stored if value is not None and value.stored else str(self.example(index).dtype)[6:]

    def ints(self, index: int) -> tuple[int, ...]:
        """A known operand as integers."""
        return tuple(int(i) for i in self.content(index).reshape(-1).tolist())

    def floats(self, index: int) -> tuple[float, ...]:
        """A known operand as floats."""
        return tuple(float(i) for i in self.content(index).reshape(-1).tolist())

    def ints_from(self, attribute: str, index: int) -> tuple[int, ...] | None:
        """Integers that older opsets give as an attribute and newer ones as an input."""
        if self.has(index):
            return self.ints(index)
        value = self.attr(attribute)
        return None if value is None else tuple(int(i) for i in value)

    def axis(self, axis: int, rank: int | None = None) -> int:
        """A non-negative axis of the first operand."""
        return axis % (self.rank(0) if rank is None else rank) if (rank or self.rank(0)) else 0

    def only_first_output(self) -> None:
        """Refuse calls whose further outputs somebody reads."""
        if any(self.outputs[1:]):
            raise Unsupported("an optional output is used")

    def emit(self, kernel: Kernel, *reads: int) -> Emit:
        """A closure over these inputs (all that are given, if none are named)."""
        return Emit(kernel, reads or tuple(i for i in range(len(self.inputs)) if self.has(i)))


Builder = Callable[[Call], Emit]
BUILDERS: dict[str, Builder] = {}


def is_single(x: Tensor) -> bool:
    """Whether there is one value per channel: nothing to take statistics of, which PyTorch refuses."""
    return x.numel() <= x.shape[1]


def builder(*op_types: str) -> Callable[[Builder], Builder]:
    """Register a builder for operators of the standard domain."""

    def register(function: Builder) -> Builder:
        for op_type in op_types:
            BUILDERS[op_type] = function
        return function

    return register


def spatial_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding (begins, ends) per spatial axis, whatever form it is declared in."""
    rank = len(sizes)
    auto = call.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = list(call.attr("pads") or [0] * (2 * rank))
        return pads[:rank], pads[rank:]
    if auto == "VALID":
        return [0] * rank, [0] * rank
    begins, ends = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return begins, ends


def torch_pads(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Padding in the order that `torch.nn.functional.pad` takes: last axis first."""
    return [p for pair in zip(reversed(begins), reversed(ends), strict=True) for p in pair]
