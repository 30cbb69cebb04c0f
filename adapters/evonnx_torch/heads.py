"""Losses on what is read of a network (see `evonnx_training.heads`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from evonnx_training.heads import Head


def rows_of(head: Head, tap: Tensor) -> Tensor:
    """Logits as (examples and positions, classes)."""
    if head.merged:
        tap = tap.flatten(head.axis)
    elif tap.ndim > 1:
        tap = tap.movedim(head.axis, -1)
    return tap.reshape(-1, tap.shape[-1])


def cross_entropy(rows: Tensor, targets: Tensor) -> Tensor:
    """Mean over labelled rows (targets >= 0) of -log p(target); 0 if none is labelled."""
    summed = F.cross_entropy(rows, targets.reshape(-1), ignore_index=-1, reduction="sum")
    return summed / (targets >= 0).sum().clamp_min(1)


def softened_divergence(rows: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean KL(teacher || student) of distributions softened by T (Hinton et al. 2015, section
    2)."""
    mine = F.log_softmax(rows / temperature, -1)
    theirs = F.log_softmax(teacher / temperature, -1)
    return F.kl_div(mine, theirs, reduction="batchmean", log_target=True) * temperature**2


def match(head: Head, tap: Tensor, teacher: Tensor, scale: float, temperature: float) -> Tensor:
    """How far one output is from the teacher's: KL for distributions, squared error over `scale` for values.

    Args:
        head: how to read it.
        tap: the student's tensor.
        teacher: the teacher's.
        scale: the teacher's variance, for values.
        temperature: softening of softmax outputs.
    """
    if head.kind == "softmax":
        return softened_divergence(rows_of(head, tap), rows_of(head, teacher), temperature)
    if head.kind == "sigmoid":
        p = teacher.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(teacher, p)
        return F.binary_cross_entropy_with_logits(tap, p) - entropy
    return (tap - teacher).square().mean() / scale


def scales(heads: tuple[Head, ...], taps: Mapping[str, Tensor]) -> dict[str, float]:
    """Variance of each value-like output, by tap; 1 where it is constant."""
    result = {}
    for head in heads:
        variance = float(taps[head.tap].var(unbiased=False)) if head.kind == "raw" else 1.0
        result[head.tap] = variance if variance > 1e-12 else 1.0
    return result
