"""What removal costs in time and memory, beside Torch-Pruning on the same architectures in one run.

    python benchmarks/compaction.py [--only resnet50] [--rounds 3] [--proof] [--out FILE] [--scaling-only]

evonnx reads a file in which half of all channels are masked, and plans and carries out their removal;
Torch-Pruning (`pip install torch-pruning`; left out where it is missing) prunes half of all channels of the
torch module, set up as its README shows and with no settings for single models. Each measurement is a process
of its own, the tools take turns. Graph: analysis of the coupling, or tracing into a dependency graph.
Removal: plan and apply, or one step of the pruner. Peak: the process at its largest during a phase, less what
it had before it read or built the model, over the bytes of the model's weights. Torch-Pruning proves nothing;
evonnx's proof is timed apart, with --proof. --out has seconds and peak memory of every single phase.

A second table grows a residual network and a DenseNet from 1x to 8x blocks. Meant for an idle machine with 2
cores; CPU seconds are shown beside, and exit code 1 means that a limit was missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIMITS = {"resnet50": 0.5, "densenet121": 1.5, "vit-b16": 1.5}
"""Seconds for analysis, plan and apply together."""
TIMES_MODEL = 3.0
"""Peak memory of those, in sizes of the model ..."""
LEAST_BYTES = 1 << 24
"""... of at least this size: beside a smaller one, code and bookkeeping weigh more than its weights."""
SECONDS_AT_MOST = 90
"""Given to either tool for one architecture; what takes longer has failed."""
SCALES = (1, 2, 4, 8)

Phases = dict[str, dict[str, float]]


class Meter:
    """Seconds, CPU seconds and peak memory of phases, one after another."""

    def __init__(self) -> None:
        self.phases: Phases = {}
        self.before = _memory("VmRSS")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        # Writing 5 lets the kernel forget the highest mark, so that each phase has its own.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.phases[name] = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "peak": _memory("VmHWM") - self.before,
        }


def _memory(field: str) -> int:
    """Bytes, from Linux's own account of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise SystemExit("This benchmark reads memory from /proc, which only Linux has.")


