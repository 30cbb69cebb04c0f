"""The loss of a retraining: the task's own, the ancestor's outputs, or both."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from evonnx.errors import AdapterError
from evonnx.task import Batch, Loss, Term
from evonnx_jax.losses import cross_entropy, match, rows_of, taught_loss, term_loss
from evonnx_jax.module import OnnxFunction
from evonnx_training.graph import Graph
from evonnx_training.heads import loss_heads


class Piece(NamedTuple):
    """What one step takes; arrays only, so that it can be handed to a compiled function."""

    inputs: dict[str, Any]
    targets: Any
    """One array; None where there is none."""
    named: dict[str, tuple[Any, Any]]
    """Targets and element weights (or None) by output, where the loss has terms."""
    taught: tuple[Any, ...] | None
    """The teacher's tensors, one per head; None where nothing is learnt from it."""


def piece_of(function: OnnxFunction, batch: Batch) -> Piece:
    """A batch as arrays, without the examples that the graph cannot take; nothing is taught yet."""
    size = function.usable(batch.size)

    def cut(array: Any) -> Any:
        return array[:size] if np.ndim(array) else array

    targets, named = None, {}
    if isinstance(batch.targets, Mapping):
        for output, (values, weights) in batch.targets.items():
            counted = None if weights is None else np.broadcast_to(weights, values.shape).astype(np.float32)
            named[output] = _target(values[:size]), None if counted is None else counted[:size]
    elif batch.targets is not None:
        targets = _target(batch.targets[:size])
    return Piece({name: cut(x) for name, x in function.inputs(batch.inputs).items()}, targets, named, None)


def _target(values: Any) -> Any:
    """Whole numbers as they are counted here, others in float32."""
    return values.astype(np.int32 if values.dtype.kind in "iub" else np.float32)


class Objective:
    """A loss as a pure function of outputs and a piece.

    Args:
        graph: the student's.
        loss: the task's loss.
        taught: whether there is a teacher.
        share: part of the loss that comes from it.
        temperature: softening of class distributions.

    Raises:
        AdapterError: the loss cannot be read off this graph.
    """

    def __init__(self, graph: Graph, loss: Loss, taught: bool, share: float, temperature: float) -> None:
        if loss.kind == "distillation" and not taught:
            raise AdapterError("The task is distillation, but no ancestor was given to learn from.")
        self.kind, self.terms = loss.kind, loss.terms
        self.share = 1.0 if loss.kind == "distillation" else share if taught else 0.0
        self.temperature = temperature
        self.heads = loss_heads(graph, loss)
        self.taps = tuple(head.tap for head in self.heads)
        self._scales = dict.fromkeys(self.taps, 1.0)
        self._classes: dict[str, int] = {}

    def settle(self, shapes: Mapping[str, Any], piece: Piece) -> None:
        """Learn what follows from a first piece: the scale of values, the number of classes.

        Args:
            shapes: of the taps.
            piece: with what the teacher says.
        """
        wanted = piece.taught or ((piece.targets,) if self.kind == "mse" else ())
        for head, values in zip(self.heads, wanted, strict=False):
            if head.kind == "raw" and values is not None and (variance := float(np.var(values))) > 1e-12:
                self._scales[head.tap] = variance
        for place, head in enumerate(self.heads):
            kind = self.terms[place].kind if self.terms else self.kind
            if kind == "cross_entropy":
                self._classes[head.output] = jax.eval_shape(partial(rows_of, head), shapes[head.tap]).shape[1]

    def check(self, piece: Piece) -> None:
        """Hold labels against the classes that outputs have.

        Raises:
            AdapterError: a label is beyond them.
        """
        if self.share == 1:
            return
        for output, classes in self._classes.items():
            labels = piece.named[output][0] if output in piece.named else piece.targets
            if labels is not None and labels.dtype.kind in "iub" and labels.max(initial=-1) >= classes:
                raise AdapterError(
                    f"A label is {labels.max()}, but output {output!r} has {classes} classes (labels count "
                    "from 0)."
                )

    def __call__(self, outputs: Mapping[str, Array], piece: Piece) -> Array:
        """The loss, a scalar.

        Raises:
            AdapterError: outputs and targets do not fit together.
        """
        loss = jnp.zeros(())
        if piece.taught is not None and self.share > 0:
            loss = loss + self.share * self._taught(outputs, piece, piece.taught)
        if self.share < 1:
            own = self._terms(outputs, piece) if self.terms else self._labelled(outputs, piece)
            loss = loss + (1 - self.share) * own
        return loss

    def _taught(self, outputs: Mapping[str, Array], piece: Piece, taught: tuple[Array, ...]) -> Array:
        if self.terms:
            parts = []
            for term, head, theirs in zip(self.terms, self.heads, taught, strict=True):
                _, weights = piece.named.get(term.output, (None, None))
                parts.append(
                    term.weight
                    * taught_loss(term, head, outputs[head.tap], theirs, weights, self.temperature)
                )
            return jnp.stack(parts).sum()
        parts = [
            match(head, outputs[head.tap], theirs, self._scales[head.tap], self.temperature)
            for head, theirs in zip(self.heads, taught, strict=True)
        ]
        return jnp.stack(parts).mean()

    def _terms(self, outputs: Mapping[str, Array], piece: Piece) -> Array:
        parts = [
            term.weight * term_loss(term, head, outputs[head.tap], *_find(term, piece))
            for term, head in zip(self.terms, self.heads, strict=True)
        ]
        return jnp.stack(parts).sum()

    def _labelled(self, outputs: Mapping[str, Array], piece: Piece) -> Array:
        head, targets = self.heads[0], piece.targets
        tap = outputs[head.tap]
        if targets is None:
            raise AdapterError(
                f"The task's loss is {self.kind} but its batches have no targets; "
                "give labels, or set `distill = 1` to learn from the ancestor alone."
            )
        if self.kind == "mse":
            if targets.size != tap.size:
                raise AdapterError(
                    f"Targets have shape {list(targets.shape)}, output {head.output!r} has "
                    f"{list(tap.shape)}; a mean squared error needs them alike."
                )
            return jnp.square(tap - targets.reshape(tap.shape)).mean() / self._scales[head.tap]
        rows = rows_of(head, tap)
        if rows.shape[0] != targets.size or rows.shape[1] < 2:
            raise AdapterError(
                f"Output {head.output!r} gives {rows.shape[0]} x {rows.shape[1]} class scores for "
                f"{targets.size} labels; cross-entropy needs one row of at least two classes per label."
            )
        return cross_entropy(rows, targets)


def _find(term: Term, piece: Piece) -> tuple[Any, Any]:
    if term.output not in piece.named:
        raise AdapterError(
            f"The task's loss has a term for output {term.output!r}, but its batches have targets for: "
            f"{', '.join(sorted(piece.named)) or 'none'}."
        )
    return piece.named[term.output]
