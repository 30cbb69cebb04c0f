"""Losses on what is read of a network (see `evonnx_training.heads`)."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax import Array
from jax.nn import log_softmax, sigmoid

from evonnx.errors import AdapterError
from evonnx.task import Term
from evonnx_training.heads import Head


def rows_of(head: Head, tap: Array) -> Array:
    """Logits as (examples and positions, classes)."""
    if head.merged:
        tap = tap.reshape(*tap.shape[: head.axis], -1)
    elif tap.ndim > 1:
        tap = jnp.moveaxis(tap, head.axis, -1)
    return tap.reshape(-1, tap.shape[-1])


def cross_entropy(rows: Array, labels: Array, weights: Array | None = None) -> Array:
    """Mean over labelled rows (labels >= 0) of -log p(label), by weights; 0 if none counts."""
    labels = labels.reshape(-1)
    errors = optax.softmax_cross_entropy_with_integer_labels(rows, jnp.maximum(labels, 0))
    labelled = (labels >= 0).astype(errors.dtype)
    return weighted_mean(errors, labelled if weights is None else labelled * weights.reshape(-1))


def weighted_mean(errors: Array, weights: Array | None) -> Array:
    """By weights; 0 where all are 0."""
    if weights is None:
        return errors.mean()
    total = weights.sum()
    return (errors * weights).sum() / jnp.where(total > 0, total, 1.0)


def _divergences(head: Head, tap: Array, teacher: Array, temperature: float) -> Array:
    """T^2 KL(teacher || student) of each row, softened by T (Hinton et al. 2015, section 2)."""
    mine = log_softmax(rows_of(head, tap) / temperature)
    theirs = log_softmax(rows_of(head, teacher) / temperature)
    found: Array = optax.losses.kl_divergence_with_log_targets(mine, theirs) * temperature**2
    return found


def _bce(logits: Array, probabilities: Array) -> Array:
    found: Array = optax.sigmoid_binary_cross_entropy(logits, probabilities)
    return found


def match(head: Head, tap: Array, teacher: Array, scale: float, temperature: float) -> Array:
    """How far one output is from the teacher's: KL for distributions, squared error over `scale` for values.

    Args:
        head: how to read it.
        tap: the student's tensor.
        teacher: the teacher's.
        scale: the teacher's variance, for values.
        temperature: softening of softmax outputs.
    """
    if head.kind == "softmax":
        return _divergences(head, tap, teacher, temperature).mean()
    if head.kind == "sigmoid":
        wanted = sigmoid(teacher)
        return (_bce(tap, wanted) - _bce(teacher, wanted)).mean()
    return jnp.square(tap - teacher).mean() / scale


def term_loss(term: Term, head: Head, tap: Array, values: Array, weights: Array | None) -> Array:
    """A term's mean over its elements by their weights; 0 where all weights are 0.

    Raises:
        AdapterError: output and targets do not have the same shape.
    """
    whole = jnp.issubdtype(values.dtype, jnp.integer)
    if term.kind == "cross_entropy":
        rows = rows_of(head, tap)
        _check(term, tap, values, whole and len(rows) == values.size)
        return cross_entropy(rows, values, weights)
    _check(term, tap, values, tap.shape == values.shape)
    return weighted_mean(_errors(term, tap, values.astype(tap.dtype)), weights)


def taught_loss(
    term: Term, head: Head, tap: Array, teacher: Array, weights: Array | None, temperature: float
) -> Array:
    """The same term with the teacher's output in the targets' place; 0 where outputs are equal."""
    if term.kind == "cross_entropy":
        flat = None if weights is None else weights.reshape(-1)
        return weighted_mean(_divergences(head, tap, teacher, temperature), flat)
    if term.kind == "bce":
        wanted = sigmoid(teacher)
        return weighted_mean(_bce(tap, wanted) - _bce(teacher, wanted), weights)
    return weighted_mean(_errors(term, tap, teacher), weights)


def _errors(term: Term, tap: Array, values: Array) -> Array:
    if term.kind == "mse":
        return jnp.square(tap - values)
    if term.kind == "huber":
        found: Array = optax.huber_loss(tap, values, delta=term.delta)
        return found
    return jnp.abs(tap - values) if term.kind == "l1" else _bce(tap, values)


def _check(term: Term, tap: Array, values: Array, fits: bool) -> None:
    if not fits:
        raise AdapterError(
            f"Targets for output {term.output!r} have shape {list(values.shape)} and type {values.dtype}, "
            f"the output has shape {list(tap.shape)}; a {term.kind} term cannot compare them."
        )
