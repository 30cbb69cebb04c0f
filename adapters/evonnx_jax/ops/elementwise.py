"""Operators that act entry by entry."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import onnx
from jax import Array, lax

from evonnx_jax.ops._base import Call, Unsupported, on_operands, operator


def root(x: Array) -> Array:
    """The square root, with gradient 0 instead of infinity at 0: a dead channel must not spoil the others."""
    return jnp.where(x == 0, 0.0, jnp.sqrt(jnp.where(x == 0, 1.0, x)))


def _power(x: Array, y: Array) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.power(x, y)
    dead = (x == 0) & (y > 0)
    return jnp.where(dead, 0.0, jnp.power(jnp.where(dead, 1.0, x), y.astype(x.dtype)))


def _divide(x: Array, y: Array) -> Array:
    if jnp.issubdtype(x.dtype, jnp.integer):
        return lax.div(*jnp.broadcast_arrays(x, y))  # towards zero
    return x / y


on_operands(
    {
        "Abs": jnp.abs,
        "Acos": jnp.arccos,
        "Acosh": jnp.arccosh,
        "Add": jnp.add,
        "And": jnp.logical_and,
        "Asin": jnp.arcsin,
        "Asinh": jnp.arcsinh,
        "Atan": jnp.arctan,
        "Atanh": jnp.arctanh,
        "BitwiseAnd": jnp.bitwise_and,
        "BitwiseNot": jnp.bitwise_not,
        "BitwiseOr": jnp.bitwise_or,
        "BitwiseXor": jnp.bitwise_xor,
        "Ceil": jnp.ceil,
        "Cos": jnp.cos,
        "Cosh": jnp.cosh,
        "Div": _divide,
        "Equal": jnp.equal,
        "Erf": lax.erf,
        "Exp": jnp.exp,
        "Floor": jnp.floor,
        "Greater": jnp.greater,
        "GreaterOrEqual": jnp.greater_equal,
        "Identity": lambda x: x,
        "IsNaN": jnp.isnan,
        "Less": jnp.less,
        "LessOrEqual": jnp.less_equal,
        "Log": jnp.log,
        "Max": lambda *values: functools.reduce(jnp.maximum, values),
        "Mean": lambda *values: functools.reduce(jnp.add, values) / len(values),
        "Min": lambda *values: functools.reduce(jnp.minimum, values),
        "Mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
        "Mul": jnp.multiply,
        "Neg": jnp.negative,
        "Not": jnp.logical_not,
        "Or": jnp.logical_or,
        "PRelu": lambda x, slope: jnp.where(x > 0, x, x * slope),
        "Pow": _power,
        "Reciprocal": lambda x: 1 / x,
        "Relu": jax.nn.relu,
        "Round": jnp.round,
        "Sigmoid": jax.nn.sigmoid,
        "Sign": jnp.sign,
        "Sin": jnp.sin,
        "Sinh": jnp.sinh,
        "Softplus": jax.nn.softplus,
        "Softsign": jax.nn.soft_sign,
        "Sqrt": root,
        "Sub": jnp.subtract,
        "Sum": lambda *values: functools.reduce(jnp.add, values),
        "Tan": jnp.tan,
        "Tanh": jnp.tanh,
        "Where": jnp.where,
        "Xor": jnp.logical_xor,
    }
)


@operator("IsInf")
def is_inf(call: Call) -> Array:
    """Infinities of the signs asked for."""
    x = call.data()
    above = (x == jnp.inf) & bool(call.attr("detect_positive", 1))
    return above | ((x == -jnp.inf) & bool(call.attr("detect_negative", 1)))


@operator("Mod")
def mod(call: Call) -> Array:
    """The remainder, of the divisor's sign, or with `fmod` of the dividend's."""
    return (jnp.fmod if call.attr("fmod", 0) else jnp.mod)(call.data(0), call.data(1))


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Array:
    """x, or alpha x where x < 0."""
    return jax.nn.leaky_relu(call.data(), call.attr("alpha", 0.01))


@operator("Elu")
def elu(call: Call) -> Array:
    """x, or alpha (exp(x) - 1) where x < 0."""
    return jax.nn.elu(call.data(), call.attr("alpha", 1.0))


@operator("Celu")
def celu(call: Call) -> Array:
    """x, or alpha (exp(x / alpha) - 1) where x < 0."""
    return jax.nn.celu(call.data(), call.attr("alpha", 1.0))


@operator("Selu")
def selu(call: Call) -> Array:
    """gamma times Elu."""
    gamma = float(call.attr("gamma", 1.05070102214813232421875))
    return gamma * jax.nn.elu(call.data(), call.attr("alpha", 1.67326319217681884765625))


@operator("Gelu")
def gelu(call: Call) -> Array:
    """x times the normal distribution function."""
    return jax.nn.gelu(call.data(), approximate=call.attr("approximate", "none") == "tanh")


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Array:
    """alpha x + beta, kept in [0, 1]."""
    return jnp.clip(call.attr("alpha", 0.2) * call.data() + call.attr("beta", 0.5), 0, 1)


@operator("HardSwish")
def hard_swish(call: Call) -> Array:
    """x (x / 6 + 1/2), the factor kept in [0, 1]."""
    x = call.data()
    return x * jnp.clip(x / 6 + 0.5, 0, 1)


@operator("Swish")
def swish(call: Call) -> Array:
    """x sigmoid(alpha x)."""
    x = call.data()
    return x * jax.nn.sigmoid(call.attr("alpha", 1.0) * x)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Array:
    """x where x > alpha, else 0."""
    x = call.data()
    return jnp.where(x > call.attr("alpha", 1.0), x, 0)


@operator("Shrink")
def shrink(call: Call) -> Array:
    """x moved by `bias` towards 0 where it is beyond `lambd`, else 0."""
    x, limit, bias = call.data(), call.attr("lambd", 0.5), call.attr("bias", 0.0)
    return jnp.where(x < -limit, x + bias, jnp.where(x > limit, x - bias, 0))


@operator("Clip")
def clip(call: Call) -> Array:
    """Kept between bounds, which may be absent."""
    if call.opset < 11:
        return jnp.clip(call.data(), call.attr("min"), call.attr("max"))
    return jnp.clip(call.data(), call.optional(1), call.optional(2))


@operator("Dropout")
def dropout(call: Call) -> Array:
    """In training entries become 0 with probability `ratio`, the others grow by 1 / (1 - ratio)."""
    call.only_first_output()
    x = call.data()
    ratio = call.float_from("ratio", 1, 0.5) or 0.0
    if not call.context.training or ratio == 0:
        return x
    kept = jax.random.bernoulli(call.context.fresh_key(), 1 - ratio, x.shape)
    return jnp.where(kept, x / (1 - ratio), 0)


_TYPES: dict[int, Any] = {
    onnx.TensorProto.BOOL: jnp.bool_,
    onnx.TensorProto.INT8: jnp.int8,
    onnx.TensorProto.UINT8: jnp.uint8,
    onnx.TensorProto.INT16: jnp.int16,
    onnx.TensorProto.UINT16: jnp.uint16,
    onnx.TensorProto.INT32: jnp.int32,
    onnx.TensorProto.INT64: jnp.int32,
    onnx.TensorProto.FLOAT: jnp.float32,
    onnx.TensorProto.FLOAT16: jnp.float32,
    onnx.TensorProto.BFLOAT16: jnp.float32,
    onnx.TensorProto.DOUBLE: jnp.float32,
}
"""Every float is computed in float32, and whole numbers in at most 32 bits, which is JAX's own choice."""


@operator("Cast")
def cast(call: Call) -> Array:
    """Another element type."""
    to = int(call.attr("to"))
    if to not in _TYPES:
        raise Unsupported(f"a cast to {onnx.TensorProto.DataType.Name(to)}")
    return call.data().astype(_TYPES[to])


@operator("CastLike")
def cast_like(call: Call) -> Array:
    """The element type of another tensor."""
    return call.data().astype(call.data(1).dtype)
