"""The torch adapter's defaults for classifiers, compared by validation score alone.

    python benchmarks/training_defaults.py MODEL [--keep 0.03] [--epochs 1] [--seeds 3]

MODEL has its task file beside it. One offspring is sampled and compacted; every setting retrains it from the
same weights with each seed. The rule, fixed before looking: rate 0.05 and the other settings stay unless
another setting's mean is better by more than the larger standard error of the two. Test data is never read.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.adapter import TrainingBudget
from evonnx.clusters import find_clusters
from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import analyse
from evonnx.encodings.presets import adaptive
from evonnx.environment import Budget
from evonnx.evaluation import evaluate
from evonnx.evolution.retraining import Trainer
from evonnx.genome import encode
from evonnx.masking import apply_masks
from evonnx.network import load_network, network_of
from evonnx.onnx_io import save_model
from evonnx.plugins import get
from evonnx.synthesis import synthesize
from evonnx.tasks import find_task

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "rate 0.05": {"learning_rate": 0.05},
    "rate 0.1": {"learning_rate": 0.1},
    "rate 0.2": {"learning_rate": 0.2},
    "temperature 2": {"temperature": 2.0},
    "no labels": {"distill": 1.0},
    "no teacher": {"distill": 0.0},
    "clip 5": {"clip_norm": 5.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--keep", type=float, default=0.03)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    network = load_network(given.model)
    task = find_task(given.model, network).task
    trainer = Trainer(get("adapters", "torch")(), task, given.model, {})
    budget = TrainingBudget(epochs=given.epochs, threads=1)
    coupling = analyse(network)
    genome = encode(network, find_clusters(network, coupling, adaptive.granularity), adaptive)
    sample = synthesize(network, coupling, genome, Budget(given.keep), np.random.default_rng(0))
    masked = network_of(apply_masks(network, coupling, sample.masks), "offspring")
    with tempfile.TemporaryDirectory() as folder:
        offspring, trained = Path(folder) / "offspring.onnx", Path(folder) / "trained.onnx"
        save_model(apply_plan(masked, plan_compaction(masked, analyse(masked))).model, offspring)
        print("| setting | validation, mean | standard error |\n|---|---|---|", flush=True)
        for name, setting in SETTINGS.items():
            scores = []
            for seed in range(given.seeds):
                trainer.retrain(offspring, trained, replace(budget, **setting), seed, lambda news: None)
                scores.append(evaluate(trained, task, "validation", threads=1).value)
            error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
            print(f"| {name} | {statistics.fmean(scores):.3%} | {error:.3%} |", flush=True)


if __name__ == "__main__":
    main()
