"""Element-wise arithmetic, comparisons, logic, casts and activations; broadcasting is numpy's, as torch's
is."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: F.softplus(x, 1.0, 20.0),
    "Softsign": F.softsign,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "PRelu": lambda x, slope: torch.where(x >= 0, x, x * slope),
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}
_DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,  # every floating type is computed in float32
    10: torch.float32,
    11: torch.float32,
    16: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    4: torch.int32,  # unsigned types in the next wider signed one, which torch computes with
    12: torch.int64,
    13: torch.int64,
}


@builder(*_UNARY)
def unary(call: Call) -> Emit:
    """One tensor in, one of the same shape out."""
    return call.emit(_UNARY[call.op_type], 0)


@builder(*_BINARY)
def binary(call: Call) -> Emit:
    """Two tensors, broadcast."""
    return call.emit(_BINARY[call.op_type], 0, 1)


@builder(*_VARIADIC)
def variadic(call: Call) -> Emit:
    """Any number of tensors, broadcast."""
    function = _VARIADIC[call.op_type]
    return call.emit(lambda *operands: reduce(function, operands))


@builder("Mean")
def mean(call: Call) -> Emit:
    """Mean of any number of tensors."""
    share = 1.0 / len(call.inputs)
    return call.emit(lambda *operands: reduce(torch.add, operands) * share)


class _Root(torch.autograd.Function):
    """Square root whose gradient at 0 is 0: a dead channel's norm must not turn the others into NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The root."""
        y = torch.sqrt(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """gradient / (2 y), 0 where y is 0."""
        y: Tensor = ctx.saved_tensors[0]
        return (gradient / (2 * y)).masked_fill(y == 0, 0.0)


@builder("Sqrt")
def sqrt(call: Call) -> Emit:
    """Square root."""
    return call.emit(_root if call.training else torch.sqrt, 0)


def _root(x: Tensor) -> Tensor:
    root: Tensor = _Root.apply(x)  # type: ignore[no-untyped-call]
    return root


@builder("IsInf")
def is_inf(call: Call) -> Emit:
    """Infinite, of either sign unless one is not to be detected."""
    signs = call.attr("detect_positive", 1), call.attr("detect_negative", 1)
    detect = {(1, 1): torch.isinf, (1, 0): torch.isposinf, (0, 1): torch.isneginf}.get(signs)
    return call.emit(detect or (lambda x: torch.zeros_like(x, dtype=torch.bool)), 0)


@builder("Div")
def div(call: Call) -> Emit:
    """Division; integers truncate toward zero."""
    if call.example(0).is_floating_point():
        return call.emit(torch.div, 0, 1)
    return call.emit(lambda a, b: torch.div(a, b, rounding_mode="trunc"), 0, 1)


@builder("Mod")
def mod(call: Call) -> Emit:
    """Remainder with the divisor's sign, or the dividend's with fmod."""
    return call.emit(torch.fmod if call.attr("fmod", 0) else torch.remainder, 0, 1)


@builder("Pow")
def power(call: Call) -> Emit:
    """a ** b in the type of a; constant exponents are bound, squares stay cheap."""
    dtype = call.example(0).dtype
    if call.known(1) and call.example(1).numel() == 1 and call.rank(1) <= call.rank(0):
        exponent = call.content(1).reshape(()).item()
        if exponent == 0.5 and call.training:
            return call.emit(_root, 0)
        exponent = int(exponent) if float(exponent).is_integer() else exponent
        return call.emit(lambda x: torch.pow(x, exponent).to(dtype), 0)
    return call.emit(lambda x, e: torch.pow(x, e).to(dtype), 0, 1)


@builder("Where")
def where(call: Call) -> Emit:
    """Choose by condition."""
    return call.emit(torch.where, 0, 1, 2)


@builder("Cast")
def cast(call: Call) -> Emit:
    """To another type; every floating type is float32 here."""
    to = int(call.attr("to"))
    if to not in _DTYPES:
        raise Unsupported(f"cast to element type {to}")
    dtype = _DTYPES[to]
    return call.emit(lambda x: x.to(dtype), 0)


@builder("CastLike")
def cast_like(call: Call) -> Emit:
    """To the type of the second operand."""
    dtype = call.example(1).dtype
    return call.emit(lambda x: x.to(dtype), 0)


@builder("Clip")
def clip(call: Call) -> Emit:
    """Between bounds: attributes before opset 11, inputs since."""
    if call.opset < 11:
        low, high = call.attr("min"), call.attr("max")
    elif any(call.has(i) and not call.known(i) for i in (1, 2)):
        return _clip_by_data(call)
    else:
        low = call.floats(1)[0] if call.has(1) else None
        high = call.floats(2)[0] if call.has(2) else None
    if not call.example(0).is_floating_point():
        low, high = (None if bound is None else int(bound) for bound in (low, high))
    if low is None and high is None:
        return call.emit(lambda x: x, 0)
    if low is not None and high is not None and call.example(0).is_floating_point() and low < high:
        # The same with a gradient that is several times faster (and 0 at the bounds themselves).
        return call.emit(lambda x: F.hardtanh(x, low, high), 0)
    return call.emit(lambda x: torch.clamp(x, low, high), 0)


def _clip_by_data(call: Call) -> Emit:
    bounds = [bound for i, bound in ((1, torch.maximum), (2, torch.minimum)) if call.has(i)]

    def kernel(x: Tensor, *operands: Tensor) -> Tensor:
        for bound, operand in zip(bounds, operands, strict=True):
            x = bound(x, operand)
        return x

    return call.emit(kernel)


@builder("Dropout")
def dropout(call: Call) -> Emit:
    """Active in training only, whatever training_mode says."""
    call.only_first_output()
    ratio = call.floats(1)[0] if call.has(1) else float(call.attr("ratio", 0.5))
    if not call.training or ratio == 0:
        return call.emit(lambda x: x, 0)
    return call.emit(lambda x: F.dropout(x, ratio, True), 0)


@builder("LeakyRelu")
def leaky_relu(call: Call) -> Emit:
    """x, or alpha * x below zero."""
    alpha = float(call.attr("alpha", 0.01))
    return call.emit(lambda x: F.leaky_relu(x, alpha))


@builder("ThresholdedRelu")
def thresholded_relu(call: Call) -> Emit:
    """x above alpha, else 0."""
    alpha = float(call.attr("alpha", 1.0))
    return call.emit(lambda x: F.threshold(x, alpha, 0.0))


@builder("Shrink")
def shrink(call: Call) -> Emit:
    """x moved toward 0 by `bias`, and 0 where |x| <= lambd."""
    bias, threshold = float(call.attr("bias", 0.0)), float(call.attr("lambd", 0.5))
    return call.emit(lambda x: torch.where(x.abs() > threshold, x - bias * x.sign(), torch.zeros_like(x)))


@builder("Elu")
def elu(call: Call) -> Emit:
    """alpha * (exp(x) - 1) below zero."""
    alpha = float(call.attr("alpha", 1.0))
    return call.emit(lambda x: F.elu(x, alpha))


@builder("Celu")
def celu(call: Call) -> Emit:
    """alpha * (exp(x / alpha) - 1) below zero."""
    alpha = float(call.attr("alpha", 1.0))
    return call.emit(lambda x: F.celu(x, alpha))


@builder("Selu")
def selu(call: Call) -> Emit:
    """gamma * elu(x, alpha)."""
    alpha = float(call.attr("alpha", 1.67326319217681884765625))
    gamma = float(call.attr("gamma", 1.05070102214813232421875))
    return call.emit(lambda x: gamma * F.elu(x, alpha))


@builder("HardSigmoid")
def hard_sigmoid(call: Call) -> Emit:
    """alpha * x + beta, clipped to [0, 1]."""
    alpha, beta = float(call.attr("alpha", 0.2)), float(call.attr("beta", 0.5))
    return call.emit(lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0))


@builder("Gelu")
def gelu(call: Call) -> Emit:
    """Exact, or the tanh approximation."""
    approximate = call.attr("approximate", "none")
    return call.emit(lambda x: F.gelu(x, approximate=approximate))


@builder("Swish")
def swish(call: Call) -> Emit:
    """x * sigmoid(alpha * x)."""
    alpha = float(call.attr("alpha", 1.0))
    return call.emit(lambda x: x * torch.sigmoid(alpha * x))


@builder("BitShift")
def bit_shift(call: Call) -> Emit:
    """Integer shift left or right."""
    shift = torch.bitwise_left_shift if call.attr("direction") == "LEFT" else torch.bitwise_right_shift
    return call.emit(shift, 0, 1)