# ------------------------------------------------------------------------------- in processes of their own


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Export an architecture and mask half of its channels: `<name>.onnx`, `<name>-masked.onnx`."""
    import numpy as np
    import torch
    from architectures import ARCHITECTURES

    from evonnx.dependency import analyse
    from evonnx.dependency.groups import channel_groups
    from evonnx.masking import apply_masks
    from evonnx.network import load_network
    from evonnx.onnx_io import save_model

    torch.manual_seed(0)
    one = ARCHITECTURES[name]
    path = folder / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.randn(1, 3, one.side, one.side)
        torch.onnx.export(one.build().eval(), (example,), str(path), dynamo=False, input_names=["x"])
    network = load_network(path)
    coupling = analyse(network)
    # Every second channel of each group: as many in every head and group of a convolution.
    alive = np.ones(coupling.n_classes, dtype=np.bool_)
    for classes in channel_groups(coupling):
        alive[classes[1::2]] = False
    alive |= coupling.pinned()
    masks = {}
    for label, weight in network.weights.items():
        ends = coupling.weights[label]
        reads = np.repeat(alive[ends.input], weight.outputs // weight.groups, axis=0)
        keep = (alive[ends.output][:, None] & reads)[:, :, None]
        shape = (weight.outputs, weight.inputs_per_group, weight.taps)
        masks[label] = weight.from_canonical(np.broadcast_to(keep, shape))
    save_model(apply_masks(network, coupling, masks), folder / f"{name}-masked.onnx")
    return {"nodes": len(network.model.graph)}


def remove_with_evonnx(name: str, folder: Path, proof: bool) -> dict[str, Any]:
    from evonnx.compaction import apply_plan, plan_compaction
    from evonnx.dependency import analyse
    from evonnx.network import load_network
    from evonnx.onnx_io import stored_parameters
    from evonnx.proof import prove, require

    path = folder / f"{name}-masked.onnx"
    meter = Meter()
    with meter.phase("read"):
        network = load_network(path)
    with meter.phase("graph"):
        coupling = analyse(network)
    with meter.phase("plan"):
        plan = plan_compaction(network, coupling)
    with meter.phase("apply"):
        compacted = apply_plan(network, plan)
    before, after = stored_parameters(network.model), stored_parameters(compacted.model)
    if proof:
        with meter.phase("proof"):
            require(prove(network.model, compacted, input_shapes=network.input_shapes))
    return {"phases": meter.phases, "before": before, "after": after, "bytes": path.stat().st_size}


def remove_with_torch_pruning(name: str, folder: Path, proof: bool) -> dict[str, Any]:
    import torch
    import torch_pruning as pruning
    from architectures import ARCHITECTURES

    torch.manual_seed(0)
    one = ARCHITECTURES[name]
    example = torch.randn(1, 3, one.side, one.side)
    meter = Meter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with meter.phase("read"):
            module = one.build().eval()
        weights = list(module.parameters())
        before, size = (sum(part(p) for p in weights) for part in (torch.Tensor.numel, _bytes_of))
        # As the README has it, what classifies is left alone.
        heads = [
            part
            for label, part in module.named_modules()
            if label.split(".")[-1] in ("classifier", "head") or getattr(part, "out_features", 0) == 1000
        ]
        importance = pruning.importance.MagnitudeImportance(p=2)
        with meter.phase("graph"):
            pruner = pruning.pruner.BasePruner(
                module, example, importance=importance, pruning_ratio=0.5, ignored_layers=heads
            )
        with meter.phase("step"):
            pruner.step()
        del weights
        with torch.no_grad():
            module(example)
    return {
        "phases": meter.phases,
        "before": before,
        "after": sum(p.numel() for p in module.parameters()),
        "bytes": size,
    }


def _bytes_of(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size()


TOOLS: dict[str, Callable[[str, Path, bool], dict[str, Any]]] = {
    "evonnx": remove_with_evonnx,
    "Torch-Pruning": remove_with_torch_pruning,
}
REMOVAL = {"evonnx": ("graph", "plan", "apply"), "Torch-Pruning": ("graph", "step")}


def child(task: str, name: str, folder: Path, proof: bool = False) -> dict[str, Any]:
    """Run one of the above in a process of its own; {"error": why} where it fails."""
    command = [sys.executable, __file__, "--child", task, "--only", name, "--folder", str(folder)]
    limit = 600 if proof or task == "prepare" else SECONDS_AT_MOST
    try:
        done = subprocess.run(
            [*command, *(["--proof"] if proof else [])],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {limit} s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": lines[-1].strip()[:160] if lines else f"exit code {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


# ---------------------------------------------------------------------------------------------- the tables


def compare(names: list[str], rounds: int, proof: bool, raw: dict[str, Any]) -> bool:
    """The first table; whether all limits were met. `raw` is filled with all that was measured."""
    tools = [tool for tool in TOOLS if tool == "evonnx" or importlib.util.find_spec("torch_pruning")]
    if len(tools) == 1:
        print("Torch-Pruning is not installed (pip install torch-pruning): evonnx alone.\n")
    print(f"{rounds} round(s); median (lowest to highest) of wall seconds; CPU seconds are medians.\n")
    print("| architecture | tool | graph | removal | together | CPU | peak | smaller | read |")
    print("|:---|:---|---:|---:|---:|---:|---:|---:|---:|")
    met, totals = True, dict.fromkeys(tools, 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in names:
            ready = child("prepare", name, folder)
            if "error" in ready:
                print(f"| {name} | | could not be exported: {ready['error']} | | | | | | |", flush=True)
                met = False
                continue
            found: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
            for turn in range(rounds):
                for tool in tools[:: 1 if turn % 2 == 0 else -1]:
                    if not any("error" in one for one in found[tool]):
                        first = proof and turn == 0 and tool == "evonnx"
                        found[tool].append(child(tool, name, folder, first))
            raw[name] = found
            for tool in tools:
                print(row(name, tool, found[tool]), flush=True)
            if not any("error" in one for ones in found.values() for one in ones):
                for tool, ones in found.items():
                    totals[tool] += statistics.median(together(tool, one, "wall") for one in ones)
            met &= within(name, found["evonnx"])
            for path in folder.iterdir():
                path.unlink()
    shared = ", ".join(f"{tool} {seconds:.2f} s" for tool, seconds in totals.items())
    print(f"\nIn total, over what every tool shown could do: {shared}.")
    return met and all(totals["evonnx"] <= seconds for seconds in totals.values())


def together(tool: str, one: dict[str, Any], what: str) -> float:
    """Of analysis, plan and apply: seconds added up, or the largest peak."""
    values = [one["phases"][phase][what] for phase in REMOVAL[tool]]
    return float(max(values) if what == "peak" else sum(values))


def row(name: str, tool: str, ones: list[dict[str, Any]]) -> str:
    errors = [one["error"] for one in ones if "error" in one]
    if errors:
        return f"| {name} | {tool} | failed: {errors[0].replace('|', '/')} | | | | | | |"
    graph = [one["phases"]["graph"]["wall"] for one in ones]
    both = [together(tool, one, "wall") for one in ones]
    cells = (
        spread(graph),
        spread([all_ - part for all_, part in zip(both, graph, strict=True)]),
        spread(both),
        f"{statistics.median(together(tool, one, 'cpu') for one in ones):.2f}",
        f"{max(together(tool, one, 'peak') / one['bytes'] for one in ones):.2f}x",
        f"{ones[0]['before'] / ones[0]['after']:.2f}x",
        spread([one["phases"]["read"]["wall"] for one in ones]),
    )
    proof = ones[0]["phases"].get("proof")
    note = f" (proof {proof['wall']:.1f} s, peak {proof['peak'] / ones[0]['bytes']:.1f}x)" if proof else ""
    return f"| {name} | {tool}{note} | " + " | ".join(cells) + " |"


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def within(name: str, ones: list[dict[str, Any]]) -> bool:
    """Whether evonnx kept its limits on one architecture; says which it missed."""
    missed = []
    if any("error" in one for one in ones):
        missed.append("it failed")
    else:
        seconds = statistics.median(together("evonnx", one, "wall") for one in ones)
        peak = max(together("evonnx", one, "peak") / one["bytes"] for one in ones)
        if seconds > LIMITS.get(name, float("inf")):
            missed.append(f"{seconds:.2f} s where {LIMITS[name]} s are allowed")
        if peak > TIMES_MODEL and ones[0]["bytes"] >= LEAST_BYTES:
            missed.append(f"peak memory of {peak:.1f}x the model where {TIMES_MODEL}x are allowed")
    for one in missed:
        print(f"evonnx missed a limit on {name}: {one}", file=sys.stderr)
    return not missed


def scaling(rounds: int) -> bool:
    """The second table; whether cost per node at 8x is below twice that at 1x."""
    import numpy as np
    from growing import GROWING

    from evonnx.compaction import apply_plan, plan_compaction
    from evonnx.dependency import analyse
    from evonnx.masking import apply_masks
    from evonnx.network import network_of

    print(f"\nCPU milliseconds against graph size, least of {rounds + 1}; in brackets against 1x.\n")
    print("| network | blocks | nodes | channels | analysis | plan | apply | together | per node |")
    print("|:---|---:|---:|---:|---:|---:|---:|---:|---:|")
    linear = True
    for name, build in GROWING.items():
        smallest: list[float] = []
        for scale in SCALES:
            network = network_of(build(scale), name)
            coupling = analyse(network)
            alive = (np.random.default_rng(0).random(coupling.n_classes) < 0.5) | coupling.pinned()
            masks = {}
            for label, weight in network.weights.items():
                classes = coupling.weights[label]
                keep = alive[classes.output][:, None] & alive[classes.input]
                masks[label] = weight.from_canonical(np.repeat(keep[:, :, None], weight.taps, axis=2))
            masked = network_of(apply_masks(network, coupling, masks), name)
            times = []
            for _ in range(rounds + 1):
                marks = [time.process_time()]
                coupling = analyse(masked)
                marks.append(time.process_time())
                plan = plan_compaction(masked, coupling)
                marks.append(time.process_time())
                apply_plan(masked, plan)
                marks.append(time.process_time())
                times.append(np.diff(marks))
            nodes = len(network.model.graph)
            analysis, planned, applied = np.min(times, axis=0).tolist()
            cells = [analysis, planned, applied, analysis + planned + applied]
            cells.append(cells[-1] / nodes)
            smallest = smallest or cells
            shown = " | ".join(
                f"{1e3 * cell:.3g} ms ({cell / first:.2f}x)"
                for cell, first in zip(cells, smallest, strict=True)
            )
            print(f"| {name} | {scale}x | {nodes} | {coupling.n_classes} | {shown} |", flush=True)
            linear &= cells[-1] < 2 * smallest[-1]
    if not linear:
        print("cost grows clearly faster than the graph", file=sys.stderr)
    return linear


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="architectures, by comma")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--proof", action="store_true")
    parser.add_argument("--scaling-only", action="store_true")
    parser.add_argument("--out", type=Path, help="a JSON file for every single measurement")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if options.child == "prepare":
            result = prepare(options.only, options.folder)
        else:
            result = TOOLS[options.child](options.only, options.folder, options.proof)
        print(json.dumps(result))
        return 0
    met = True
    if not options.scaling_only:
        from architectures import ARCHITECTURES

        names = options.only.split(",") if options.only else list(ARCHITECTURES)
        raw: dict[str, Any] = {}
        met = compare(names, options.rounds, options.proof, raw)
        if options.out:
            options.out.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    return 0 if scaling(options.rounds) and met else 1


if __name__ == "__main__":
    sys.exit(main())
