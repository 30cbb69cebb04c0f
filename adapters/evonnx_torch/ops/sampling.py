"""Reading at computed places: GridSample, RoiAlign; and Col2Im, which adds overlapping columns up.

RoiAlign takes the mean of bilinear samples on a regular grid in each bin of a region. Both axes are
independent, so a region r gives Y[r] = A[r] X[b[r]] B[r]^T with small matrices A (rows) and B (columns).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder

_MODES: dict[str, str] = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "cubic": "bicubic",
    "bicubic": "bicubic",
    "nearest": "nearest",
}


@builder("GridSample")
def grid_sample(call: Call) -> Emit:
    """X read at normalised places, which may be data."""
    asked = call.attr("mode", "linear")
    if asked not in _MODES or (call.rank(0) > 4 and "cubic" in asked):
        raise Unsupported(f"mode {asked!r} on {call.rank(0)} axes")
    mode, padding = _MODES[asked], call.attr("padding_mode", "zeros")
    aligned = bool(call.attr("align_corners", 0))
    return call.emit(lambda x, grid: F.grid_sample(x, grid, mode, padding, aligned), 0, 1)


@builder("RoiAlign")
def roi_align(call: Call) -> Emit:
    """Regions (x1, y1, x2, y2) of the images that `batch_indices` names, at a fixed size."""
    if call.attr("mode", "avg") != "avg":
        raise Unsupported("mode 'max'")
    ratio, scale = int(call.attr("sampling_ratio", 0)), float(call.attr("spatial_scale", 1.0))
    bins = int(call.attr("output_height", 1)), int(call.attr("output_width", 1))
    sizes = call.shape(0)[2:]
    halves = call.opset >= 16 and call.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"

    def matrices(regions: Tensor, samples: tuple[int, int]) -> tuple[Tensor, Tensor]:
        corners = regions * scale - (0.5 if halves else 0.0)
        extents = corners[:, 2:] - corners[:, :2]
        extents = extents if halves else extents.clamp_min(1.0)
        rows = _bin_weights(corners[:, 1], extents[:, 1], bins[0], samples[0], sizes[0])
        columns = _bin_weights(corners[:, 0], extents[:, 0], bins[1], samples[1], sizes[1])
        return rows, columns

    def read(x: Tensor, rows: Tensor, columns: Tensor, index: Tensor) -> Tensor:
        return rows[:, None] @ x.index_select(0, index.to(torch.int64)) @ columns[:, None].transpose(-1, -2)

    if ratio > 0:
        return call.emit(
            lambda x, regions, index: read(x, *matrices(regions, (ratio, ratio)), index), 0, 1, 2
        )
    if not call.known(1):
        raise Unsupported("sampling_ratio = 0 with regions that depend on the data")
    pairs = []
    for region in torch.split(call.content(1), 1):
        # As many samples to a bin as it has pixels.
        sides = ((region[0, 2:] - region[0, :2]) * scale).clamp_min(0.0 if halves else 1.0).tolist()
        samples = (max(1, math.ceil(sides[1] / bins[0])), max(1, math.ceil(sides[0] / bins[1])))
        pairs.append(matrices(region, samples))
    device = call.example(0).device
    rows, columns = (torch.cat(list(part)).to(device) for part in zip(*pairs, strict=True))
    return call.emit(lambda x, index: read(x, rows, columns, index), 0, 2)


def _bin_weights(start: Tensor, extent: Tensor, bins: int, samples: int, size: int) -> Tensor:
    """Weights of an axis's entries in each region's bins, (regions, bins, size)."""
    places = (torch.arange(bins * samples, device=start.device) + 0.5) / (bins * samples)
    at = start[:, None] + extent[:, None] * places
    inside = (at >= -1) & (at <= size)
    near = (at.clamp(0, size - 1)[..., None] - torch.arange(size, device=start.device)).abs()
    weights = (1 - near).clamp_min(0) * inside[..., None]
    return weights.reshape(len(start), bins, samples, size).mean(2)


@builder("Col2Im")
def col2im(call: Call) -> Emit:
    """Columns of blocks (N, C * block, L) to images (N, C, H, W); what overlaps is added."""
    image, block = call.ints(1), call.ints(2)
    if len(image) != 2:
        raise Unsupported(f"{len(image)} spatial dimensions")
    top, left, bottom, right = call.attr("pads") or (0, 0, 0, 0)
    whole = (image[0] + top + bottom, image[1] + left + right)
    strides, dilations = tuple(call.attr("strides") or (1, 1)), tuple(call.attr("dilations") or (1, 1))

    def kernel(x: Tensor) -> Tensor:
        y = F.fold(x, whole, block, dilations, 0, strides)
        return y[:, :, top : top + image[0], left : left + image[1]]

    return call.emit(kernel, 0)
