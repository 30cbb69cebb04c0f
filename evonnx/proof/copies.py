"""Copies of masked and compact model that the proof runs: what they show, and what is redrawn in both alike.

All edits are on detached copies, never on the models themselves. A *redrawn* pair has every live weight
drawn anew (equal draws in both, carried over by the plan), and activations that map 0 to 0 replaced by
Identity. Exact removals stay exact under that, for zeros stay zeros; but no channel can hide behind a ReLU
that happens to be off, behind a weight too small to matter, or behind a twin with equal values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from evonnx.compaction import Plan
from evonnx.network import Array
from evonnx.onnx_io import Detached
from evonnx.proof.constants import Tensors, scattered

Indices = NDArray[np.int64]
Axes = int | tuple[int, ...]
Kept = Mapping[tuple[str, int], Indices] | Mapping[tuple[str, Axes], Indices]
"""(activation, axis) -> indices that are left; (activation, axes) -> an array of flat positions over these
axes, whose own axes take their place."""

_SHOWN = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "Einsum",
    "BatchNormalization",
    "InstanceNormalization",
)
_RELAYOUTS = ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten")
_ZERO_TO_ZERO = (
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "ThresholdedRelu",
    "Softsign",
    "Tanh",
    "HardSwish",
)
_ROLES: Mapping[str, tuple[str, ...]] = {
    "Conv": ("", "weight", "shift"),
    "ConvTranspose": ("", "weight", "shift"),
    "Gemm": ("weight", "weight", "shift"),
    "MatMul": ("weight", "weight"),
    "Einsum": ("weight", "weight"),
    "BatchNormalization": ("", "scale", "shift", "shift", "variance"),
    "InstanceNormalization": ("", "scale", "shift"),
    "LayerNormalization": ("", "scale", "shift"),
    "GroupNormalization": ("", "scale", "shift"),
    "RMSNormalization": ("", "scale"),
}
_VECTOR_ROLES: Mapping[str, tuple[str, str]] = {
    "Add": ("shift", "shift"),
    "Sub": ("shift", "shift"),
    "Mul": ("scale", "scale"),
}
"""Of constants that a plan cuts: they are per channel, and not the numbers of some formula."""


_SHIFT = 0.05
"""Standard deviation of redrawn shifts: seen wherever they matter, and small, for behind gates in a row what
inputs move fades beside them."""


@dataclass(frozen=True)
class Compared:
    """One tensor that both models compute."""

    name: str
    cuts: tuple[tuple[Axes, Indices], ...]
    """(axis or axes, indices of the masked model's tensor that the compact one has); none: they are alike."""
    node_label: str
    is_output: bool = False
    """Whether it is an output of the model."""

    def kept(self, array: Array) -> Array:
        """The part of the masked model's tensor that the compact one has."""
        for axes, indices in self.cuts:
            array = array.take(indices, axis=axes) if isinstance(axes, int) else _take(array, axes, indices)
        return array


def compared_tensors(
    masked: onnx.ModelProto, compact: onnx.ModelProto, kept: Kept
) -> tuple[list[Compared], list[str]]:
    """What can be compared: outputs of contractions and norms that both models have, and all graph outputs.

    Args:
        masked: the model before.
        compact: the model after.
        kept: indices of the masked model's activations that are left, by (name, axis).

    Returns:
        The tensors in graph order, and the names of those that the compact model no longer computes.
    """
    outputs = {value.name for value in masked.graph.output}
    present = {name for node in compact.graph.node for name in node.output}
    cuts: dict[str, list[tuple[Axes, Indices]]] = {}
    for (name, axes), indices in kept.items():
        cuts.setdefault(name, []).append((axes, indices))
    tensors, gone = [], []
    for position, node in enumerate(masked.graph.node):
        for name in node.output:
            inner = node.op_type in _SHOWN and name == node.output[0]
            if not name or not (inner or name in outputs):
                continue
            if name in present:
                label = node.name or f"{node.op_type}#{position}"
                tensors.append(Compared(name, tuple(cuts.get(name, ())), label, name in outputs))
            else:
                gone.append(name)
    return tensors, gone


def _take(array: Array, axes: tuple[int, ...], positions: Indices) -> Array:
    """Positions, flat over several axes, whose places the positions' own axes take."""
    front = tuple(range(len(axes)))
    moved = np.moveaxis(array, axes, front)
    flat = moved.reshape(-1, *moved.shape[len(axes) :])
    return np.moveaxis(flat[positions], front, axes)


@dataclass(frozen=True)
class Path:
    """A constant and the relayouts between it and an operand."""

    source: str
    steps: tuple[tuple[onnx.NodeProto, tuple[int, ...] | None], ...]
    """Each node with its constant shape or axes, if it has one."""

    def apply(self, values: Array) -> Array:
        """The operand that a value of the constant gives."""
        for node, argument in self.steps:
            values = _relayout(node, argument, values)
        return values


class _Relayouts:
    """Traces operands of one model back to constants."""

    def __init__(self, model: Detached) -> None:
        self.tensors = Tensors(model)
        self._producers = {name: node for node in model.proto.graph.node for name in node.output}

    def trace(self, name: str) -> Path | None:
        steps = []
        while name not in self.tensors:
            node = self._producers.get(name)
            if node is None or node.op_type not in _RELAYOUTS:
                return None
            argument = None
            if len(node.input) > 1:
                if node.input[1] not in self.tensors:
                    return None
                argument = tuple(int(size) for size in self.tensors.get(node.input[1]))
            steps.append((node, argument))
            name = node.input[0]
        return Path(name, tuple(reversed(steps)))


def _relayout(node: onnx.NodeProto, argument: tuple[int, ...] | None, values: Array) -> Array:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Transpose":
        return values.transpose(attributes.get("perm", tuple(reversed(range(values.ndim)))))
    if node.op_type == "Reshape":
        target = argument if argument is not None else tuple(attributes["shape"])
        if not attributes.get("allowzero"):
            target = tuple(values.shape[axis] if size == 0 else size for axis, size in enumerate(target))
        return values.reshape(target)
    if node.op_type == "Flatten":
        axis = attributes.get("axis", 1)
        return values.reshape(int(np.prod(values.shape[:axis])), -1)
    axes = argument if argument is not None else tuple(attributes.get("axes", ()))
    if node.op_type == "Unsqueeze":
        return np.expand_dims(values, axes)
    if node.op_type == "Squeeze":
        return np.squeeze(values, axes or None)
    return values


def _outputs(node: onnx.NodeProto, operand: int, shape: tuple[int, ...]) -> int:
    """Number of output channels that a weight operand of this shape makes."""
    attributes: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "ConvTranspose":
        return shape[1] * attributes.get("group", 1)
    if node.op_type == "Gemm":
        return shape[0 if bool(attributes.get("transB" if operand else "transA", 0)) == bool(operand) else 1]
    if node.op_type == "Einsum":
        terms, _, result = onnx.helper.get_node_attr_value(node, "equation").decode().partition("->")
        own = terms.replace(" ", "").split(",")[operand]
        return int(np.prod([size for label, size in zip(own, shape, strict=False) if label in result]))
    if node.op_type == "MatMul":
        return shape[-1] if operand or len(shape) == 1 else shape[-2]
    return shape[0]


def removal_of(plan: Plan, name: str, path: Path, values: Array) -> Array:
    """What a plan leaves of a constant.

    Args:
        plan: the removal.
        name: the constant's.
        path: from the constant to the operand, which a plan may fold into it.
        values: the constant's values in the masked model.
    """
    if any(fold.tensor == name for fold in plan.folds):
        values = path.apply(values)
    for cut in plan.cuts:
        if cut.tensor == name:
            values = values.take(cut.kept, cut.axis)
    for grouped in plan.grouped_cuts:
        if grouped.tensor == name:
            values = grouped.apply(values)
    return values


@dataclass(frozen=True)
class Redrawn:
    """What `redraw` did."""

    unlike: tuple[str, ...]
    """Constants that were left alone, for the compact model holds other values than the plan says."""
    scaled_by: Mapping[str, Mapping[int, str]]
    """By output of a layer, redrawn constants: 0, what scales it; 1, a mean that follows its input."""


def redraw(masked: Detached, compact: Detached, plan: Plan, rng: np.random.Generator) -> Redrawn:
    """Turn a pair into a redrawn one, in place: see the top of the file.

    Weights become uniform with variance 1 / (live inputs of an output), so that signals neither fade nor
    swell; shifts `_SHIFT` normal, norm scales and variances in [0.5, 2]. What is zero stays zero.

    Args:
        masked: in float32 or float64.
        compact: likewise.
        plan: how the one became the other.
        rng: of the draws.
    """
    ours, theirs = Tensors(masked), Tensors(compact)
    unlike = []
    operands = list(_operands(masked, {cut.tensor for cut in plan.cuts}))
    for name, (role, outputs, path) in {one.path.source: one.draw for one in reversed(operands)}.items():
        values = ours.get(name)
        if name in theirs and not np.array_equal(theirs.get(name), removal_of(plan, name, path, values)):
            unlike.append(name)
            continue
        drawn = _draw(role, values, outputs, rng)
        ours.set(name, drawn)
        if name in theirs:
            theirs.set(name, removal_of(plan, name, path, drawn))
    scaled_by: dict[str, dict[int, str]] = {}
    for one in operands:
        if one.follows is not None and one.path.source not in unlike:
            scaled_by.setdefault(one.output, {})[one.follows] = one.path.source
    for model in (masked, compact):
        _linearise(model)
    return Redrawn(tuple(unlike), scaled_by)


def layer_constants(model: Detached) -> list[str]:
    """Floating-point constants that contractions and norms read, each once."""
    return list(dict.fromkeys(one.path.source for one in _operands(model, set())))


def rescale(masked: Detached, compact: Detached, factors: Mapping[str, float]) -> None:
    """Multiply constants in both models, in place."""
    for tensors in (Tensors(masked), Tensors(compact)):
        for name, factor in factors.items():
            if name in tensors:
                values = tensors.get(name)
                tensors.set(name, np.multiply(values, factor).astype(values.dtype))


@dataclass(frozen=True)
class _Operand:
    """A floating-point constant that a layer reads."""

    path: Path
    draw: tuple[str, int, Path]
    """Role, number of outputs it makes, way from the constant."""
    output: str
    follows: int | None
    """0: the layer's output is proportional to it; 1: it belongs to the level of the layer's input."""


def _operands(model: Detached, cut: set[str]) -> Iterator[_Operand]:
    """Constants that contractions and norms read, and those that are `cut` and added or multiplied."""
    relayouts = _Relayouts(model)
    for node in model.proto.graph.node:
        vector = _VECTOR_ROLES.get(node.op_type, ())
        for operand, (role, name) in enumerate(
            zip(_ROLES.get(node.op_type, vector), node.input, strict=False)
        ):
            path = relayouts.trace(name) if role and name else None
            if path is None or not relayouts.tensors.is_float(path.source):
                continue
            if vector and path.source not in cut:
                continue
            outputs, follows = 1, None
            if role == "weight":
                shape = path.apply(relayouts.tensors.get(path.source)).shape
                outputs, follows = _outputs(node, operand, shape), 0
            elif node.op_type == "BatchNormalization":
                follows = {1: 0, 3: 1}.get(operand)
            yield _Operand(path, (role, outputs, path), node.output[0], follows)


def _draw(role: str, values: Array, outputs: int, rng: np.random.Generator) -> Array:
    """Values of a role, in the dtype given (float32 or float64); zeros stay."""
    live = np.not_equal(values, 0)
    drawn: Array
    if role == "weight":
        drawn = scattered(values, math.sqrt(outputs / max(1, int(np.count_nonzero(live)))), rng)
    elif role == "shift":
        drawn = np.asarray(_SHIFT * rng.standard_normal(values.shape))
    else:
        drawn = np.asarray(rng.uniform(0.5, 2, values.shape))
        if role == "scale":
            drawn = drawn * rng.choice([-1.0, 1.0], values.shape)
    return np.multiply(drawn, live, out=drawn).astype(values.dtype, copy=False)


def _linearise(model: Detached) -> None:
    """Activations that map 0 to 0, and clips around 0, become Identity."""
    tensors = Tensors(model)
    dropped: set[str] = set()
    for node in model.proto.graph.node:
        if node.domain in ("", "ai.onnx") and (
            node.op_type in _ZERO_TO_ZERO or (node.op_type == "Clip" and _clips_around_zero(node, tensors))
        ):
            node.op_type = "Identity"
            dropped.update(node.input[1:])
            del node.input[1:]
            del node.attribute[:]
    _drop_unread(model.proto.graph, dropped)


def _drop_unread(graph: onnx.GraphProto, names: set[str]) -> None:
    """Initializers among these that nothing reads any more; with some, onnxruntime loads not every model."""
    if any(
        attribute.type == onnx.AttributeProto.GRAPH for node in graph.node for attribute in node.attribute
    ):
        return  # a subgraph may read them
    read = {name for node in graph.node for name in node.input}
    read.update(value.name for value in (*graph.input, *graph.output))
    kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in names]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _clips_around_zero(node: onnx.NodeProto, tensors: Tensors) -> bool:
    limits = {attribute.name: attribute.f for attribute in node.attribute}
    for name, place in (("min", 1), ("max", 2)):
        if len(node.input) > place and node.input[place]:
            if node.input[place] not in tensors:
                return False
            limits[name] = float(tensors.get(node.input[place]))
    return bool(limits.get("min", -1.0) <= 0 <= limits.get("max", 1.0))


def unreactive(model: Detached) -> set[str]:
    """Tensors that can't depend on the inputs: made of constants alone, or behind all-zero weights."""
    tensors = Tensors(model)
    still = set(tensors)
    relayouts = _Relayouts(model)
    for node in model.proto.graph.node:
        inputs = [name for name in node.input if name and node.op_type not in ("Shape", "Size")]
        closed = all(name in still for name in inputs) and not any(
            attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for attribute in node.attribute
        )
        if not closed:
            closed = any(
                role in ("weight", "scale")
                and (path := relayouts.trace(name)) is not None
                and not np.any(tensors.get(path.source))
                for role, name in zip(_ROLES.get(node.op_type, ()), node.input, strict=False)
                if name
            )
        if closed and not node.op_type.startswith("Random"):
            still.update(node.output)
    return still


def add_outputs(model: onnx.ModelProto, names: list[str]) -> None:
    """Add tensors to a model's outputs, in place."""
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
