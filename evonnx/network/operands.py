"""Weight operands: which inputs may hold weights, and the way back to the initializer that holds them.

Algebra: Reshape, Squeeze, Unsqueeze and Flatten are one "reshape" step, Transpose is one "transpose" step;
Identity and Cast are none (a cast keeps zeros). None of them mixes numbers: masks map back through the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from evonnx.onnx_io import constant_tensor

WEIGHT_PORTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1, 0), "MatMul": (1, 0), "Einsum": (1, 0)}
"""Inputs that may hold a prunable weight, by operator, the usual one first."""
RELAYOUTS = frozenset(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"))


@dataclass(frozen=True)
class Relayout:
    """One constant relayout between an initializer and the operand a node reads: a Reshape or a Transpose."""

    kind: str
    """"reshape" or "transpose"."""
    argument: tuple[int, ...]
    """The target shape of a reshape (no -1, no 0), or the permutation of a transpose."""
    source_shape: tuple[int, ...]
    """Shape before this step."""


@dataclass(frozen=True)
class EinsumTerms:
    """The terms of an Einsum of two operands, one label per axis; "..." is one label."""

    operands: tuple[tuple[str, ...], tuple[str, ...]]
    result: tuple[str, ...]

    def matrix_axes(self, slot: int) -> tuple[int, int] | None:
        """(output axis, input axis) of the operand at `slot`; None where it is not a plain matrix.

        A plain matrix has two axes: one that the other operand has and the result has not, and one the
        other way round.
        """
        own, other = self.operands[slot], self.operands[1 - slot]
        if len(set(own)) != 2 or len(own) != 2 or "..." in own or len(set(other)) != len(other):
            return None
        outputs = [axis for axis, label in enumerate(own) if label in self.result and label not in other]
        inputs = [axis for axis, label in enumerate(own) if label in other and label not in self.result]
        kept = [label for label in other if label not in own]
        whole = sorted(self.result) == sorted([*kept, *(own[axis] for axis in outputs)])
        return (outputs[0], inputs[0]) if len(outputs) == len(inputs) == 1 and whole else None


def einsum_terms(node: ir.Node) -> EinsumTerms | None:
    """The equation of an Einsum of two operands; None for other numbers of operands or without a result."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    operands = [_labels(term) for term in terms.split(",")]
    if len(operands) != 2 or not arrow:
        return None
    return EinsumTerms((operands[0], operands[1]), _labels(result))


def _labels(term: str) -> tuple[str, ...]:
    before, dots, after = term.partition("...")
    return (*before, *([dots] if dots else []), *after)


@dataclass(frozen=True)
class Source:
    """Where an operand's numbers come from: a constant, and the steps from it to the operand."""

    value: ir.Value
    relayouts: tuple[Relayout, ...]
    dequantized: ir.Value | None = None
    """What the last DequantizeLinear on the way makes; None where there is none."""


def trace(value: ir.Value | None) -> Source | None:
    """Follow an operand back through constant relayouts to an initializer or Constant node; None without one.

    A DequantizeLinear is passed through and noted.
    """
    steps: list[Relayout] = []
    dequantized: ir.Value | None = None
    while value is not None:
        if constant_tensor(value) is not None:
            return Source(value, tuple(reversed(steps)), dequantized)
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or not node.inputs:
            return None
        if node.op_type == "DequantizeLinear":
            dequantized, value = value, node.inputs[0]
            continue
        if node.op_type not in RELAYOUTS:
            return None
        before = static_shape(node.inputs[0])
        if before is None:
            return None
        step = relayout_of(node, before)
        if step is not None:
            steps.append(step)
        elif node.op_type not in ("Identity", "Cast"):
            return None
        value = node.inputs[0]
    return None


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Shape of a constant or of a relayout of constants; None for anything else."""
    tensor = constant_tensor(value)
    if tensor is not None:
        return tuple(int(dim) for dim in tensor.shape.numpy())
    node = value.producer() if value is not None else None
    if node is None or not node.inputs or node.op_type not in (*RELAYOUTS, "DequantizeLinear"):
        return None
    before = static_shape(node.inputs[0])
    if before is None or node.op_type in ("Identity", "Cast", "DequantizeLinear"):
        return before
    step = relayout_of(node, before)
    if step is None:
        return None
    return step.argument if step.kind == "reshape" else tuple(before[axis] for axis in step.argument)


def relayout_of(node: ir.Node, before: tuple[int, ...]) -> Relayout | None:
    """The step a relayout node makes of an array of shape `before`; None for Identity or a run-time shape."""
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm", tuple(reversed(range(len(before)))))
        return Relayout("transpose", tuple(perm or ()), before)
    target = _reshape_target(node, before)
    return None if target is None else Relayout("reshape", target, before)


def _reshape_target(node: ir.Node, before: tuple[int, ...]) -> tuple[int, ...] | None:
    rank = len(before)
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1) or 0
        axis = axis if axis >= 0 else axis + rank
        return math.prod(before[:axis]), math.prod(before[axis:])
    if node.op_type == "Reshape":
        target = _integers(node, "shape")
        return (
            None
            if target is None
            else _resolve(target, before, bool(node.attributes.get_int("allowzero", 0)))
        )
    if node.op_type == "Squeeze":
        axes = _integers(node, "axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
            return None
        drop = (
            {axis % rank for axis in axes}
            if axes is not None
            else {i for i, dim in enumerate(before) if dim == 1}
        )
        return tuple(dim for i, dim in enumerate(before) if i not in drop)
    if node.op_type == "Unsqueeze":
        axes = _integers(node, "axes")
        if axes is None:
            return None
        after = rank + len(axes)
        new, rest = {axis % after for axis in axes}, iter(before)
        return tuple(1 if i in new else next(rest) for i in range(after))
    return None


def _integers(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Integers given as an attribute (old opsets) or as a constant second input; None where unknown."""
    if name in node.attributes:
        return tuple(node.attributes[name].as_ints())
    tensor = constant_tensor(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if tensor is None else tuple(int(i) for i in tensor.numpy().reshape(-1))


def _resolve(target: tuple[int, ...], before: tuple[int, ...], allow_zero: bool) -> tuple[int, ...] | None:
    dims = [
        before[i] if dim == 0 and not allow_zero and i < len(before) else dim for i, dim in enumerate(target)
    ]
    if -1 in dims:
        known = math.prod(dim for dim in dims if dim != -1)
        if known == 0 or math.prod(before) % known:
            return None
        dims[dims.index(-1)] = math.prod(before) // known
    return tuple(dims) if math.prod(dims) == math.prod(before) else None
