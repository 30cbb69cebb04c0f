"""Softmax and LogSoftmax: over one axis since opset 13; before, over all axes from `axis` on as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, builder


class _Guarded(torch.autograd.Function):
    """Softmax whose rows of nothing but -inf are NaN, as they are, and pass no gradient.

    Exporters write attention so: a query that may see no key has a row of -inf, and what is NaN is replaced
    by zeros afterwards. The gradient of that zero is 0, but 0 * NaN would spread from here to all weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        """Softmax over an axis."""
        y = torch.softmax(x, axis)
        ctx.save_for_backward(y)
        ctx.axis = axis
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """y (g - sum(g y)), 0 where y is NaN."""
        y = torch.nan_to_num(ctx.saved_tensors[0], nan=0.0)
        product = gradient * y
        return product - y * product.sum(ctx.axis, keepdim=True), None


def _guarded(x: Tensor, axis: int) -> Tensor:
    result: Tensor = _Guarded.apply(x, axis)  # type: ignore[no-untyped-call]
    return result


@builder("Softmax", "LogSoftmax")
def softmax(call: Call) -> Emit:
    """exp(x) over its sum along an axis, or the logarithm of that."""
    function: Callable[[Tensor, int], Tensor] = torch.softmax
    if call.op_type == "LogSoftmax":
        function = torch.log_softmax
    elif call.training and "IsNaN" in call.readers:
        function = _guarded
    if call.opset >= 13:
        axis = int(call.attr("axis", -1))
        return call.emit(lambda x: function(x, axis))
    axis = call.axis(int(call.attr("axis", 1)))
    shape = call.shape(0)
    if all(size == 1 for size in shape[axis + 1 :]):
        return call.emit(lambda x: function(x, axis))
    return call.emit(lambda x: function(x.flatten(axis), axis).reshape(shape))
