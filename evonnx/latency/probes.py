"""Probes: compact copies of a model at many widths, each width drawn apart from the others.

Along a real lineage widths shrink together, which cannot tell what inputs cost from what outputs cost. Here
every group of coupled channels keeps a share of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evonnx.clusters import find_clusters
from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import Coupling, analyse
from evonnx.dependency.groups import channel_groups
from evonnx.encodings import Uniform
from evonnx.environment import Budget
from evonnx.environment.pressure import Pressure
from evonnx.environment.widths import Widths, stored_widths
from evonnx.genome import Encoding, encode
from evonnx.masking import apply_masks
from evonnx.masks import Masks
from evonnx.network import Network, network_of
from evonnx.onnx_io import to_bytes
from evonnx.synthesis import Solution, sample, solve

_SPREAD = 0.4
"""Standard deviation of the logarithm of a group's share."""
_LEAST = 0.08


_TOKEN = re.compile(r"evonnx_\d+_")
_MADE_UP = re.compile(r"(_nchwc|_nhwc|_token_\d+|_\d+)$")
"""What onnxruntime adds to the names of nodes that it makes."""


@dataclass(frozen=True)
class Probe:
    """A compact model, ready for onnxruntime."""

    model: bytes
    widths: Mapping[str, Widths]
    """By weight name; weights that are gone have none."""
    owners: Mapping[str, str]
    """Weight by token, a part of names in onnxruntime's profile, or by the name of a graph output."""

    def owner(self, name: str) -> str | None:
        """The weight that a node of the optimised graph belongs to, as far as its name tells."""
        token = _TOKEN.search(name)
        if token is not None:
            return self.owners.get(token[0])
        while name not in self.owners:
            shorter = _MADE_UP.sub("", name)
            if shorter == name:
                return None
            name = shorter
        return self.owners[name]


def probe_of(network: Network) -> Probe:
    """A network as it stands.

    Nodes and what they put out are renamed to tokens: onnxruntime's profile tells names alone, it makes new
    ones out of those that it finds, and many files have none.
    """
    model = network.model.clone()
    weight_of = {
        (use.node.outputs[0].name, use.op_type): name
        for name, weight in network.weights.items()
        for use in weight.uses
    }
    owner_of: dict[str, str] = {}
    for node in model.graph:
        # What onnxruntime fuses into a layer takes the name of its last node or tensor.
        before = (owner_of.get(str(value.name)) for value in node.inputs if value is not None)
        owner = weight_of.get((node.outputs[0].name, node.op_type)) or next(filter(None, before), None)
        if owner is not None:
            owner_of.update({str(value.name): owner for value in node.outputs})
    outputs = {value.name for value in model.graph.outputs}
    owners = {name: owner for name, owner in owner_of.items() if name in outputs}
    for number, node in enumerate(model.graph):
        token = f"evonnx_{number}_"
        owner = next((owner_of[str(v.name)] for v in node.outputs if v.name in owner_of), None)
        if owner is not None:
            owners[token] = owner
        node.name = token
        for place, value in enumerate(node.outputs):
            if value.name and value.name not in outputs:
                value.name = f"{token}{place}"
    widths = {name: stored_widths(weight) for name, weight in network.weights.items()}
    return Probe(to_bytes(model), widths, owners)


def compact_probe(network: Network, coupling: Coupling, masks: Masks) -> Probe:
    """What masks leave of a network."""
    masked = network_of(apply_masks(network, coupling, masks), network.source, network.input_shapes)
    compact = apply_plan(masked, plan_compaction(masked, analyse(masked))).model
    return probe_of(network_of(compact, network.source, network.input_shapes))


def probes(
    network: Network,
    coupling: Coupling,
    encoding: Encoding,
    align: int,
    levels: Sequence[float],
    rng: np.random.Generator,
) -> Iterator[Probe]:
    """One probe per level.

    Args:
        network: the model.
        coupling: its channel classes.
        encoding: of which all is kept but how strong channels are.
        align: multiple of channels.
        levels: typical share of channels that each probe keeps.
        rng: draws shares and channels.
    """
    alike = replace(encoding, granularity="channel", strength=Uniform())
    genome = encode(network, find_clusters(network, coupling, "channel"), alike)
    whole = solve(network, coupling, genome, Budget(1.0), levels="clusters", best_effort=True, align=align)
    groups = channel_groups(coupling)
    for level in levels:
        survival = (genome.cluster_live > 0).astype(np.float32)
        for group in groups:
            share = np.clip(level * math.exp(_SPREAD * rng.standard_normal()), _LEAST, 1.0)
            survival[group] *= np.float32(share)
        survival[coupling.pinned()] = 1
        certain = dict.fromkeys(genome.live, math.inf)
        drawn: Solution = replace(whole, pressure=Pressure(survival, certain, level))
        yield compact_probe(network, coupling, sample(drawn, rng).masks)
