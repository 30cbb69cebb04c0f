"""Convolutions of one to three spatial axes."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from evonnx_jax.ops._base import Call, Unsupported, operator, spatial, spatial_pads


def _layout(rank: int) -> tuple[str, str, str]:
    if not 1 <= rank <= 3:
        raise Unsupported(f"{rank} spatial axes")
    axes = "DHW"[-rank:]
    return f"NC{axes}", f"OI{axes}", f"NC{axes}"


def _shifted(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


@operator("Conv")
def conv(call: Call) -> Array:
    """x (N, C, ...) with weights (O, C / group, ...)."""
    x, weight = call.data(0), call.data(1)
    rank = x.ndim - 2
    strides, dilations = spatial(call, "strides", rank), spatial(call, "dilations", rank)
    pads = spatial_pads(call, x.shape[2:], weight.shape[2:], strides, dilations)
    y = lax.conv_general_dilated(
        x,
        weight,
        strides,
        pads,
        rhs_dilation=dilations,
        dimension_numbers=_layout(rank),
        feature_group_count=int(call.attr("group", 1)),
    )
    return _shifted(y, call.optional(2))


@operator("ConvTranspose")
def conv_transpose(call: Call) -> Array:
    """x (N, C, ...) with weights (C, O / group, ...): the gradient of a convolution as an operator.

    It is the convolution of x, spread out by the strides, with the kernels mirrored.
    """
    x, weight, groups = call.data(0), call.data(1), int(call.attr("group", 1))
    rank = x.ndim - 2
    strides, dilations = spatial(call, "strides", rank), spatial(call, "dilations", rank)
    kernel = weight.shape[2:]
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], *kernel).swapaxes(1, 2)
    mirrored = jnp.flip(
        grouped.reshape(groups * weight.shape[1], -1, *kernel), axis=tuple(range(2, 2 + rank))
    )
    beyond = [int(i) for i in call.attr("output_padding") or [0] * rank]
    pads = []
    for (begin, end), k, dilation, more in zip(
        _transposed_pads(call, x.shape[2:], kernel, strides, dilations, beyond),
        kernel,
        dilations,
        beyond,
        strict=True,
    ):
        reach = dilation * (k - 1)
        pads.append((reach - begin, reach - end + more))
    y = lax.conv_general_dilated(
        x,
        mirrored,
        [1] * rank,
        pads,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=_layout(rank),
        feature_group_count=groups,
    )
    return _shifted(y, call.optional(2))


def _transposed_pads(
    call: Call,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    beyond: list[int],
) -> list[tuple[int, int]]:
    """What is cut off at both ends of each axis: as declared, or what the size asked for leaves over."""
    auto, wanted = call.attr("auto_pad", "NOTSET"), call.attr("output_shape")
    if not wanted:
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
        else:
            return spatial_pads(call, sizes, kernel, strides, dilations)
    pads = []
    for size, k, stride, dilation, more, out in zip(
        sizes, kernel, strides, dilations, beyond, wanted[-len(sizes) :], strict=True
    ):
        total = max(0, stride * (size - 1) + more + (k - 1) * dilation + 1 - int(out))
        small, large = total // 2, total - total // 2
        pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pads
