"""Normalisations. BatchNormalization uses batch statistics in training and updates the running ones in
place; a batch with one value per channel has none, and is normalised with the running ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder, is_single


def _level(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """What is normalised to variance 1 where nothing varies: zero, scaled and shifted along axis 1."""
    along = (1, -1, *(1,) * (x.ndim - 2))
    return (x - x) * scale.reshape(along) + bias.reshape(along)


@builder("BatchNormalization")
def batch_normalization(call: Call) -> Emit:
    """(x - mean) / sqrt(var + eps) * scale + bias over axis 1."""
    call.only_first_output()
    eps = float(call.attr("epsilon", 1e-5))
    usual = 1.0 - float(call.attr("momentum", 0.9))  # torch counts the share of the new value
    state = call.norm
    if call.opset < 9 and not call.attr("spatial", 1):
        raise Unsupported("spatial = 0")
    if call.opset >= 14 and call.attr("training_mode", 0):
        # Statistics of the batch always, as weight standardisation by a BatchNormalization is written.
        def always(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
            if is_single(x):
                return _level(x, scale, bias)
            return F.batch_norm(x, None, None, scale, bias, True, 0.0, eps)

        return call.emit(always, 0, 1, 2)

    def with_running(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps)

    def with_batch(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        if state.frozen or is_single(x):
            return F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps)
        return F.batch_norm(x, mean, var, scale, bias, True, state.momentum(usual), eps)

    return call.emit(with_batch if call.training else with_running)


@builder("InstanceNormalization")
def instance_normalization(call: Call) -> Emit:
    """Each example's channel to mean 0, variance 1, then scale and bias."""
    eps = float(call.attr("epsilon", 1e-5))

    def kernel(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if math.prod(x.shape[2:]) == 1:
            return _level(x, scale, bias)
        return F.instance_norm(x, None, None, scale, bias, True, 0.0, eps)

    return call.emit(kernel)


@builder("LayerNormalization")
def layer_normalization(call: Call) -> Emit:
    """Over all axes from `axis` on."""
    call.only_first_output()
    eps = float(call.attr("epsilon", 1e-5))
    shape = call.shape(0)[call.axis(int(call.attr("axis", -1))) :]

    def kernel(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.layer_norm(x, shape, None, None, eps) * scale
        return y if bias is None else y + bias

    def fused(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, shape, scale, bias, eps)

    return call.emit(fused if call.shape(1) == shape else kernel)


@builder("RMSNormalization")
def rms_normalization(call: Call) -> Emit:
    """x / root mean square over all axes from `axis` on, times scale."""
    eps = float(call.attr("epsilon", 1e-5))
    axes = tuple(range(call.axis(int(call.attr("axis", -1))), call.rank(0)))
    return call.emit(lambda x, scale: x * torch.rsqrt(x.square().mean(axes, keepdim=True) + eps) * scale)


@builder("GroupNormalization")
def group_normalization(call: Call) -> Emit:
    """Over groups of channels; scale and bias per group before opset 21, per channel since."""
    eps, groups = float(call.attr("epsilon", 1e-5)), int(call.attr("num_groups"))
    channels = call.shape(0)[1]
    repeat = channels // groups if call.opset < 21 and call.shape(1)[0] == groups else 1

    def kernel(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if repeat > 1:
            scale, bias = scale.repeat_interleave(repeat), bias.repeat_interleave(repeat)
        if math.prod(x.shape[1:]) == groups:
            return _level(x, scale, bias)
        return F.group_norm(x, groups, scale, bias, eps)

    return call.emit(kernel)


@builder("LRN")
def local_response_normalization(call: Call) -> Emit:
    """x / (bias + alpha / size * sum of squares over neighbouring channels) ^ beta."""
    size = int(call.attr("size"))
    alpha, beta, bias = (
        float(call.attr("alpha", 1e-4)),
        float(call.attr("beta", 0.75)),
        float(call.attr("bias", 1.0)),
    )
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2

    def kernel(x: Tensor) -> Tensor:
        squares = F.pad(x.square().flatten(2), (0, 0, before, after))
        summed = F.avg_pool2d(squares.unsqueeze(1), (size, 1), 1).squeeze(1).reshape(x.shape)
        return x * (bias + alpha * summed).pow(-beta)

    return call.emit(kernel)


@builder("LpNormalization")
def lp_normalization(call: Call) -> Emit:
    """x / its p-norm along one axis."""
    axis, p = int(call.attr("axis", -1)), int(call.attr("p", 2))
    return call.emit(lambda x: x / x.norm(p, axis, keepdim=True).clamp_min(1e-30))


@builder("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Emit:
    """(x - mean) / standard deviation over `axes`."""
    axes = tuple(call.attr("axes", (0, 2, 3)))

    def kernel(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)

    return call.emit(kernel)
