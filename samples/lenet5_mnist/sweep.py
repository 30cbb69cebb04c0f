"""What the choices that the paper leaves open are worth, and what evolution adds to pruning.

    python samples/lenet5_mnist/sweep.py --out runs/sweep [--seeds 0 1 2] [--jobs 1] [--only NAME ...]

Needs the ancestor that `train.py` makes. Every run is one `evonnx evolve` command at the same final budget
and the same number of epochs; they are printed, may be interrupted and go on where they stopped. At the end,
and with `--table` at any time, what is there is printed as a Markdown table: mean and standard deviation over
seeds of what is left and of accuracy on test data, by which nothing here is chosen.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TARGET = 0.02
"""Share of the ancestor's synapses that every run ends at."""
EPOCHS = 6
"""Of retraining, over all generations of a run."""
RECOVERY = 4
"""Epochs after the last generation."""


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    encoding: str
    """A preset, or an attribute of variants.py after a colon."""
    generations: int = 6
    screen: int = 8
    """Samples per generation; 1: nothing is selected."""
    pace: float = 1.0

    def command(self, model: Path, out: Path, seed: int) -> list[str]:
        """The arguments of evonnx."""
        encoding = f"{HERE / 'variants.py'}{self.encoding}" if self.encoding[0] == ":" else self.encoding
        return [
            *("evolve", str(model), "--gens", str(self.generations), "--budget", f"synapses={TARGET}"),
            *("--encoding", encoding, "--screen", str(self.screen), "--align", "1", "--max-drop", "1"),
            *("--epochs", str(EPOCHS // self.generations), "--recovery-epochs", str(RECOVERY)),
            *("--pace", str(self.pace), "--best-effort", "--threads", "1"),
            *("--seed", str(seed), "--out", str(out)),
        ]


VARIANTS = (
    Variant("adaptive (default)", "adaptive"),
    Variant("cluster-driven (paper)", "cluster-driven"),
    Variant("synaptic (paper's baseline)", "synaptic"),
    Variant("uniform (control)", ":uniform"),
    Variant("signed (control)", ":signed"),
    Variant("cluster-driven, tau 0", ":tau_0"),
    Variant("cluster-driven, tau 0.1", ":tau_10"),
    Variant("cluster-driven, T 0.3", ":selectivity_30"),
    Variant("cluster-driven, T 0.1", ":selectivity_10"),
    Variant("cluster-driven, T 0.03", ":selectivity_3"),
    Variant("cluster-driven, one F for the network", ":one_factor"),
    Variant("cluster-driven, s 0.2", ":share_20"),
    Variant("cluster-driven, s 0.8", ":share_80"),
    Variant("cluster-driven, 3 generations", "cluster-driven", generations=3),
    Variant("cluster-driven, 2 generations", "cluster-driven", generations=2),
    Variant("adaptive, T 0.3", ":adaptive_30"),
    Variant("adaptive, T 0.03", ":adaptive_3"),
    Variant("adaptive, s 0.2", ":adaptive_share_20"),
    Variant("adaptive, s 0.8", ":adaptive_share_80"),
    Variant("adaptive, synapses only", ":adaptive_synapses"),
    Variant("adaptive, clusters only", ":adaptive_clusters"),
    Variant("adaptive, 3 generations", "adaptive", generations=3),
    Variant("adaptive, 2 generations", "adaptive", generations=2),
    Variant("adaptive, pace 1.5", "adaptive", pace=1.5),
    Variant("adaptive, not screened", "adaptive", screen=1),
    Variant("one-shot magnitude pruning", ":magnitude", generations=1, screen=1),
    Variant("iterative magnitude pruning", ":magnitude", screen=1),
    Variant("one-shot LAMP", ":lamp", generations=1, screen=1),
    Variant("iterative LAMP", ":lamp", screen=1),
)


def folder(out: Path, variant: Variant, seed: int) -> Path:
    """Where a run is."""
    kept = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in variant.name)
    return out / f"{kept}-{seed}"


def record(run: Path) -> dict[str, Any] | None:
    """A finished run's record."""
    file = run / "run.json"
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if "bench" in found else None


def perform(model: Path, out: Path, variant: Variant, seed: int) -> None:
    """Run one variant with one seed, unless that was done before."""
    run = folder(out, variant, seed)
    if record(run) is not None:
        return
    arguments = variant.command(model, run, seed) + (["--resume"] if run.exists() else [])
    print("evonnx", shlex.join(arguments), flush=True)
    done = subprocess.run([sys.executable, "-m", "evonnx", *arguments], capture_output=True, text=True)
    if done.returncode:
        print(f"failed: {done.stderr.strip().splitlines()[-1]}", flush=True)


def row(variant: Variant, runs: list[dict[str, Any]]) -> str:
    """A line of the table."""

    def mean(values: list[float], digits: int) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.{digits}f}{spread}"

    best = [run["best"] for run in runs]
    cells = [
        variant.name,
        str(variant.generations),
        mean([one["architectural_efficiency"] for one in best], 1),
        mean([one["cluster_efficiency"] or 0 for one in best], 1),
        mean([run["ancestor"]["parameters"] / run["best"]["parameters"] for run in runs], 1),
        mean([100 * one["score_validation"] for one in best], 2),
        mean([100 * one["score"] for one in best], 2),
        str(len(runs)),
    ]
    return f"| {' | '.join(cells)} |"


def table(out: Path, seeds: list[int]) -> str:
    """What is there."""
    lines = [
        "| variant | generations | A-E | C-E | fewer parameters | validation % | test % | seeds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for variant in VARIANTS:
        found = [record(folder(out, variant, seed)) for seed in seeds]
        runs = [one for one in found if one is not None]
        if runs:
            lines.append(row(variant, runs))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("runs/lenet5_mnist/lenet5.onnx"))
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--only", nargs="+", help="names of variants, or beginnings of them")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        chosen = [
            (variant, seed)
            for seed in arguments.seeds
            for variant in VARIANTS
            if arguments.only is None or variant.name.startswith(tuple(arguments.only))
        ]
        arguments.out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda one: perform(arguments.model, arguments.out, *one), chosen))
    print(table(arguments.out, arguments.seeds))


if __name__ == "__main__":
    main()
