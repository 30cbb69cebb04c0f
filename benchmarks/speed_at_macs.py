"""Does half the work take half the time? ResNet-50 and MobileNetV2, full size, on this CPU.

Per architecture these are timed side by side, as `evonnx bench` does: the original; a compact offspring at
about half its multiply-accumulates (channel clusters, alignment as measured here); and as controls the same
architecture with all widths scaled alike to the offspring's multiply-accumulates, in multiples of 8 and of
the alignment. Weights are random: only shapes matter for time.

    python benchmarks/speed_at_macs.py
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from architectures import ResNet, Width, mobilenet_v2, published
from torch import nn

from evonnx.alignment import measure_alignment
from evonnx.clusters import find_clusters
from evonnx.dependency import analyse
from evonnx.encodings.presets import adaptive
from evonnx.environment import Budget
from evonnx.genome import encode
from evonnx.masking import apply_masks
from evonnx.network import load_network, network_of
from evonnx.onnx_io import save_model
from evonnx.resources import count
from evonnx.sessions import default_threads
from evonnx.speed import bench
from evonnx.steps import compact
from evonnx.synthesis import synthesize

ARCHITECTURES: dict[str, Callable[[Width], nn.Module]] = {
    "ResNet-50": lambda width: ResNet(made=width),
    "MobileNetV2": mobilenet_v2,
}


def export(model: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.zeros(1, 3, 224, 224)
        torch.onnx.export(
            model.eval(), (image,), str(path), dynamo=False, opset_version=17, input_names=["image"]
        )


def macs_of(path: Path) -> int:
    return count(load_network(path)).macs or 0


@dataclass(frozen=True)
class Offspring:
    """How a compact model came about."""

    macs: int
    align: int
    requested: str


def evolve(
    ancestor: Path, target: Path, share: float, align: int | None, threads: int, seed: int
) -> Offspring:
    """One offspring at a share of the multiply-accumulates, compact and proven."""
    network = load_network(ancestor)
    coupling = analyse(network)
    genes = replace(adaptive, granularity="channel", levels="clusters")
    genome = encode(network, find_clusters(network, coupling, "channel"), genes)
    if align is None:
        measured = measure_alignment(network, coupling, genes, threads, seconds=20)
        align = int(measured["align"])
        requested = "measured: " + ", ".join(
            f"{k} -> {v:.2f}" for k, v in measured.get("speedup", {}).items()
        )
    else:
        requested = "given"
    sample = synthesize(
        network, coupling, genome, Budget(share, "macs"), np.random.default_rng(seed), align=align
    )
    masked = network_of(apply_masks(network, coupling, sample.masks), network.source)
    save_model(compact(masked, threads=threads).compacted.model, target)
    return Offspring(macs_of(target), align, requested)


def control(name: str, macs: int, path: Path, step: int) -> int:
    """The same architecture with uniformly scaled widths, at about these multiply-accumulates."""
    low, high = 0.3, 1.0
    for _ in range(12):
        factor = (low + high) / 2

        def width(channels: int, factor: float = factor) -> int:
            return max(step, round(channels * factor / step) * step)

        export(ARCHITECTURES[name](width), path)
        found = macs_of(path)
        if abs(found - macs) <= 0.01 * macs:
            break
        low, high = (factor, high) if found < macs else (low, factor)
    return found


def rows_of(name: str, folder: Path, threads: int, arguments: argparse.Namespace) -> list[str]:
    original, small = folder / f"{name}.onnx", folder / f"{name}-compact.onnx"
    torch.manual_seed(arguments.seed)
    export(ARCHITECTURES[name](published), original)
    offspring = evolve(original, small, arguments.share, arguments.align, threads, arguments.seed)
    whole = macs_of(original)
    labels = {
        original: (name, whole),
        small: (f"compact, multiples of {offspring.align}", offspring.macs),
    }
    for step in sorted({8, offspring.align}):
        path = folder / f"{name}-uniform{step}.onnx"
        labels[path] = (f"uniform widths, multiples of {step}", control(name, offspring.macs, path, step))
    timed = bench(list(labels), provider="cpu", rounds=arguments.rounds, threads=threads)
    rows = []
    for (label, macs), latency in zip(labels.values(), timed.latencies, strict=True):
        fewer = whole / macs
        rows.append(
            f"| {label} | {threads} | {macs / 1e6:,.0f} | {fewer:.2f}x | {latency.median_ms:.2f} "
            f"({latency.p10_ms:.2f} to {latency.p90_ms:.2f}) "
            f"| {latency.ratio:.2f}x | {latency.ratio / fewer:.2f} |"
        )
    print(*rows, f"alignment {offspring.requested}", sep="\n", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=0.48, help="of the multiply-accumulates that is kept")
    parser.add_argument("--align", type=int, help="channel multiple; default: measured")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, default_threads()}))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(ARCHITECTURES))
    parser.add_argument("--out", type=Path, help="write the table, in Markdown")
    arguments = parser.parse_args()
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ARCHITECTURES:
            for threads in arguments.threads if arguments.only in (None, name) else ():
                rows += rows_of(name, Path(folder), threads, arguments)
    table = [
        "| model | threads | MMACs | fewer | ms (10th to 90th percentile) | faster | of the ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]
    if arguments.out is not None:
        text = arguments.out.read_text()
        start, end = text.index("| model |"), text.rindex("|\n") + 2
        arguments.out.write_text(text[:start] + "\n".join(table) + "\n" + text[end:])


if __name__ == "__main__":
    main()
