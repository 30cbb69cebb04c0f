"""Reductions along axes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from evonnx_jax.ops._base import Call, operator
from evonnx_jax.ops.elementwise import root

_KINDS: dict[str, Callable[..., Array]] = {
    "ReduceL1": lambda x, axes, keepdims: jnp.abs(x).sum(axes, keepdims=keepdims),
    "ReduceL2": lambda x, axes, keepdims: root(jnp.square(x).sum(axes, keepdims=keepdims)),
    "ReduceLogSum": lambda x, axes, keepdims: jnp.log(x.sum(axes, keepdims=keepdims)),
    "ReduceLogSumExp": lambda x, axes, keepdims: jax.nn.logsumexp(x, axes, keepdims=keepdims),
    "ReduceMax": lambda x, axes, keepdims: x.max(axes, keepdims=keepdims),
    "ReduceMean": lambda x, axes, keepdims: x.mean(axes, keepdims=keepdims),
    "ReduceMin": lambda x, axes, keepdims: x.min(axes, keepdims=keepdims),
    "ReduceProd": lambda x, axes, keepdims: x.prod(axes, keepdims=keepdims),
    "ReduceSum": lambda x, axes, keepdims: x.sum(axes, keepdims=keepdims),
    "ReduceSumSquare": lambda x, axes, keepdims: jnp.square(x).sum(axes, keepdims=keepdims),
}


@operator(*_KINDS)
def reduce(call: Call) -> Array:
    """Over the axes named; over all where none are, unless the node says that none means none."""
    x, axes = call.data(), call.ints_from("axes", 1)
    if not axes and call.attr("noop_with_empty_axes", 0):
        return x
    return _KINDS[call.node.op_type](x, axes or None, bool(call.attr("keepdims", 1)))


@operator("ArgMax", "ArgMin")
def arg(call: Call) -> Array:
    """Where along an axis the largest or smallest entry is: the first, or the last, of equal ones."""
    x, axis = call.data(), call.axis(0)
    find = jnp.argmax if call.node.op_type == "ArgMax" else jnp.argmin
    keepdims = bool(call.attr("keepdims", 1))
    if call.attr("select_last_index", 0):
        return x.shape[axis] - 1 - find(jnp.flip(x, axis), axis, keepdims=keepdims)
    return find(x, axis, keepdims=keepdims)


@operator("TopK")
def top_k(call: Call) -> tuple[Array, Array]:
    """The k largest, or smallest, entries along an axis, with their places."""
    (count,) = call.ints_from("k", 1) if call.has(1) else (int(call.attr("k")),)  # type: ignore[misc]
    axis = call.axis(-1)
    x = jnp.moveaxis(call.data(), axis, -1)
    sign = 1 if call.attr("largest", 1) else -1
    values, places = lax.top_k(sign * x, count)
    return jnp.moveaxis(sign * values, -1, axis), jnp.moveaxis(places, -1, axis)


@operator("CumSum")
def cumulative_sum(call: Call) -> Array:
    """Sums of all entries up to each one along an axis."""
    x = call.data()
    axis = call.ints(1)[0] % x.ndim
    sums: Array = lax.cumsum(x, axis, reverse=bool(call.attr("reverse", 0)))
    return sums - x if call.attr("exclusive", 0) else sums


@operator("Softmax", "LogSoftmax")
def softmax(call: Call) -> Array:
    """Along one axis; before opset 13 over all axes from `axis` on."""
    x = call.data()
    compute = jax.nn.softmax if call.node.op_type == "Softmax" else jax.nn.log_softmax
    if call.opset >= 13:
        return compute(x, call.axis(-1))
    return compute(x, tuple(range(call.axis(1), x.ndim)))
