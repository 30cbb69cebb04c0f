"""`--align auto`: which multiple of channels this machine runs fastest, found by measuring.

onnxruntime keeps convolutions in a blocked layout only where channel counts fit its blocks; a depthwise
network with odd counts can run at half the speed of its ancestor although it computes less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.clusters import find_clusters
from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import Coupling, analyse
from evonnx.environment import Budget
from evonnx.errors import EvonnxError
from evonnx.genome import Encoding, encode
from evonnx.masking import apply_masks
from evonnx.network import Network, network_of
from evonnx.onnx_io import save_model
from evonnx.speed import bench
from evonnx.synthesis import synthesize

CANDIDATES = (1, 4, 8, 16)
_PROBE_SHARE = 0.4
"""Synapses that the probe keeps: about where a run is after a few generations."""
_WORTHWHILE = 1.05
"""A larger multiple keeps dead channels, so it must be clearly faster."""


def measure_alignment(
    network: Network,
    coupling: Coupling,
    encoding: Encoding,
    folder: Path,
    threads: int,
    input_shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
    """Remove channels from the ancestor at several alignments, time the results in turns, and choose.

    Args:
        network: the ancestor.
        coupling: its channel classes.
        encoding: where the probe's channels are drawn from.
        folder: an empty folder for the probes.
        threads: of onnxruntime.
        input_shapes: concrete shapes for symbolic dimensions.

    Returns:
        {"align": the choice, "speedup": {alignment: speed against alignment 1}}; no speeds where nothing can
        be removed, so that nothing needs to be measured.
    """
    channels = replace(encoding, granularity="channel", levels="clusters")
    genome = encode(network, find_clusters(network, coupling, "channel"), channels)
    try:
        probe = synthesize(
            network, coupling, genome, Budget(_PROBE_SHARE), np.random.default_rng(0), best_effort=True
        )
    except EvonnxError:
        return {"align": 1, "speedup": {}}
    masked = network_of(apply_masks(network, coupling, probe.masks), network.source, input_shapes)
    masked_coupling = analyse(masked)
    files: list[Path] = []
    for align in CANDIDATES:
        plan = plan_compaction(masked, masked_coupling, align=align)
        if align == 1 and plan.is_empty():
            return {"align": 1, "speedup": {}}
        files.append(folder / f"align-{align}.onnx")
        save_model(apply_plan(masked, plan).model, files[-1])
    timed = bench(files, batches=None, threads=threads, input_shapes=input_shapes or None)
    first_batch = timed.latencies[0].batch
    speedup = {
        align: latency.ratio
        for align, latency in zip(
            CANDIDATES, [one for one in timed.latencies if one.batch == first_batch], strict=True
        )
    }
    choice = 1
    for align in CANDIDATES[1:]:
        if speedup[align] > _WORTHWHILE * speedup[choice]:
            choice = align
    return {"align": choice, "speedup": {str(align): ratio for align, ratio in speedup.items()}}
