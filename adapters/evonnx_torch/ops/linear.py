"""Gemm, MatMul and Einsum."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, builder


@builder("MatMul")
def matmul(call: Call) -> Emit:
    """numpy.matmul."""
    return call.emit(torch.matmul)


@builder("Gemm")
def gemm(call: Call) -> Emit:
    """alpha * A' B' + beta * C; the usual forms map to one fused call."""
    alpha, beta = float(call.attr("alpha", 1.0)), float(call.attr("beta", 1.0))
    trans_a, trans_b = bool(call.attr("transA", 0)), bool(call.attr("transB", 0))
    if trans_b and not trans_a and alpha == beta == 1.0 and (not call.has(2) or call.rank(2) == 1):
        return call.emit(F.linear)

    def general(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if trans_a else a
        b = b.t() if trans_b else b
        if c is None:
            return a @ b if alpha == 1.0 else alpha * (a @ b)
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return call.emit(general)


@builder("Einsum")
def einsum(call: Call) -> Emit:
    """torch.einsum; the equation language is the same."""
    equation = call.attr("equation")
    return call.emit(lambda *operands: torch.einsum(equation, *operands))
