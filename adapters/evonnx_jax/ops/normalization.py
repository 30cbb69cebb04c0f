"""Normalisations. BatchNormalization uses batch statistics in training and gives new running ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from evonnx_jax.ops._base import Call, Unsupported, operator
from evonnx_jax.ops.elementwise import root


@operator("BatchNormalization")
def batch_normalization(call: Call) -> Array:
    """(x - mean) / sqrt(var + eps) * scale + bias over axis 1."""
    call.only_first_output()
    if call.opset < 9 and not call.attr("spatial", 1):
        raise Unsupported("spatial = 0")
    x, scale, bias, mean, variance = (call.data(index) for index in range(5))
    context = call.context
    always = call.opset >= 14 and bool(call.attr("training_mode", 0))
    if always or (context.training and not context.frozen):
        running = mean, variance
        axes = (0, *range(2, x.ndim))
        mean, count = x.mean(axes), x.size // x.shape[1]
        if context.axis is not None:
            mean, count = _over(mean, context.axis), count * lax.axis_size(context.axis)
        variance = jnp.square(x - _on_channels(mean, x)).mean(axes)
        if context.axis is not None:
            variance = _over(variance, context.axis)
        if not always:
            share = 1 - float(call.attr("momentum", 0.9)) if context.share is None else context.share
            # Running variances are unbiased estimates, as in the frameworks that such models come from.
            found = mean, variance * count / max(count - 1, 1)
            for name, old, new in zip(call.node.inputs[3:5], running, found, strict=True):
                context.statistics[name] = lax.stop_gradient(old + share * (new - old))
    y = (x - _on_channels(mean, x)) * _on_channels(
        lax.rsqrt(variance + call.attr("epsilon", 1e-5)) * scale, x
    )
    return y + _on_channels(bias, x)


def _over(means: Array, axis: str) -> Array:
    """The mean of groups' means, where a batch is mapped over groups of examples."""
    found: Array = lax.pmean(means, axis)  # type: ignore[no-untyped-call]
    return found


def _on_channels(vector: Array, x: Array) -> Array:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def _standard(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """Mean 0 and variance 1 over axes."""
    return jax.nn.standardize(x, axes, epsilon=eps)


@operator("InstanceNormalization")
def instance_normalization(call: Call) -> Array:
    """Each example's channel to mean 0, variance 1, then scale and bias."""
    x = call.data()
    y = _standard(x, tuple(range(2, x.ndim)), call.attr("epsilon", 1e-5))
    return y * _on_channels(call.data(1), x) + _on_channels(call.data(2), x)


@operator("LayerNormalization")
def layer_normalization(call: Call) -> Array:
    """Over all axes from `axis` on."""
    call.only_first_output()
    x, bias = call.data(), call.optional(2)
    y = _standard(x, tuple(range(call.axis(-1), x.ndim)), call.attr("epsilon", 1e-5)) * call.data(1)
    return y if bias is None else y + bias


@operator("RMSNormalization")
def rms_normalization(call: Call) -> Array:
    """x / root mean square over all axes from `axis` on, times scale."""
    x = call.data()
    squares = jnp.square(x).mean(tuple(range(call.axis(-1), x.ndim)), keepdims=True)
    return x * lax.rsqrt(squares + call.attr("epsilon", 1e-5)) * call.data(1)


@operator("GroupNormalization")
def group_normalization(call: Call) -> Array:
    """Each example's groups of channels to mean 0, variance 1; scale and bias per channel (before 21 per
    group)."""
    x, groups = call.data(), int(call.attr("num_groups"))
    parts = x.reshape(x.shape[0], groups, -1)
    y = _standard(parts, (2,), call.attr("epsilon", 1e-5)).reshape(x.shape)
    scale, bias = call.data(1), call.data(2)
    if call.opset < 21:
        scale, bias = (jnp.repeat(v, x.shape[1] // groups) for v in (scale, bias))
    return y * _on_channels(scale, x) + _on_channels(bias, x)


@operator("LRN")
def local_response_normalization(call: Call) -> Array:
    """x / (bias + alpha / size * sum of squares over neighbouring channels)^beta."""
    x, size = call.data(), int(call.attr("size"))
    before = (size - 1) // 2
    window, pads = [1] * x.ndim, [(0, 0)] * x.ndim
    window[1], pads[1] = size, (before, size - 1 - before)
    sums: Array = lax.reduce_window(jnp.square(x), 0.0, lax.add, window, [1] * x.ndim, pads)
    alpha, beta, bias = (
        float(call.attr(n, usual)) for n, usual in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    return x / (bias + alpha / size * sums) ** beta


@operator("LpNormalization")
def lp_normalization(call: Call) -> Array:
    """x over its 1- or 2-norm along an axis."""
    x, axis = call.data(), call.axis(-1)
    if call.attr("p", 2) == 1:
        norm = jnp.abs(x).sum(axis, keepdims=True)
    else:
        norm = root(jnp.square(x).sum(axis, keepdims=True))
    return x / jnp.where(norm == 0, 1.0, norm)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Array:
    """Mean 0 and variance 1 over axes."""
    axes = tuple(int(i) for i in call.attr("axes") or (0, 2, 3))
    return _standard(call.data(), axes, 1e-9)
