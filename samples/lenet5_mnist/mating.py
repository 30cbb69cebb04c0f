"""What several parents are worth: 1, 2, 3 and 5 of them at equal training cost.

    python samples/lenet5_mnist/mating.py --out runs/mating [--seeds 0 1 2] [--jobs 1] [--only NAME ...]

Needs the ancestor that `train.py` makes. Every run is one `evonnx evolve` command that ends at the same
budget after the same number of retraining epochs, over all offspring that it raises; the first row spends
them on one offspring per generation. Commands are printed, may be interrupted and go on where they stopped.
At the end, and with `--table` at any time, what is there is printed as a Markdown table: mean and standard
deviation over seeds of what is left and of accuracy on test data, by which nothing here is chosen.
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep import folder, perform, record

TARGET = 0.0067
"""Share of the ancestor's synapses that every run ends at: 150 times fewer."""
GENERATIONS = 8
POPULATION = 5
"""Offspring that are retrained per generation."""
EPOCHS = 1
"""Of retraining, per offspring of a population."""
RECOVERY = 4
"""Epochs after the last generation."""


COLUMNS = (
    *("variant", "offspring", "epochs", "overlap %", "A-E", "C-E", "fewer parameters"),
    *("validation %", "test %", "seeds"),
)


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    parents: int
    offspring: int = POPULATION
    epochs: int = EPOCHS
    """Per offspring."""

    def command(self, model: Path, out: Path, seed: int) -> list[str]:
        """The arguments of evonnx."""
        return [
            *("evolve", str(model), "--gens", str(GENERATIONS), "--budget", f"synapses={TARGET}"),
            *("--offspring", str(self.offspring), "--parents", str(self.parents), "--screen", "8"),
            *("--align", "1", "--max-drop", "1", "--epochs", str(self.epochs)),
            *("--recovery-epochs", str(RECOVERY), "--best-effort", "--threads", "1"),
            *("--seed", str(seed), "--out", str(out)),
        ]


VARIANTS = (
    Variant("1 parent, 1 offspring", 1, offspring=1, epochs=POPULATION * EPOCHS),
    Variant("1 parent", 1),
    Variant("2 parents", 2),
    Variant("3 parents", 3),
    Variant("5 parents", 5),
)


def trained(run: dict[str, Any]) -> int:
    """Epochs of retraining, of all offspring that a run raised, without recovery."""
    options = run["configuration"]["options"]
    return len(run["generations"]) * options["selection"]["offspring"] * options["retraining"]["epochs"]


def row(variant: Variant, runs: list[dict[str, Any]]) -> str:
    """A line of the table."""

    def mean(values: list[float], digits: int) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.{digits}f}{spread}" if values else "-"

    best = [run["best"] for run in runs]
    overlaps = [
        statistics.fmean(found)
        for run in runs
        if (found := [one["overlap"] for one in run["generations"] if "overlap" in one])
    ]
    cells = [
        variant.name,
        str(variant.offspring),
        mean([trained(run) for run in runs], 0),
        mean([100 * one for one in overlaps], 1),
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
        f"| {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * (len(COLUMNS) - 1)}",
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
    parser.add_argument("--out", type=Path, default=Path("runs/mating"))
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
