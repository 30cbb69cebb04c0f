"""The tip of a growing random graph, and a builder that keeps small integers exact.

In integer mode every tensor holds integers below 2**22, so that float32 arithmetic is exact in any order: the
builder knows a bound of each tensor and puts a Clip before an operator that could outgrow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from graph_builder import Builder
from hypothesis import strategies as st
from onnx import numpy_helper

_LIMIT = float(2**22)
_ROOM = 15.0
_SUMS = frozenset({"Add", "Sub", "Sum"})
_OF_FIRST = frozenset(
    {"Expand", "Gather", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze"}
)
_PRODUCTS = frozenset({"Mul", "MatMul", "Einsum"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_AT_MOST_ONE = frozenset({"Softmax", "Sigmoid", "HardSigmoid", "Tanh"})
_NORMS = frozenset({"InstanceNormalization", "LayerNormalization", "GroupNormalization"})


class BoundedBuilder(Builder):
    """A builder that knows how large the entries of each tensor can be (`integers` only)."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.bounds: dict[str, float] = {"x": 3.0}

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        name = super().constant(array, name)
        array = np.asarray(array)
        self.bounds[name] = float(np.abs(array).max(initial=0)) if array.dtype.kind in "fiu" else 1.0
        return name

    def node(self, op_type: str, *inputs: str, outputs: int = 1, terms: int = 1, **attributes) -> str:
        """`terms`: how many products or addends are summed, where constants don't say it."""
        bound = self._bound(op_type, inputs, terms)
        if self.integers and bound > _LIMIT:
            inputs = tuple(self._clipped(name) for name in inputs)
            bound = self._bound(op_type, inputs, terms)
        made = super().node(op_type, *inputs, outputs=outputs, **attributes)
        for name in self.nodes[-1].output:
            self.bounds[name] = bound
        return made

    def number(self, value: float) -> str:
        return self.constant(np.asarray(value, dtype=self.dtype))

    def _clipped(self, name: str) -> str:
        if self.bounds.get(name, 0) <= _ROOM or any(tensor.name == name for tensor in self.initializers):
            return name
        made = super().node("Clip", name, self.number(-_ROOM), self.number(_ROOM))
        self.bounds[made] = _ROOM
        return made

    def _bound(self, op_type: str, inputs: Sequence[str], terms: int) -> float:
        bounds = [self.bounds.get(name, 0.0) for name in inputs if name]
        weight = next((t for t in self.initializers if len(inputs) > 1 and t.name in inputs[:2]), None)
        if op_type in _LAYERS and (weight is not None or op_type.startswith("Conv")):
            array = None if weight is None else numpy_helper.to_array(weight)
            spread = 8.0 * 200 if array is None else float(np.abs(array).sum(dtype=np.float64))
            slot = 1 if weight is None or inputs[1] == weight.name else 0
            return bounds[1 - slot] * spread + (bounds[2] if len(bounds) > 2 else 0)
        if op_type in _SUMS or op_type == "ReduceSum":
            return sum(bounds) * terms
        if op_type in _PRODUCTS:
            return float(np.prod(bounds)) * terms
        if op_type == "BatchNormalization":
            return (bounds[0] + bounds[3]) * bounds[1] + bounds[2]
        if op_type in _AT_MOST_ONE:
            return 1.0
        if op_type in _NORMS:
            return 40.0
        if op_type == "Clip":
            return max(self.bounds[name] for name in inputs[1:])
        if op_type == "PRelu":
            return bounds[0] * max(1.0, bounds[1])
        if op_type == "Shape":
            return 0.0
        if op_type in _OF_FIRST:
            return bounds[0]
        return max(bounds, default=0.0)


