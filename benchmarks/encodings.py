"""Encodings side by side at one budget: what the default was chosen by.

    python benchmarks/encodings.py [MODEL] [--gens 6] [--target 0.02] [--epochs 1] [--seeds 3]

MODEL has its task file beside it; without one it is the committed LeNet-5 on digits. Every variant evolves
with the same budget, screening and training; there is no recovery training. Printed per variant: median over
seeds of the last offspring's figures, with the range of its validation score. Test data is not looked at.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from evonnx.evolution import EvolveOptions, Pressure, Retraining, Selection, evolve

DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits" / "lenet5.onnx"

VARIANTS: dict[str, dict[str, Any]] = {
    "adaptive": {},
    "adaptive, s = 0.2": {"cluster_share": 0.2},
    "adaptive, s = 0.8": {"cluster_share": 0.8},
    "adaptive, synapses only": {"levels": "synapses"},
    "adaptive, kernels": {"clusters": "kernel"},
    "cluster-driven (the paper)": {"encoding": "cluster-driven"},
    "cluster-driven, channels": {"encoding": "cluster-driven", "clusters": "channel"},
    "synaptic (its baseline)": {"encoding": "synaptic"},
    "random (control)": {"encoding": f"{Path(__file__).resolve()}:random_control"},
}


def __getattr__(name: str) -> Any:
    """The control: every synapse and every channel equally likely."""
    if name != "random_control":
        raise AttributeError(name)
    from evonnx.encodings.uniform import Uniform
    from evonnx.genome import Encoding

    return Encoding(Uniform(), scope="network", granularity="channel")


def last_offspring(
    model: Path, variant: dict[str, Any], seed: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Evolve once; the row of the last generation."""
    options = EvolveOptions(
        generations=given.gens,
        seed=seed,
        max_drop=1.0,
        threads=given.threads,
        pressure=Pressure(keep=1.0, target=given.target, align=1, **variant),
        selection=Selection(screen=given.screen),
        retraining=Retraining(epochs=given.epochs, recovery_epochs=0),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = evolve(model, out=Path(folder) / "run", options=options)
        rows: list[dict[str, Any]] = run.record["generations"]
    return rows[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=DIGITS)
    parser.add_argument("--gens", type=int, default=6)
    parser.add_argument("--target", type=float, default=0.02)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--screen", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="variants whose name contains this")
    given = parser.parse_args()
    print(
        "| encoding | validation (range) | A-E | C-E | parameters | MACs | bytes |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, variant in VARIANTS.items():
        if given.only and given.only not in name:
            continue
        rows = [last_offspring(given.model, variant, seed, given) for seed in range(given.seeds)]
        scores = [row["score_validation"] for row in rows]
        middle = {
            key: statistics.median(row[key] for row in rows)
            for key in ("architectural_efficiency", "cluster_efficiency", "parameters", "macs", "bytes")
        }
        print(
            f"| {name} | {statistics.median(scores):.2%} ({min(scores):.2%} to {max(scores):.2%}) "
            f"| {middle['architectural_efficiency']:.1f}x | {middle['cluster_efficiency']:.2f}x "
            f"| {middle['parameters']:,.0f} | {middle['macs']:,.0f} | {middle['bytes']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
