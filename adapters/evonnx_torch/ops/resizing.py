"""Resize and Upsample: separable interpolation.

Coordinates are worked out per axis as ONNX defines them. Where torch's own interpolation gives the same
coordinates it is used; else nearest is an index per axis and linear or cubic a small constant matrix per
axis.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder

_LINEAR: dict[int, str] = {1: "linear", 2: "bilinear", 3: "trilinear"}
Floats = NDArray[np.float64]


@builder("Upsample")
def upsample(call: Call) -> Emit:
    """The operator before Resize: asymmetric coordinates, nearest rounds down."""
    scales = call.floats(1) if call.has(1) else tuple(call.attr("scales"))
    sizes = [math.floor(n * s) for n, s in zip(call.shape(0), scales, strict=True)]
    return _resize(call, sizes, list(scales), call.attr("mode", "nearest"), "asymmetric", "floor")


@builder("Resize")
def resize(call: Call) -> Emit:
    """Opset 10 (scales only) and 11 on (roi, scales or sizes, axes)."""
    dims = call.shape(0)
    if call.opset < 11:
        scales = list(call.floats(1))
        sizes = [math.floor(n * s) for n, s in zip(dims, scales, strict=True)]
        return _resize(call, sizes, scales, call.attr("mode", "nearest"), "asymmetric", "floor")
    if call.attr("antialias", 0) and any(s < n for s, n in zip(_target(call)[0], dims, strict=True)):
        raise Unsupported("antialias")
    coordinates = call.attr("coordinate_transformation_mode", "half_pixel")
    sizes, scales = _target(call)
    nearest = call.attr("nearest_mode", "round_prefer_floor")
    if coordinates == "tf_crop_and_resize":
        return _crop(call, sizes, nearest)
    return _resize(call, sizes, scales, call.attr("mode", "nearest"), coordinates, nearest)


def _target(call: Call) -> tuple[list[int], list[float]]:
    """Output sizes and scales for every axis."""
    dims = list(call.shape(0))
    axes = [call.axis(a) for a in call.attr("axes") or range(len(dims))]
    sizes, scales = list(dims), [1.0] * len(dims)
    if call.has(2) and call.example(2).numel():
        for axis, scale in zip(axes, call.floats(2), strict=True):
            scales[axis] = scale
            sizes[axis] = math.floor(dims[axis] * scale)
        return sizes, scales
    asked = dict(zip(axes, call.ints(3), strict=True))
    if call.batch and asked.get(0) == call.batch[0] and dims[0] == call.batch[1]:
        asked[0] = dims[0]
    policy = call.attr("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        ratios = [size / dims[axis] for axis, size in asked.items()]
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        for axis in asked:
            sizes[axis], scales[axis] = math.floor(ratio * dims[axis] + 0.5), ratio
        return sizes, scales
    for axis, size in asked.items():
        sizes[axis], scales[axis] = size, size / dims[axis]
    return sizes, scales


def _resize(
    call: Call, sizes: list[int], scales: list[float], mode: str, coordinates: str, nearest: str
) -> Emit:
    dims = call.shape(0)
    changed = [i for i in range(len(dims)) if sizes[i] != dims[i] or scales[i] != 1.0]
    if not changed:
        return call.emit(lambda x: x, 0)
    positions = {i: _positions(dims[i], sizes[i], scales[i], coordinates) for i in changed}
    spatial = len(dims) - 2
    # torch resizes all axes after the first two at once.
    plain = spatial in _LINEAR and min(changed) >= 2
    target = tuple(sizes[2:])
    if mode == "nearest":
        index = {i: np.clip(_round(positions[i], nearest), 0, dims[i] - 1).astype(np.int64) for i in changed}
        same = all(np.array_equal(index[i], np.arange(sizes[i]) * dims[i] // sizes[i]) for i in changed)
        if plain and same:
            return call.emit(lambda x: F.interpolate(x, size=target, mode="nearest"), 0)
        picks = [(i, torch.from_numpy(index[i]).to(call.example(0).device)) for i in changed]

        def by_index(x: Tensor) -> Tensor:
            for axis, pick in picks:
                x = x.index_select(axis, pick)
            return x

        return call.emit(by_index, 0)
    if mode == "linear" and plain:
        for aligned in (False, True):
            if all(_torch_linear(dims[i], sizes[i], positions[i], aligned) for i in changed):
                return call.emit(
                    partial(F.interpolate, size=target, mode=_LINEAR[spatial], align_corners=aligned), 0
                )
    if mode not in ("linear", "cubic"):
        raise Unsupported(f"mode {mode!r}")
    weights = [(i, _matrix(call, mode, positions[i], dims[i])) for i in changed]

    def by_matrix(x: Tensor) -> Tensor:
        for axis, matrix in weights:
            x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return x

    return call.emit(by_matrix, 0)


def _crop(call: Call, sizes: list[int], nearest: str) -> Emit:
    """A region in normalised coordinates, stretched; places outside the operand get one value."""
    dims = call.shape(0)
    if tuple(sizes) == dims:
        return call.emit(lambda x: x, 0)  # as onnxruntime does, whatever the region
    axes = [call.axis(a) for a in call.attr("axes") or range(len(dims))]
    region = call.floats(1)
    mode, fill = call.attr("mode", "nearest"), float(call.attr("extrapolation_value", 0.0))
    device = call.example(0).device
    weights, outside = [], torch.zeros(1, dtype=torch.bool, device=device)
    for axis, start, end in zip(axes, region[: len(axes)], region[len(axes) :], strict=True):
        if (start, end) == (0.0, 1.0) and sizes[axis] == dims[axis]:
            continue
        steps = np.linspace(start, end, sizes[axis]) if sizes[axis] > 1 else np.array([(start + end) / 2])
        at = steps * (dims[axis] - 1)
        beyond = torch.from_numpy((at < 0) | (at > dims[axis] - 1)).to(device)
        outside = outside | beyond.reshape([-1 if i == axis else 1 for i in range(len(dims))])
        at = np.clip(at, 0, dims[axis] - 1)
        matrix = _matrix(call, "linear" if mode == "nearest" else mode, at, dims[axis])
        if mode == "nearest":
            picked = torch.from_numpy(_round(at, nearest).astype(np.int64))
            matrix = F.one_hot(picked, dims[axis]).t().to(device, torch.float32)
        weights.append((axis, matrix))

    def kernel(x: Tensor) -> Tensor:
        for axis, matrix in weights:
            x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return x.masked_fill(outside, fill)

    return call.emit(kernel, 0)


def _positions(size: int, target: int, scale: float, coordinates: str) -> Floats:
    """Where each output lies on the input axis (ONNX, coordinate_transformation_mode)."""
    out = np.arange(target, dtype=np.float64)
    if coordinates == "asymmetric":
        return out / scale
    if coordinates == "align_corners":
        return out * (size - 1) / (target - 1) if target > 1 else np.zeros(target)
    if coordinates == "pytorch_half_pixel" and target <= 1:
        return np.zeros(target)
    if coordinates == "tf_half_pixel_for_nn":
        return (out + 0.5) / scale
    if coordinates == "half_pixel_symmetric":
        return size / 2 * (1 - target / (scale * size)) + (out + 0.5) / scale - 0.5
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (out + 0.5) / scale - 0.5
    raise Unsupported(f"coordinates {coordinates!r}")


def _round(positions: Floats, nearest: str) -> Floats:
    if nearest == "floor":
        return np.floor(positions)
    if nearest == "ceil":
        return np.ceil(positions)
    if nearest == "round_prefer_ceil":
        return np.floor(positions + 0.5)
    return np.ceil(positions - 0.5)


def _torch_linear(size: int, target: int, positions: Floats, aligned: bool) -> bool:
    """Whether torch's linear interpolation reads from the same places."""
    theirs = _positions(size, target, target / size, "align_corners" if aligned else "half_pixel")
    return bool(np.allclose(np.clip(theirs, 0, size - 1), np.clip(positions, 0, size - 1), atol=1e-6))


def _matrix(call: Call, mode: str, positions: Floats, size: int) -> Any:
    """Interpolation weights of one axis, shape (input size, output size)."""
    matrix = np.zeros((size, len(positions)))
    floor = np.floor(positions).astype(np.int64)
    columns = np.arange(len(positions))
    offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
    a = float(call.attr("cubic_coeff_a", -0.75))
    for offset in offsets:
        distance = np.abs(positions - (floor + offset))
        weight = np.clip(1 - distance, 0, None) if mode == "linear" else _cubic(distance, a)
        place = floor + offset
        if call.attr("exclude_outside", 0):
            weight = np.where((place >= 0) & (place < size), weight, 0.0)
        np.add.at(matrix, (np.clip(place, 0, size - 1), columns), weight)
    if call.attr("exclude_outside", 0):
        matrix /= matrix.sum(0, keepdims=True)
    return torch.from_numpy(matrix.astype(np.float32)).to(call.example(0).device)


def _cubic(distance: Floats, a: float) -> Floats:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
