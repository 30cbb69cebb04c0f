"""Conv and ConvTranspose in 1 to 3 spatial dimensions, every padding form."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from evonnx_torch.ops._base import (
    Call,
    Emit,
    NormState,
    Renorm,
    Unsupported,
    builder,
    is_single,
    spatial_pads,
    torch_pads,
)

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def _spatial(call: Call) -> int:
    dims = call.rank(0) - 2
    if dims not in _CONV:
        raise Unsupported(f"{dims} spatial dimensions")
    return dims


@builder("Conv")
def conv(call: Call) -> Emit:
    """y = x * w + b, per group; asymmetric padding becomes an explicit pad."""
    dims = _spatial(call)
    convolve, groups = _CONV[dims], int(call.attr("group", 1))
    strides = tuple(call.attr("strides") or (1,) * dims)
    dilations = tuple(call.attr("dilations") or (1,) * dims)
    begins, ends = spatial_pads(call, call.shape(0)[2:], call.shape(1)[2:], strides, dilations)
    symmetric = begins == ends and min(begins) >= 0
    padding = tuple(begins) if symmetric else (0,) * dims
    explicit = torch_pads(begins, ends)

    def plain(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return convolve(x, w, b, strides, padding, dilations, groups)

    def padded(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return convolve(F.pad(x, explicit), w, b, strides, padding, dilations, groups)

    kernel = plain if symmetric else padded
    if call.renorm is None:
        return call.emit(kernel)
    norm = normalise(call.renorm, call.norm, call.training)
    # The shift stands in for the bias, which waits until the normalisation is folded back.
    return call.emit(lambda x, w: norm(kernel(x, w)), 0, 1)


def normalise(renorm: Renorm, state: NormState, training: bool) -> Callable[[Tensor], Tensor]:
    """The closure of a normalisation that was put behind a convolution."""
    mean, variance, scale, shift, eps = renorm.mean, renorm.variance, renorm.scale, renorm.shift, renorm.eps

    def with_running(y: Tensor) -> Tensor:
        return F.batch_norm(y, mean, variance, scale, shift, False, 0.0, eps)

    def with_batch(y: Tensor) -> Tensor:
        if state.frozen or is_single(y):
            return with_running(y)
        return F.batch_norm(y, mean, variance, scale, shift, True, state.momentum(0.1), eps)

    return with_batch if training else with_running


@builder("ConvTranspose")
def conv_transpose(call: Call) -> Emit:
    """The gradient of Conv; pads crop the output, `output_shape` decides them."""
    dims = _spatial(call)
    deconvolve, groups = _TRANSPOSED[dims], int(call.attr("group", 1))
    strides = tuple(call.attr("strides") or (1,) * dims)
    dilations = tuple(call.attr("dilations") or (1,) * dims)
    extra = tuple(call.attr("output_padding") or (0,) * dims)
    sizes, taps = call.shape(0)[2:], call.shape(1)[2:]
    full = [
        (n - 1) * s + e + (k - 1) * d + 1
        for n, s, e, k, d in zip(sizes, strides, extra, taps, dilations, strict=True)
    ]
    begins, ends = _crops(call, full, sizes, strides)
    if begins == ends and min(begins) >= 0:
        padding = tuple(begins)

        def symmetric(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            return deconvolve(x, w, b, strides, padding, extra, groups, dilations)

        return call.emit(symmetric)
    crop = torch_pads([-p for p in begins], [-p for p in ends])

    def cropped(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y = F.pad(deconvolve(x, w, None, strides, 0, extra, groups, dilations), crop)
        return y if b is None else y + b.reshape(1, -1, *(1,) * dims)

    return call.emit(cropped)


def _crops(
    call: Call, full: list[int], sizes: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    auto = call.attr("auto_pad", "NOTSET")
    want = call.attr("output_shape")
    if want is None and auto.startswith("SAME"):
        want = [n * s for n, s in zip(sizes, strides, strict=True)]
    if want is None:
        return spatial_pads(call, sizes, full, strides, strides)
    begins, ends = [], []
    for have, size in zip(full, list(want)[-len(full) :], strict=True):
        total = have - size
        half = total // 2
        first = total - half if auto != "SAME_UPPER" else half
        begins.append(first)
        ends.append(total - first)
    return begins, ends
