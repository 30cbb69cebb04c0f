"""What no output depends on, although masks leave it alive: what removal would take from a file unread.

A synapse that reads zeros only, a class that no live path leads from to an output, and a weight whose nodes
lead nowhere: what they put out is added to something while it is zero, joined to something and never looked
at, or contracted with dead weights only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evonnx.dependency.coupling import Coupling
from evonnx.dependency.observed import Observed, edges_of, readings_of
from evonnx.dependency.reach import (
    Input,
    empty_inputs,
    find_bypasses,
    needed_nodes,
    unread_operands,
    weights_read,
)
from evonnx.dependency.zeros import Flags, Zeroed, zero_channels
from evonnx.network import Network


@dataclass(frozen=True)
class Unread:
    """What may go without a change of any output."""

    classes: Flags
    """Shape (n_classes,); classes that no weight reads or puts out (heads, groups) are among them."""
    live: Mapping[str, Flags]
    """Per weight of which something is needed, shape (O, I): live slices that read what is not always
    zero."""


def find_unread(
    network: Network, coupling: Coupling, live: Mapping[str, Flags], zeroed: Zeroed | None = None
) -> Unread:
    """What no output depends on.

    Args:
        network: the network.
        coupling: its coupling.
        live: per weight, shape (O, I): slices with a live synapse.
        zeroed: what is zero of constants, besides their own zeros.
    """
    graph = network.model.graph
    zeros = zero_channels(network, coupling, live, zeroed)
    bypasses = find_bypasses(network, zeros)
    readings = readings_of(network, coupling, zeros, zeroed)
    dropped: set[Input] = set()
    while True:
        needed = needed_nodes(graph, bypasses, {}, dropped)
        sources = weights_read(network, coupling, needed)
        edges = edges_of(network, coupling, live, zeros, sources)
        kept = Observed(coupling, edges, readings).kept
        more = empty_inputs(network, coupling, needed, kept) | unread_operands(edges)
        if more <= dropped:
            return Unread(~kept, {name: edge.live for name, edge in edges.items()})
        dropped |= more
