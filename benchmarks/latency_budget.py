"""Does `--budget latency=0.5` halve the time? Measured on this machine, random weights, no retraining.

    python benchmarks/latency_budget.py [MODEL ...] [--share 0.5] [--threads 1] [--seeds 3] [--out FILE]

A model is an ONNX file or whatever benchmarks/removal.py takes; MobileNetV2, ResNet-50 and a YOLO-like
detector by default. Per model: the alignment and the cost table are measured, pilots correct it, and samples
are drawn, made compact and timed in turns with the original by `evonnx bench`'s own procedure. Beside them
stands the peer: the same share asked of multiply-accumulates, which is what tools without a clock aim at.
Exit code 1 if a budgeted sample misses the share by more than a tenth.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from provenance import provenance, replace_section
from removal import exported

from evonnx.alignment import measure_alignment
from evonnx.clusters import find_clusters
from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import Coupling, analyse
from evonnx.encodings.presets import adaptive
from evonnx.environment import Budget, prices_of
from evonnx.genome import encode
from evonnx.latency import Setting, corrected, find_correction, latency_budget, measure_latency
from evonnx.masking import apply_masks
from evonnx.masks import Masks, live_masks
from evonnx.network import Network, load_network, network_of
from evonnx.onnx_io import save_model
from evonnx.resources import count
from evonnx.speed import bench
from evonnx.synthesis import Solution, sample, solve

MODELS = ("mobilenetv2", "resnet50", "yolo-like")
TOLERANCE = 0.1
CHANNELS = replace(adaptive, levels="clusters")


@dataclass(frozen=True)
class Row:
    """One sample."""

    model: str
    budget: str
    seed: int
    macs: float
    """Share of the original's."""
    predicted: float | None
    """Share of the original's time."""
    measured: float
    low: float
    high: float


def compact(network: Network, coupling: Coupling, masks: Masks, path: Path) -> float:
    """Write what masks leave of a network; gives its multiply-accumulates."""
    masked = network_of(apply_masks(network, coupling, masks), network.source, network.input_shapes)
    save_model(apply_plan(masked, plan_compaction(masked, analyse(masked))).model, path)
    return float(count(load_network(path, network.input_shapes)).macs or 0)


def measure(model: Path, folder: Path, arguments: argparse.Namespace) -> tuple[list[Row], float, int]:
    """Samples of one model, the table's median error, and the alignment."""
    network = load_network(model)
    coupling = analyse(network)
    align = measure_alignment(network, coupling, CHANNELS, arguments.threads, seconds=10)["align"]
    record = measure_latency(network, coupling, CHANNELS, align, arguments.threads)
    factor = latency_budget(record)
    clusters = find_clusters(network, coupling, "channel")

    def solved(budget: Budget) -> Solution:
        genome = encode(network, clusters, CHANNELS, prices=prices_of(network, [budget]))
        return solve(network, coupling, genome, budget, align=align)

    goal = arguments.share * record["ancestor_ms"]
    asked = Budget(min(1.0, goal / factor.measure(network, live_masks(network))), factor)
    paced = solved(asked)
    first = np.random.SeedSequence(0)
    correction = find_correction(
        paced,
        lambda one: sample(one, np.random.default_rng(first)),
        Setting(network, arguments.threads),
        record["ancestor_ms"],
    )
    paced = corrected(paced, correction)
    peer = solved(Budget(arguments.share, "macs"))
    whole = float(count(network).macs or 0)
    drawn = []
    for seed in range(arguments.seeds):
        for name, solution in (("latency", paced), ("macs", peer)):
            path = folder / f"{name}-{seed}.onnx"
            one = sample(solution, np.random.default_rng(first if seed == 0 else seed))
            amount = one.achieved_share * solution.bounds[0].parent_amount
            predicted = amount / record["ancestor_ms"] if name == "latency" else None
            drawn.append((path, name, seed, compact(network, coupling, one.masks, path) / whole, predicted))
    timed = bench([model, *(path for path, *_ in drawn)], provider="cpu", threads=arguments.threads)
    rows = [
        Row(model.stem, name, seed, macs, predicted, 1 / one.ratio, 1 / one.ratio_high, 1 / one.ratio_low)
        for (_, name, seed, macs, predicted), one in zip(drawn, timed.latencies[1:], strict=True)
    ]
    return rows, record["median_error"], align


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the table there, in Markdown")
    arguments = parser.parse_args()
    lines = [
        "| model | budget | seed | MACs left | predicted | measured | 95% interval | table's error |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    found: list[Row] = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(name) if Path(name).exists() else exported(name, Path(folder), dynamo=False)
            rows, error, align = measure(model, Path(folder), arguments)
        for row in rows:
            predicted = "-" if row.predicted is None else f"{row.predicted:.3f}"
            lines.append(
                f"| {row.model}, multiples of {align} | {row.budget}={arguments.share:g} | {row.seed} "
                f"| {row.macs:.3f} | {predicted} | {row.measured:.3f} | {row.low:.3f} to {row.high:.3f} "
                f"| {error:.1%} |"
            )
            print(lines[-1], flush=True)
        found += rows
    if arguments.out is not None:
        replace_section(arguments.out, "latency-budget", "\n".join([*lines, "", provenance()]))
    if any(abs(row.measured / arguments.share - 1) > TOLERANCE for row in found if row.budget == "latency"):
        sys.exit("A sample missed its budget on latency.")


if __name__ == "__main__":
    main()
