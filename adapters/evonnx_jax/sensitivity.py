"""How much a network's answers depend on each weight: squared first-order changes of a sampled loss.

For each batch, targets are drawn from the network's own answers (classes from distributions softened by the
temperature, values with noise of their own variance); L is their negative log-likelihood, and (w dL/dw)^2 is
averaged over batches, which estimates the Fisher information.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from evonnx.adapter import RetrainRequest
from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx_jax.losses import rows_of
from evonnx_jax.module import OnnxFunction, Variables
from evonnx_jax.objective import piece_of
from evonnx_jax.ops import Context
from evonnx_jax.runtime import compiled
from evonnx_training.heads import Head

_BATCHES = 64
"""Most batches that are looked at: the standard error is then about a sixth of a sensitivity."""


def surprise(head: Head, tap: jax.Array, temperature: float, key: jax.Array) -> jax.Array:
    """Negative log-likelihood of targets drawn from an output, summed over the batch.

    Args:
        head: how to read it.
        tap: the tensor.
        temperature: softens class distributions, so that sure answers tell something too.
        key: of the draws.
    """
    if head.kind == "softmax":
        rows = rows_of(head, tap) / temperature
        drawn = jax.random.categorical(key, jax.lax.stop_gradient(rows))
        by_row: jax.Array = optax.softmax_cross_entropy_with_integer_labels(rows, drawn)
        return by_row.sum()
    if head.kind == "sigmoid":
        p = jax.nn.sigmoid(jax.lax.stop_gradient(tap) / temperature)
        drawn = jax.random.bernoulli(key, p).astype(tap.dtype)
        each: jax.Array = optax.sigmoid_binary_cross_entropy(tap / temperature, drawn)
        return each.sum()
    variance = jax.lax.stop_gradient(tap).var()
    scale = jnp.where(variance > 1e-12, variance, 1.0)
    return (tap * jax.random.normal(key, tap.shape)).sum() / jnp.sqrt(scale)


def measure(
    function: OnnxFunction,
    heads: tuple[Head, ...],
    request: RetrainRequest,
    batch_size: int,
    temperature: float,
) -> dict[str, Array]:
    """See `evonnx.adapter.MeasuresSensitivities`.

    Args:
        function: the network.
        heads: the outputs that count.
        request: what the adapter was asked.
        batch_size: examples per gradient.
        temperature: see `surprise`.

    Raises:
        AdapterError: a masked tensor is none that the network trains, or there is no data.
    """
    missing = sorted(set(request.masks) - set(function.roles.trained))
    if missing:
        raise AdapterError(
            f"{missing[0]!r} is not stored as floating-point weights that training could change, so its "
            "gradient can't be measured. Choose an encoding that reads weights, such as adaptive."
        )
    variables = function.variables(request.masks)
    taps = tuple(head.tap for head in heads)

    def squares(weights: dict[str, Any], inputs: dict[str, Any], key: Any) -> dict[str, Any]:
        def loss(some: dict[str, Any]) -> Any:
            given = Variables({**variables.weights, **some}, variables.statistics)
            outputs, _ = function(given, inputs, taps, Context())
            size = max(len(x) for x in inputs.values() if np.ndim(x))
            keys = jax.random.split(key, len(heads))
            parts = [surprise(h, outputs[h.tap], temperature, k) for h, k in zip(heads, keys, strict=True)]
            return jnp.stack(parts).sum() / size

        gradients = jax.grad(loss)(weights)
        return {name: jnp.square(weight * gradients[name]) for name, weight in weights.items()}

    run = compiled(squares)
    asked = {name: variables.weights[name] for name in sorted(request.masks)}
    found = {name: np.zeros(weight.shape, np.float64) for name, weight in asked.items()}
    seen = 0
    for batch in request.task.batches("train", batch_size, np.random.default_rng([request.seed, 2])):
        key = jax.random.fold_in(jax.random.PRNGKey(request.seed % 2**32), seen)
        for name, square in run(asked, piece_of(function, batch).inputs, key).items():
            found[name] += np.asarray(square)
        seen += 1
        if seen == _BATCHES:
            break
    if seen == 0:
        raise AdapterError(f"Task {request.task.name!r} has no training examples to measure gradients on.")
    return {name: (total / seen).astype(np.float32) for name, total in found.items()}
