"""What the choices that the paper leaves open are worth, and what evolution adds to pruning.

    python samples/lenet5_mnist/sweep.py --out runs/sweep [--seeds 0 1 2] [--jobs 1] [--only NAME ...]

Needs the ancestor that `train.py` makes. Every run is one `evonnx evolve` command at the same final budget
and the same number of epochs; they are printed, may be interrupted and go on where they stopped. At the end,
and with `--table` at any time, what is there is printed as a Markdown table: mean and standard deviation over
seeds of what is left and of accuracy on test data, by which nothing here is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import comparison

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


if __name__ == "__main__":
    cells: dict[str, comparison.Cell] = {"generations": lambda variant, _: str(variant.generations)}
    comparison.main(__doc__, Path("runs/sweep"), VARIANTS, cells)
