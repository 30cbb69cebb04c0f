"""Matrix products."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from evonnx_jax.ops._base import Call, on_operands, operator

on_operands({"MatMul": jnp.matmul})


@operator("Gemm")
def gemm(call: Call) -> Array:
    """alpha A B + beta C, A and B transposed where the node says so."""
    a, b = call.data(0), call.data(1)
    y = (a.T if call.attr("transA", 0) else a) @ (b.T if call.attr("transB", 0) else b)
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    y = y if alpha == 1.0 else alpha * y
    added = call.optional(2)
    if added is None:
        return y
    return y + (added if beta == 1.0 else beta * added)


@operator("Einsum")
def einsum(call: Call) -> Array:
    """A sum of products by its equation."""
    return jnp.einsum(call.attr("equation").replace(" ", ""), *map(jnp.asarray, call.given()))
