"""Where a loss reads the network: behind an output, the tensor before a final Softmax or Sigmoid.

A loss on probabilities needs their logarithm; taken from the logits it is exact and stable. The graph tells
which outputs are probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from evonnx.errors import AdapterError
from evonnx.task import Loss, Term
from evonnx_training.graph import Graph

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


def term_head(graph: Graph, term: Term) -> Head:
    """Where a term reads its output: values as they are, probabilities as logits."""
    if term.kind in ("mse", "l1", "huber"):
        return Head(term.output, term.output, "raw")
    head = find_head(graph, term.output)
    if term.kind == "cross_entropy":
        if head.kind == "softmax":
            return head
        return Head(head.output, head.output, "softmax", term.axis)
    return head if head.kind == "sigmoid" else Head(term.output, term.output, "sigmoid")


def loss_outputs(graph: Graph, loss: Loss) -> tuple[str, ...]:
    """Names of the graph outputs that a loss reads.

    Raises:
        AdapterError: the loss names no output of the graph, or nothing in it can be trained on.
    """
    floats = tuple(name for name in graph.outputs if name in graph.float_outputs)
    named = tuple(term.output for term in loss.terms) if loss.kind == "terms" else (loss.output,)
    if loss.kind == "terms" and len(set(named)) != max(1, len(named)):
        raise AdapterError("The task's loss must have one or more terms, each of another output.")
    wanted = tuple(name for name in named if name is not None)
    for name in wanted:
        if name not in floats:
            raise AdapterError(
                f"The task's loss reads output {name!r}; the model's floating-point outputs are: "
                f"{', '.join(floats) or 'none'}."
            )
    if wanted:
        return wanted
    if not floats:
        raise AdapterError("The model has no floating-point output, so no loss can be computed on it.")
    return floats if loss.kind == "distillation" else floats[:1]


def loss_heads(graph: Graph, loss: Loss) -> tuple[Head, ...]:
    """How the loss reads each of its outputs; the same for student and teacher.

    Raises:
        AdapterError: as `loss_outputs`.
    """
    outputs = loss_outputs(graph, loss)
    if loss.kind == "terms":
        return tuple(term_head(graph, term) for term in loss.terms)
    heads = tuple(find_head(graph, name) for name in outputs)
    if loss.kind == "mse":
        return tuple(
            Head(head.output, head.output, "raw") for head in heads
        )  # targets are like the output itself
    if loss.kind == "cross_entropy":
        # What does not end in Softmax are logits, classes on axis 1.
        return tuple(replace(head, kind="softmax") for head in heads)
    return heads


def compares_values(loss: Loss, heads: tuple[Head, ...]) -> bool:
    """Whether a loss compares values alone, and no class distributions."""
    return loss.kind != "cross_entropy" and all(head.kind == "raw" for head in heads)
