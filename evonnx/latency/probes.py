"""Probes: compact copies of a model at many widths, each width drawn apart from the others.

Along a real lineage widths shrink together, which cannot tell what inputs cost from what outputs cost. Here
every group of coupled channels keeps a share of its own.
"""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class Probe:
    """A compact model, ready for onnxruntime."""

    model: bytes
    widths: Mapping[str, Widths]
    """By weight name; weights that are gone have none."""
    owners: Mapping[str, str]
    """Weight by the name of a node, or of a tensor that the weight's output becomes."""


def probe_of(network: Network) -> Probe:
    """A network as it stands.

    Nodes are numbered, for onnxruntime's profile tells names alone and many files have none.
    """
    model = network.model.clone()
    for number, node in enumerate(model.graph):
        node.name = f"node{number}"
    weight_of = {
        (use.node.outputs[0].name, use.op_type): name
        for name, weight in network.weights.items()
        for use in weight.uses
    }
    owners: dict[str, str] = {}
    for node in model.graph:
        outputs = [value.name for value in node.outputs if value.name]
        owner = weight_of.get((node.outputs[0].name, node.op_type))
        if owner is not None:
            owners[str(node.name)] = owner
        else:
            # What onnxruntime fuses into a layer takes the name of its last tensor.
            owner = next((owners[v.name] for v in node.inputs if v is not None and v.name in owners), None)
        if owner is not None:
            owners.update(dict.fromkeys(outputs, owner))
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
