"""What of the ancestor no offspring can lose, and why: for the record of a run, and so for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evonnx.dependency import analyse
from evonnx.dependency.removability import alike, removability
from evonnx.masks import live_masks
from evonnx.network import Network

_MOST = 50
"""Reasons of each kind that are recorded, those that hold most first; `evonnx inspect --all` has all."""


def pinned(network: Network) -> dict[str, Any]:
    """Pins, what has to stay equally long, and weights that are left alone, each with its reason.

    Reasons that differ only in the node or the tensor they name are one entry, which counts its nodes.

    Args:
        network: the ancestor.
    """
    coupling = analyse(network)
    found = removability(network, coupling, live_masks(network))
    total, removable = found.total, found.removable
    pins = [
        {
            "node": found.pins[ones[0]].node_label,
            "nodes": len(ones),
            "reason": found.pins[ones[0]].reason if len(ones) == 1 else reason,
            "channels": len(np.unique(np.concatenate([found.pins[one].classes for one in ones]))),
            "synapses": found.of_pins(ones).touched.synapses,
        }
        for reason, ones in alike(found.pins).items()
    ]
    equal: dict[tuple[str, int, int], list[str]] = {}
    for one in coupling.equal_counts:
        shape = one.classes.shape
        equal.setdefault((one.reason, int(np.prod(shape[:-1])), shape[-1]), []).append(one.node_label)
    alone: dict[str, list[str]] = {}
    for left in network.unprunable:
        alone.setdefault(left.reason, []).append(left.node_label)
    return {
        "channels": coupling.n_classes,
        "removable": int(np.count_nonzero(~coupling.pinned())),
        "synapses": total.synapses,
        "synapses_removable": removable.synapses,
        "pins": _first(pins, "synapses"),
        "equal_counts": _first(
            [
                {
                    "node": nodes[0],
                    "nodes": len(nodes),
                    "reason": reason,
                    "groups": groups,
                    "members": members,
                }
                for (reason, groups, members), nodes in equal.items()
            ]
        ),
        "left_alone": _first(
            [{"node": nodes[0], "nodes": len(nodes), "reason": reason} for reason, nodes in alone.items()]
        ),
    }


def _first(found: Sequence[Mapping[str, Any]], by: str = "nodes") -> list[Mapping[str, Any]]:
    return sorted(found, key=lambda one: -one[by])[:_MOST]
