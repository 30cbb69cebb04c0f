"""Concrete shapes of every tensor: symbolic input dimensions are filled, ONNX shape inference does the rest.

Works on a copy without the large weights' data; the user's model is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from evonnx.errors import ModelError

Dim = int | str | None

_IMAGE_SIDE = 224
_SMALL_ELEMENTS = 4096
"""Constants up to this size keep their data for inference: they may hold a shape."""


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
        ModelError: `input_shapes` names no input, or does not fit what the model declares.
    """
    chosen, notes = _concrete_inputs(model, source, input_shapes or {})
    proto = _skeleton(model, chosen)
    shapes: dict[str, tuple[Dim, ...]] = {}
    try:
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
    except Exception as error:  # inference errors come in many classes; shapes then stay unknown
        notes.append(f"Shape inference failed ({str(error).splitlines()[0][:200]}); MACs are not known.")
    for info in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
            shapes[info.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
                for dim in info.type.tensor_type.shape.dim
            )
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            shapes[name] = tuple(int(dim) for dim in value.const_value.shape.numpy())
    return Inference(chosen, shapes, _batch(model, chosen), tuple(notes))


def model_inputs(model: ir.Model) -> list[ir.Value]:
    """Graph inputs that are not initializers: what a caller must feed."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def _concrete_inputs(
    model: ir.Model, source: str, given: Mapping[str, Sequence[int]]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    inputs = model_inputs(model)
    listing = ", ".join(f"{value.name}{_declared(value)}" for value in inputs) or "none"
    unknown = sorted(set(given) - {value.name or "" for value in inputs})
    if unknown:
        raise ModelError(f"{source} has no input named {unknown[0]!r}; its inputs are {listing}.")
    chosen: dict[str, tuple[int, ...]] = {}
    notes: list[str] = []
    for value in inputs:
        name = value.name or ""
        declared = None if value.shape is None else [_known(dim) for dim in value.shape]
        if name in given:
            chosen[name] = _checked(tuple(given[name]), declared, name, source, listing)
        elif declared is not None:
            chosen[name], guessed = _filled(declared)
            if guessed:
                size = "x".join(map(str, chosen[name]))
                notes.append(f"Input {name!r} declares {_declared(value)}; shapes and MACs are for {size}.")
    return chosen, notes


def _checked(
    shape: tuple[int, ...], declared: list[int | None] | None, name: str, source: str, listing: str
) -> tuple[int, ...]:
    if any(dim < 1 for dim in shape):
        raise ModelError(f"Input shape {list(shape)} for {name!r} of {source} has a dimension below 1.")
    fits = declared is None or (
        len(declared) == len(shape)
        and all(want is None or want == dim for want, dim in zip(declared, shape, strict=True))
    )
    if not fits:
        raise ModelError(
            f"Input shape {list(shape)} does not fit input {name!r} of {source}; it declares {listing}."
        )
    return shape


def _filled(declared: list[int | None]) -> tuple[tuple[int, ...], bool]:
    """Unknown dimensions filled: 1, but for 4-D images a side of 224 and 3 channels. Also: is it a guess?"""
    image = len(declared) == 4
    shape: list[int] = []
    for axis, dim in enumerate(declared):
        if dim is not None:
            shape.append(dim)
        elif image and axis > 0:
            channels = axis == 1 and declared[3] != 3
            shape.append(3 if channels else _IMAGE_SIDE)
        else:
            shape.append(1)
    return tuple(shape), any(dim is None for dim in declared[1:])


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


def _skeleton(model: ir.Model, chosen: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The graph with concrete inputs, no remembered shapes, and large weights declared instead of stored."""
    light = model.clone()
    graph = light.graph
    declared = {value.name for value in graph.inputs}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        if tensor.size > _SMALL_ELEMENTS:
            del graph.initializers[name]
            if name not in declared:
                graph.inputs.append(value)
    for value in graph.inputs:
        if (value.name or "") in chosen:
            value.shape = ir.Shape(chosen[value.name or ""])
    for node in graph:
        for output in node.outputs:
            output.shape = None
            if not output.is_graph_output():
                output.type = None
    return ir.to_proto(light)
