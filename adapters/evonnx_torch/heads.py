"""Where a loss reads the network: behind an output, the tensor before a final Softmax or Sigmoid.

A loss on probabilities needs their logarithm; taken from the logits it is exact and stable. The graph tells
which outputs are probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from evonnx_torch.graph import Graph

_TRANSPARENT = frozenset({"Identity", "Cast", "Dropout", "Flatten", "Squeeze", "Reshape", "Unsqueeze"})


@dataclass(frozen=True)
class Head:
    """How a loss reads one output."""

    output: str
    tap: str
    """The tensor to read: the input of the final Softmax or Sigmoid, or the output itself."""
    kind: Literal["softmax", "sigmoid", "raw"]
    axis: int = 1
    """Class axis of the tap."""
    merged: bool = False
    """Softmax before opset 13: all axes from `axis` on are one class axis."""

    def rows(self, tap: Tensor) -> Tensor:
        """Logits as (examples and positions, classes)."""
        if self.merged:
            tap = tap.flatten(self.axis)
        elif tap.ndim > 1:
            tap = tap.movedim(self.axis, -1)
        return tap.reshape(-1, tap.shape[-1])


def find_head(graph: Graph, output: str) -> Head:
    """Follow an output back to its Softmax or Sigmoid, if it ends in one."""
    producers = graph.producers()
    node = producers.get(output)
    while node is not None and node.op_type in _TRANSPARENT:
        node = producers.get(node.inputs[0])
    if node is None:
        return Head(output, output, "raw")
    if node.op_type in ("Softmax", "LogSoftmax"):
        merged = graph.opset < 13
        return Head(
            output, node.inputs[0], "softmax", int(node.attributes.get("axis", 1 if merged else -1)), merged
        )
    if node.op_type == "Sigmoid":
        return Head(output, node.inputs[0], "sigmoid")
    return Head(output, output, "raw")


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
        return softened_divergence(head.rows(tap), head.rows(teacher), temperature)
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
