"""Losses of several terms, one per output, whose elements count by weights (see `evonnx.task.Term`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from evonnx.errors import AdapterError
from evonnx.task import Term
from evonnx_torch.heads import rows_of
from evonnx_training.heads import Head

Named = Mapping[str, tuple[Tensor, Tensor | None]]
"""Targets and element weights by output."""


def term_loss(term: Term, head: Head, tap: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
    """A term's mean over its elements by their weights; 0 where all weights are 0.

    Labels are taken to be below the number of classes.

    Args:
        term: what to compute.
        head: how its output is read.
        tap: what the module gave there.
        values: the targets, as the task gave them.
        weights: of the targets' shape, or None.

    Raises:
        AdapterError: output and targets do not have the same shape.
    """
    if term.kind == "cross_entropy":
        rows, wanted = rows_of(head, tap), values.reshape(-1)
        _check(term, tap, values, len(rows) == len(wanted) and not values.is_floating_point())
        errors = F.cross_entropy(rows, wanted, ignore_index=-1, reduction="none")
        labelled = (wanted >= 0).to(errors.dtype)
        return _mean(errors, labelled if weights is None else labelled * weights.reshape(-1))
    _check(term, tap, values, tap.shape == values.shape)
    return _mean(_errors(term, tap, values.to(tap.dtype)), weights)


def taught_loss(
    term: Term, head: Head, tap: Tensor, teacher: Tensor, weights: Tensor | None, temperature: float
) -> Tensor:
    """The same term with the teacher's output in place of targets, under the same element weights.

    Where the teacher cannot be matched exactly for lack of a zero (entropy of its probabilities), that part
    is taken off, so that 0 is what equal outputs give. Class distributions are softened by `temperature`
    (times its square, Hinton et al. 2015).
    """
    if term.kind == "cross_entropy":
        mine = F.log_softmax(rows_of(head, tap) / temperature, -1)
        theirs = F.log_softmax(rows_of(head, teacher) / temperature, -1)
        errors = F.kl_div(mine, theirs, reduction="none", log_target=True).sum(-1) * temperature**2
        return _mean(errors, None if weights is None else weights.reshape(-1))
    if term.kind == "bce":
        wanted = teacher.sigmoid()
        errors = _errors(term, tap, wanted) - F.binary_cross_entropy_with_logits(
            teacher, wanted, reduction="none"
        )
        return _mean(errors, weights)
    return _mean(_errors(term, tap, teacher), weights)


def _errors(term: Term, tap: Tensor, values: Tensor) -> Tensor:
    if term.kind == "mse":
        return (tap - values).square()
    if term.kind == "l1":
        return (tap - values).abs()
    if term.kind == "huber":
        return F.huber_loss(tap, values, reduction="none", delta=term.delta)
    return F.binary_cross_entropy_with_logits(tap, values, reduction="none")


def _mean(errors: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return errors.mean()
    total = weights.sum()
    return (errors * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def _check(term: Term, tap: Tensor, values: Tensor, fits: bool) -> None:
    if not fits:
        raise AdapterError(
            f"Targets for output {term.output!r} have shape {list(values.shape)} and type {values.dtype}, "
            f"the output has shape {list(tap.shape)}; a {term.kind} term cannot compare them."
        )


def find_target(term: Term, named: Named) -> tuple[Tensor, Tensor | None]:
    """The targets and weights of a term.

    Raises:
        AdapterError: the batch has none.
    """
    if term.output not in named:
        raise AdapterError(
            f"The task's loss has a term for output {term.output!r}, but its batches have targets for: "
            f"{', '.join(sorted(named)) or 'none'}."
        )
    return named[term.output]