@dataclass
class Tip:
    """The tip of a growing graph: an image (N, C, H, W) or tokens (N, T, D)."""

    builder: BoundedBuilder
    tensor: str
    batch: int
    channels: int
    side: int
    draw: Callable[[st.SearchStrategy], object]
    batch_is_open: bool = False
    tokens: int = 0
    depth: int = 0
    """How deep in branches this tip is."""
    steps: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return self.builder.integers

    def width(self, low: int = 1, high: int = 6) -> int:
        return self.draw(st.integers(low, high))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def node(self, op_type: str, *inputs: str, **attributes) -> str:
        """Add a node; the first input defaults to the tip."""
        return self.builder.node(op_type, *(inputs or (self.tensor,)), **attributes)

    def on(self, op_type: str, *others: str, **attributes) -> None:
        """Move the tip through a node."""
        self.tensor = self.builder.node(op_type, self.tensor, *others, **attributes)

    def settle(self, tensor: str) -> str:
        """In integer mode, integers from values that aren't, far from the middle between two."""
        if not self.exact:
            return tensor
        scaled = self.builder.node("Mul", tensor, self.builder.number(7.3))
        return self.builder.node("Round", scaled)

    def at(self, tensor: str, *, channels: int | None = None, side: int | None = None) -> Tip:
        """Another tip on the same graph, one level deeper."""
        return Tip(
            self.builder,
            tensor,
            self.batch,
            self.channels if channels is None else channels,
            self.side if side is None else side,
            self.draw,
            self.batch_is_open,
            self.tokens,
            self.depth + 1,
            self.steps,
        )

    # ------------------------------------------------------------------------------------------------ shapes

    def reshape(self, tensor: str, target: Sequence[int], *, source_axes: Sequence[int | None] = ()) -> str:
        """Reshape, the target written in one of the ways that exporters have.

        Args:
            tensor: what to reshape; its axis 0 is the batch.
            target: new shape; entry 0 is the batch.
            source_axes: per entry, the axis of `tensor` with the same length, if a graph would read it there.
        """
        b = self.builder
        axes = [*source_axes, *[None] * (len(target) - len(source_axes))]
        axes[0] = 0
        forms = ["zero", "computed", "minus"] + ([] if self.batch_is_open else ["numbers", "numbers"])
        form = self.pick(*forms)
        numbers = list(target)
        if form == "numbers":
            return b.node("Reshape", tensor, b.ints(*numbers))
        if form == "minus":
            numbers[0] = -1
            return b.node("Reshape", tensor, b.ints(*numbers))
        if form == "zero":
            numbers[0] = 0
            free = self.draw(st.integers(0, len(target) - 1))
            if free:
                numbers[free] = -1
            return b.node("Reshape", tensor, b.ints(*numbers))
        shape = b.node("Shape", tensor)
        entries = []
        for number, axis in zip(numbers, axes, strict=True):
            if axis is not None and (axis == 0 or self.flip()):
                entry = b.node("Gather", shape, b.constant(np.asarray(axis, np.int64)), axis=0)
                entries.append(b.node("Unsqueeze", entry, b.ints(0)))
            else:
                entries.append(b.ints(number))
        return b.node("Reshape", tensor, b.node("Concat", *entries, axis=0))

    def reduce(self, op_type: str, tensor: str, axes: Sequence[int], keep: bool = True) -> str:
        """A reduction, with axes as the opset wants them."""
        b = self.builder
        since = 13 if op_type == "ReduceSum" else 18
        if b.opset >= since:
            return b.node(op_type, tensor, b.ints(*axes), keepdims=int(keep), terms=64)
        return b.node(op_type, tensor, axes=list(axes), keepdims=int(keep), terms=64)

    def split(self, tensor: str, sizes: Sequence[int], axis: int) -> list[str]:
        """A Split, sizes written down or, where they are equal, as a number of outputs."""
        b = self.builder
        if len(set(sizes)) == 1 and self.flip():
            attributes = {"num_outputs": len(sizes)} if b.opset >= 18 else {}
            b.node("Split", tensor, outputs=len(sizes), axis=axis, **attributes)
        else:
            b.node("Split", tensor, b.ints(*sizes), outputs=len(sizes), axis=axis)
        return b.last_outputs()

    def slice(self, tensor: str, start: int, end: int, axis: int, step: int = 1) -> str:
        b = self.builder
        return b.node("Slice", tensor, b.ints(start), b.ints(end), b.ints(axis), b.ints(step))


Step = Callable[[Tip], None]


def clamp(tip: Tip, tensor: str, bound: float = 6.0) -> str:
    """A Clip around zero: keeps numbers small."""
    b = tip.builder
    return b.node("Clip", tensor, b.number(-bound), b.number(bound))


def activation(tip: Tip, tensor: str) -> str:
    """An activation function."""
    kind = tip.pick("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish")
    if kind == "Relu":
        return tip.node("Relu", tensor)
    if kind == "Clip" or tip.exact or (kind == "HardSwish" and tip.builder.opset < 14):
        return clamp(tip, tensor)
    return tip.node(kind, tensor)


def info(name: str, dtype: int, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, dtype, shape)
