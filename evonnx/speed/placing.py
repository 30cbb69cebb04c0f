"""Where the nodes of a model run, in words, and whether its runs can be captured as a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SHOWN_NODES = 3
"""Nodes that a note names."""
_CONTROL_FLOW = ("If", "Loop", "Scan")

Nodes = Mapping[str, Sequence[str]]
"""Nodes of the optimised graph by execution provider, as `sessions.placement` labels them."""


def placement_note(model: str, nodes: Nodes | None, provider: str) -> str | None:
    """A sentence where a model does not run on one provider as a whole; None where it does.

    Args:
        model: its name.
        nodes: by provider; None: onnxruntime does not report it.
        provider: the one that was asked for.
    """
    if nodes is None:
        return f"Whether all of {model} runs on {provider} is not known: this onnxruntime does not report it."
    elsewhere = {name: labels for name, labels in nodes.items() if name != provider and labels}
    if not elsewhere:
        return None
    here = len(nodes.get(provider, ()))
    parts = [f"{len(labels)} run on {name} ({_some(labels)})" for name, labels in sorted(elsewhere.items())]
    return f"{model} does not run on {provider} as a whole: {here} of its nodes do, {', '.join(parts)}."


def why_no_graph(nodes: Nodes | None, provider: str) -> str | None:
    """Why a model's runs can't be captured as a CUDA graph; None where nothing speaks against it.

    A capture needs every node on the device, the same work in every run, and buffers that stay in place.
    """
    if nodes is None:
        return "this onnxruntime does not report where its nodes run"
    elsewhere = [label for name, labels in nodes.items() if name != provider for label in labels]
    if elsewhere:
        return f"{len(elsewhere)} of its nodes run elsewhere ({_some(elsewhere)})"
    branching = [
        label
        for labels in nodes.values()
        for label in labels
        if label.rpartition(" ")[2].strip("()") in _CONTROL_FLOW
    ]
    if branching:
        return f"what it computes depends on its data ({_some(branching)})"
    return None


def _some(labels: Sequence[str]) -> str:
    more = len(labels) - SHOWN_NODES
    return ", ".join(labels[:SHOWN_NODES]) + (f" and {more} more" if more > 0 else "")
