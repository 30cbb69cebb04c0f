"""Does half the work take half the time? ResNet-50 and MobileNetV2, full size, on this CPU.

Per architecture these are timed side by side, as `evonnx bench` does: the original; compact offspring at
about half its multiply-accumulates (channel clusters, alignment as measured here; of several draws the
measured fastest, as `evolve --offspring` chooses among equally fit ones), one whose synapses were ranked per
millisecond of a cost table measured here, as `--budget latency` ranks them, one ranked per
multiply-accumulate, as `--budget macs` does, and one of those drawn without alignment; and at the same
multiply-accumulates as controls the same architecture with all widths scaled alike, in multiples of 8 and of
the alignment, and Torch-Pruning's default output on the same network. Last, the original with as many weights
set to zero and nothing removed. Weights are random: only shapes matter for time.

    python benchmarks/speed_at_macs.py [--models FOLDER] [--without torch-pruning] [--out docs/speed.md]

With --models files are kept, and found again: the timing alone takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import controls
import numpy as np
import torch
from architectures import ResNet, Width, mobilenet_v2, published
from provenance import general, provenance, replace_section
from torch import nn

from evonnx.alignment import measure_alignment
from evonnx.clusters import find_clusters
from evonnx.dependency import analyse
from evonnx.encodings.presets import adaptive
from evonnx.environment import Budget, prices_of
from evonnx.environment.latency import LatencyBudget
from evonnx.genome import encode
from evonnx.latency import latency_budget, measure_latency
from evonnx.masking import apply_masks
from evonnx.network import load_network, network_of
from evonnx.onnx_io import save_model
from evonnx.sessions import default_threads
from evonnx.speed import bench
from evonnx.steps import compact
from evonnx.synthesis import synthesize

ARCHITECTURES: dict[str, Callable[[Width], nn.Module]] = {
    "ResNet-50": lambda width: ResNet(made=width),
    "MobileNetV2": mobilenet_v2,
}
GENES = replace(adaptive, granularity="channel", levels="clusters")
HEAD = """\
| model | threads | MMACs | fewer | ms (10th to 90th percentile) | faster | of the ratio |
|---|---:|---:|---:|---:|---:|---:|"""


def alignment(ancestor: Path, threads: int) -> dict[str, Any]:
    """What `--align auto` measures and chooses."""
    network = load_network(ancestor)
    return measure_alignment(network, analyse(network), GENES, threads, seconds=20)


def cost_table(ancestor: Path, record: Path, threads: int, align: int) -> LatencyBudget:
    """What `--budget latency` measures first."""
    if not record.exists():
        network = load_network(ancestor)
        measured = measure_latency(network, analyse(network), GENES, align, threads)
        record.write_text(json.dumps(measured, indent=1))
    return latency_budget(json.loads(record.read_text()))


def evolve(
    ancestor: Path, target: Path, *, share: float, align: int, seed: int, priced: str | LatencyBudget
) -> None:
    """One offspring at a share of the multiply-accumulates, compact and proven.

    Args:
        ancestor: file.
        target: file.
        share: of its multiply-accumulates that is kept.
        align: channel multiple.
        seed: of the draw.
        priced: what strengths are ranked per.
    """
    network = load_network(ancestor)
    coupling, budget = analyse(network), Budget(share, "macs")
    clusters = find_clusters(network, coupling, "channel")
    genome = encode(network, clusters, GENES, prices=prices_of(network, [Budget(share, priced)]))
    sample = synthesize(network, coupling, genome, budget, np.random.default_rng(seed), align=align)
    masked = network_of(apply_masks(network, coupling, sample.masks), network.source)
    save_model(compact(masked).compacted.model, target)


def models_of(name: str, folder: Path, threads: int, given: argparse.Namespace) -> list[tuple[str, Path]]:
    """Labels and files, made where they are not there."""
    build = ARCHITECTURES[name]
    torch.manual_seed(given.seed)
    network = build(published)

    def file(what: str, make: Callable[[Path], object]) -> Path:
        path = folder / f"{name}-{what}-{given.share}-{given.seed}.onnx"
        if not path.exists():
            print(f"making {path.name}", flush=True)
            make(path)
        return path

    original = file("original", lambda path: controls.export(network, path))
    align = given.align or _aligned(original, folder / f"{name}-align-{threads}.json", threads)

    table = partial(cost_table, original, folder / f"{name}-table-{align}-{threads}.json", threads, align)

    def draw(align: int, number: int, ranked: str) -> Path:
        def make(path: Path) -> None:
            priced = "macs" if ranked == "macs" else table()
            evolve(original, path, share=given.share, align=align, seed=given.seed + number, priced=priced)

        # Channels that cost most time are not the same on every number of threads.
        where = "" if ranked == "macs" else f"-{threads}"
        return file(f"compact{align}-{ranked}{where}-draw{number}", make)

    def fastest(ranked: str) -> Path:
        draws = [draw(align, number, ranked) for number in range(given.draws)]
        return _fastest(draws, folder / f"{name}-draws-{ranked}-{align}-{threads}.json", threads)

    chosen = fastest("time")
    macs = controls.macs_of(chosen)
    found = [
        (name, original),
        (f"compact, multiples of {align}, ranked by time", chosen),
        (f"compact, multiples of {align}, ranked by MACs", fastest("macs")),
        ("compact, not aligned, ranked by MACs", draw(1, 0, "macs")),
    ]
    for step in sorted({8, align} - {1}):
        path = file(f"uniform{step}-of-{macs}", partial(controls.uniform, build, macs, step))
        found.append((f"uniform widths, multiples of {step}", path))
    if "torch-pruning" not in given.without:
        path = file(f"torch-pruning-of-{macs}", partial(controls.torch_pruning, network, macs))
        found.append(("Torch-Pruning, its defaults", path))
    kept = macs / controls.macs_of(original)
    path = file(f"zeros-of-{macs}", partial(controls.zeros, original, kept))
    found.append((f"{1 - kept:.0%} of weights zero, none removed", path))
    return found if align > 1 else [one for one in found if "not aligned" not in one[0]]


def _fastest(draws: list[Path], record: Path, threads: int) -> Path:
    """The draw with most multiply-accumulates per second: draws differ by a little in what is left to do."""
    if len(draws) == 1:
        return draws[0]
    if not record.exists():
        timed = bench(draws, provider="cpu", rounds=30, threads=threads)
        speeds = {
            path.name: controls.macs_of(path) * latency.ratio
            for path, latency in zip(draws, timed.latencies, strict=True)
        }
        record.write_text(json.dumps(speeds, indent=1))
    speeds = json.loads(record.read_text())
    best = max(speeds, key=speeds.__getitem__)
    shares = ", ".join(f"{speed / speeds[best]:.2f}" for speed in speeds.values())
    print(f"draws on {threads} threads: MACs per second over those of the fastest: {shares}", flush=True)
    return next(path for path in draws if path.name == best)


def _aligned(original: Path, record: Path, threads: int) -> int:
    if not record.exists():
        record.write_text(json.dumps(alignment(original, threads), indent=1))
    choice = json.loads(record.read_text())
    speeds = ", ".join(f"{key} -> {value:.2f}" for key, value in choice.get("speedup", {}).items())
    print(f"alignment {choice['align']} on {threads} threads; speed by alignment: {speeds}", flush=True)
    return int(choice["align"])


def rows_of(models: list[tuple[str, Path]], threads: int, rounds: int) -> tuple[list[str], list[str]]:
    """Lines of the table, and what else is to be said."""
    timed = bench([path for _, path in models], provider="cpu", rounds=rounds, threads=threads)
    macs = [controls.macs_of(path) for _, path in models]
    rows = []
    for (label, _), own, latency in zip(models, macs, timed.latencies, strict=True):
        fewer = macs[0] / own
        rows.append(
            f"| {label} | {threads} | {own / 1e6:,.0f} | {fewer:.2f}x | {latency.median_ms:.2f} "
            f"({latency.p10_ms:.2f} to {latency.p90_ms:.2f}) "
            f"| {latency.ratio:.2f}x | {latency.ratio / fewer:.2f} |"
        )
    print(*rows, *timed.notes, sep="\n", flush=True)
    prefix = f"{threads} thread{'s' if threads > 1 else ''}: "
    return rows, [prefix + note for note in general(timed.notes, [path for _, path in models])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=0.48, help="of the multiply-accumulates that is kept")
    parser.add_argument("--align", type=int, help="channel multiple; default: measured")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, default_threads()}))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=4, help="offspring to choose the fastest from")
    parser.add_argument("--only", choices=sorted(ARCHITECTURES))
    parser.add_argument("--without", nargs="*", default=(), choices=("torch-pruning",))
    parser.add_argument("--models", type=Path, help="folder to keep models in")
    parser.add_argument("--make", action="store_true", help="make the models, time nothing")
    parser.add_argument("--out", type=Path, help="write the tables into this Markdown file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.models or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARCHITECTURES if given.only is None else (given.only,):
            rows: list[str] = []
            notes: list[str] = []
            for threads in given.threads:
                models = models_of(name, folder, threads, given)
                if not given.make:
                    more = rows_of(models, threads, given.rounds)
                    rows, notes = rows + more[0], notes + more[1]
            if given.out is not None and not given.make:
                replace_section(given.out, name, "\n".join([HEAD, *rows, "", provenance(), *notes]))


if __name__ == "__main__":
    main()
