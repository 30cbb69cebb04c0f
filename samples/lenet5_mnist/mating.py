"""What several parents are worth: 1, 2, 3 and 5 of them at equal training cost.

    python samples/lenet5_mnist/mating.py --out runs/mating [--seeds 0 1 2] [--jobs 1] [--only NAME ...]

Needs the ancestor that `train.py` makes. Every run is one `evonnx evolve` command that ends at the same
budget after the same number of retraining epochs, over all offspring that it raises; the first row spends
them on one offspring per generation. Commands are printed, may be interrupted and go on where they stopped.
At the end, and with `--table` at any time, what is there is printed as a Markdown table: mean and standard
deviation over seeds of what is left and of accuracy on test data, by which nothing here is chosen.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import comparison

TARGET = 0.0067
"""Share of the ancestor's synapses that every run ends at: 150 times fewer."""
GENERATIONS = 8
POPULATION = 5
"""Offspring that are retrained per generation."""
EPOCHS = 1
"""Of retraining, per offspring of a population."""
RECOVERY = 4
"""Epochs after the last generation."""


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


def trained(run: comparison.Run) -> int:
    """Epochs of retraining, of all offspring that a run raised, without recovery."""
    options = run["configuration"]["options"]
    return len(run["generations"]) * options["selection"]["offspring"] * options["retraining"]["epochs"]


def overlap(run: comparison.Run) -> list[float]:
    """Of mates, a mean over the generations that mated: one number or none."""
    found = [one["overlap"] for one in run["generations"] if "overlap" in one]
    return [100 * statistics.fmean(found)] if found else []


CELLS: dict[str, comparison.Cell] = {
    "offspring": lambda variant, _: str(variant.offspring),
    "epochs": lambda _, runs: comparison.mean([trained(run) for run in runs], 0),
    "overlap %": lambda _, runs: comparison.mean([one for run in runs for one in overlap(run)], 1),
}

if __name__ == "__main__":
    comparison.main(__doc__, Path("runs/mating"), VARIANTS, CELLS)
