"""Concrete shapes of every tensor: symbolic input dimensions are filled, then one walk infers the rest.

The walk, node by node, also computes the small tensors that shapes are made of (`Shape -> Gather -> Concat ->
Reshape`), so that exports that work sizes out at run time get shapes too. The user's model is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from evonnx.errors import ModelError
from evonnx.network.inference import Dim, infer
from evonnx.network.operands import WEIGHT_PORTS

MOST_ELEMENTS = 1 << 30
"""Of one tensor, 4 GiB in float32: files are not trusted to say what is allocated when a model runs."""
_SIDES = (
    (224, 32),
    (224, 512),
    (32, 16),
    (28, 64),
    (256, 128),
    (320, 2048),
)
"""Tried in turn for open dimensions until all layers fit: (side of an image, any other length)."""


@dataclass(frozen=True)
class Inference:
    """Concrete shapes and how they came about."""

    input_shapes: Mapping[str, tuple[int, ...]]
    """Of every graph input that is not an initializer."""
    shapes: Mapping[str, tuple[Dim, ...]]
    """By tensor name; None where a dimension is unknown; tensors of unknown rank are missing."""
    batch: int
    """What the first input's leading dimension was set to where the model leaves it open, else 1."""
    notes: tuple[str, ...]


def infer_shapes(
    model: ir.Model, source: str, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> Inference:
    """Shapes of all tensors of the main graph for concrete input shapes.

    Raises:
        ModelError: `input_shapes` names no input, or does not fit what the model declares; a tensor would be
            too large.
    """
    given = input_shapes or {}
    _check_given(model, source, given)
    best = _attempt(model, given, _SIDES[0])
    for sides in _SIDES[1:] if best.guessed else ():
        if not best.missing:
            break
        attempt = _attempt(model, given, sides)
        best = attempt if attempt.missing < best.missing else best
    _refuse_huge(best.inference.shapes, source)
    return best.inference


def _refuse_huge(shapes: Mapping[str, tuple[Dim, ...]], source: str) -> None:
    for name, shape in shapes.items():
        if math.prod(dim for dim in shape if isinstance(dim, int)) > MOST_ELEMENTS:
            raise ModelError(
                f"{source}: tensor {name!r} would have the shape {list(shape)}, more than {MOST_ELEMENTS:,} "
                "elements. If inputs have open dimensions, give smaller ones with --input-shape; otherwise "
                "the file is damaged, or made to do harm."
            )


def model_inputs(model: ir.Model) -> list[ir.Value]:
    """Graph inputs that are not initializers: what a caller must feed."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


@dataclass(frozen=True)
class _Attempt:
    inference: Inference
    guessed: bool
    """Whether an open dimension other than the batch was guessed."""
    missing: int
    """How many nodes that multiply with weights have no shape, or one that does not fit their weights."""


def _attempt(model: ir.Model, given: Mapping[str, Sequence[int]], sides: tuple[int, int]) -> _Attempt:
    """Infer with open image sides set to `sides[0]` and other open dimensions to `sides[1]`."""
    chosen: dict[str, tuple[int, ...]] = {}
    notes: list[str] = []
    symbols = _symbols(model, given)
    for value in model_inputs(model):
        name = value.name or ""
        if name in given:
            chosen[name] = tuple(given[name])
        elif value.shape is not None:
            declared = [_known(dim) or symbols.get(_symbol(dim)) for dim in value.shape]
            chosen[name] = _filled(declared, *sides)
            if None in declared[1:]:
                size = "x".join(map(str, chosen[name]))
                notes.append(f"Input {name!r} declares {_declared(value)}; shapes and MACs are for {size}.")
    guessed = bool(notes)
    shapes = infer(model, chosen)
    inference = Inference(chosen, shapes, _batch(model, chosen), tuple(notes))
    return _Attempt(inference, guessed, _missing(model, shapes))


def _missing(model: ir.Model, shapes: Mapping[str, tuple[Dim, ...]]) -> int:
    missing = 0
    for node in model.graph:
        if node.op_type in WEIGHT_PORTS and node.domain in ("", "ai.onnx"):
            made = shapes.get(node.outputs[0].name or "", (None,))
            known = all(isinstance(dim, int) and dim > 0 for dim in made)
            missing += not (known and _contracts(node, shapes))
    return missing


def _contracts(node: ir.Node, shapes: Mapping[str, tuple[Dim, ...]]) -> bool:
    """Whether the two operands of a product agree; shape inference lets them differ."""
    if node.op_type not in ("Gemm", "MatMul"):
        return True
    a, b = (shapes.get((value.name if value is not None else None) or "", ()) for value in node.inputs[:2])
    if not a or not b:
        return True
    left = a[0] if node.attributes.get_int("transA", 0) else a[-1]
    right = b[-1] if node.attributes.get_int("transB", 0) else b[max(0, len(b) - 2)]
    return left is None or right is None or left == right


def _check_given(model: ir.Model, source: str, given: Mapping[str, Sequence[int]]) -> None:
    inputs = {value.name or "": value for value in model_inputs(model)}
    listing = ", ".join(f"{name}{_declared(value)}" for name, value in inputs.items()) or "none"
    for name, shape in given.items():
        if name not in inputs:
            raise ModelError(f"{source} has no input named {name!r}; its inputs are {listing}.")
        if any(dim < 1 for dim in shape):
            raise ModelError(f"Shape {list(shape)} for input {name!r} of {source} has a dimension below 1.")
        declared = inputs[name].shape
        if declared is None:
            continue
        fits = len(declared) == len(shape) and all(
            _known(want) in (None, dim) for want, dim in zip(declared, shape, strict=True)
        )
        if not fits:
            raise ModelError(
                f"Shape {list(shape)} does not fit input {name!r} of {source}; its inputs are {listing}."
            )


def _filled(declared: list[int | None], side: int, length: int) -> tuple[int, ...]:
    """Open dimensions filled: the batch with 1, images (4-D) with 3 channels and `side`, others `length`."""
    shape: list[int] = []
    for axis, dim in enumerate(declared):
        if dim is not None:
            shape.append(dim)
        elif axis == 0:
            shape.append(1)
        elif len(declared) == 4:
            channels = axis == 1 and declared[3] != 3
            shape.append(3 if channels else side)
        else:
            shape.append(length)
    return tuple(shape)


def _symbols(model: ir.Model, given: Mapping[str, Sequence[int]]) -> dict[str | None, int]:
    """Sizes of named dimensions: as given for another input, or 1 for those that lead an input (a batch)."""
    sizes: dict[str | None, int] = {}
    for value in model_inputs(model):
        for axis, dim in enumerate(value.shape or ()):
            name = _symbol(dim)
            if name is not None and (value.name or "") in given:
                sizes[name] = given[value.name or ""][axis]
            elif name is not None and axis == 0:
                sizes.setdefault(name, 1)
    return sizes


def _symbol(dim: object) -> str | None:
    return (dim.value or None) if isinstance(dim, ir.SymbolicDim) else None


def _batch(model: ir.Model, chosen: Mapping[str, tuple[int, ...]]) -> int:
    for value in model_inputs(model):
        shape = chosen.get(value.name or "", ())
        if len(shape) > 1:
            fixed = value.shape is not None and _known(value.shape[0]) is not None
            return 1 if fixed else shape[0]
    return 1


def _known(dim: object) -> int | None:
    """A declared dimension as a size; None for a symbol, and for 0, which exporters write for "unknown"."""
    return dim if isinstance(dim, int) and dim > 0 else None


def _declared(value: ir.Value) -> str:
    if value.shape is None:
        return " of any shape"
    return (
        "[" + ", ".join(str(dim) if isinstance(dim, int) else dim.value or "?" for dim in value.shape) + "]"
    )
