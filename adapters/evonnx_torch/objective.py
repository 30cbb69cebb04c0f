"""The loss of a retraining: the task's own, the ancestor's outputs, or both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evonnx.errors import AdapterError
from evonnx.task import Loss
from evonnx_torch.feeding import Chunk
from evonnx_torch.heads import cross_entropy, match, rows_of, scales
from evonnx_torch.module import OnnxModule
from evonnx_torch.teacher import Outputs, Teacher
from evonnx_torch.terms import find_target, taught_loss, term_loss
from evonnx_training.heads import loss_heads


class Objective:
    """Computes the loss of a chunk.

    Args:
        module: the student.
        loss: the task's loss.
        teacher: the ancestor, if any.
        share: part of the loss that comes from the teacher.
        temperature: softening of class distributions.
    """

    def __init__(
        self, module: OnnxModule, loss: Loss, teacher: Teacher | None, share: float, temperature: float
    ) -> None:
        if loss.kind == "distillation" and teacher is None:
            raise AdapterError("The task is distillation, but no ancestor was given to learn from.")
        self.module, self.kind, self.teacher = module, loss.kind, teacher
        self.terms = loss.terms
        self.share = 1.0 if loss.kind == "distillation" else share if teacher is not None else 0.0
        self.temperature = temperature
        self.heads = loss_heads(module.graph, loss)
        self.taps = tuple(head.tap for head in self.heads)
        self._scales: dict[str, float] | None = None
        self._classes: dict[str, int] = {}
        """By output, once it was seen."""

    def __call__(self, chunk: Chunk) -> Tensor:
        """The loss, a scalar."""
        return self.loss(chunk, self.taught(chunk))

    def taught(self, chunk: Chunk) -> Outputs | None:
        """What the teacher says of a chunk; None where nothing is learnt from it."""
        return self.teacher(chunk) if self.share > 0 and self.teacher is not None else None

    def check(self, chunk: Chunk) -> None:
        """Hold labels against the classes that outputs are known to have; nothing of it touches the device.

        Raises:
            AdapterError: a label is beyond them.
        """
        highest = {self.heads[0].output: chunk.highest_label, **chunk.highest_named}
        for output, classes in self._classes.items():
            if (label := highest.get(output, -1)) >= classes:
                raise AdapterError(
                    f"A label is {label}, but output {output!r} has {classes} classes (labels count from 0)."
                )

    def loss(self, chunk: Chunk, taught: Outputs | None) -> Tensor:
        """The loss, a scalar, given what the teacher says.

        Once it was computed for chunks of these shapes, it neither waits for the device nor looks at values.
        """
        outputs = self.module(chunk.inputs, self.taps)
        loss = torch.zeros((), device=self.module.device)
        if taught is not None:
            loss = loss + self.share * self._taught(outputs, taught, chunk)
        if self.share < 1 and self.kind == "terms":
            loss = loss + (1 - self.share) * self._terms(outputs, chunk)
        elif self.share < 1:
            loss = loss + (1 - self.share) * self._labelled(outputs[self.taps[0]], chunk)
        return loss

    def _terms(self, outputs: dict[str, Tensor], chunk: Chunk) -> Tensor:
        """The weighted sum of the terms."""
        for term, head in zip(self.terms, self.heads, strict=True):
            if term.kind == "cross_entropy":
                self._classes[term.output] = rows_of(head, outputs[head.tap]).shape[1]
        self.check(chunk)
        parts = [
            term.weight * term_loss(term, head, outputs[head.tap], *find_target(term, chunk.named))
            for term, head in zip(self.terms, self.heads, strict=True)
        ]
        return torch.stack(parts).sum()

    def _taught_terms(self, outputs: dict[str, Tensor], taught: tuple[Tensor, ...], chunk: Chunk) -> Tensor:
        """The same sum with the teacher's outputs as targets; elements without weight are not taught."""
        parts = []
        for term, head, theirs in zip(self.terms, self.heads, taught, strict=True):
            weights = chunk.named[term.output][1] if term.output in chunk.named else None
            parts.append(
                term.weight * taught_loss(term, head, outputs[head.tap], theirs, weights, self.temperature)
            )
        return torch.stack(parts).sum()

    def _taught(self, outputs: dict[str, Tensor], taught: tuple[Tensor, ...], chunk: Chunk) -> Tensor:
        if self.kind == "terms":
            return self._taught_terms(outputs, taught, chunk)
        if self._scales is None:
            self._scales = scales(self.heads, dict(zip(self.taps, taught, strict=True)))
        parts = []
        for head, theirs in zip(self.heads, taught, strict=True):
            parts.append(match(head, outputs[head.tap], theirs, self._scales[head.tap], self.temperature))
        return torch.stack(parts).mean()

    def _labelled(self, tap: Tensor, chunk: Chunk) -> Tensor:
        targets = chunk.targets
        if targets is None:
            raise AdapterError(
                f"The task's loss is {self.kind} but its batches have no targets; "
                "give labels, or set `distill = 1` to learn from the ancestor alone."
            )
        if self.kind == "mse":
            if targets.numel() != tap.numel():
                raise AdapterError(
                    f"Targets have shape {list(targets.shape)}, output {self.heads[0].output!r} has "
                    f"{list(tap.shape)}; a mean squared error needs them alike."
                )
            if self._scales is None:
                self._scales = scales(self.heads, dict.fromkeys(self.taps, targets))
            return F.mse_loss(tap, targets.reshape(tap.shape)) / self._scales[self.taps[0]]
        rows = rows_of(self.heads[0], tap)
        if rows.shape[0] != targets.numel() or rows.shape[1] < 2:
            raise AdapterError(
                f"Output {self.heads[0].output!r} gives {rows.shape[0]} x {rows.shape[1]} class scores for "
                f"{targets.numel()} labels; cross-entropy needs one row of at least two classes per label."
            )
        self._classes[self.heads[0].output] = rows.shape[1]
        self.check(chunk)
        return cross_entropy(rows, targets)
