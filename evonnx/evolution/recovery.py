"""The end of a run: which offspring is best, and its recovery training."""

from __future__ import annotations

import shutil
import time
from typing import Any

from evonnx.adapter import TrainingBudget
from evonnx.evolution.generation import Setting, figures
from evonnx.evolution.judging import score_columns
from evonnx.network import load_network
from evonnx.resources import count
from evonnx.run_store import BEST_FILE, COMPACT_FILE, Row, RunStore


def choose_best(setting: Setting, rows: list[Row]) -> Row:
    """Accuracy bound first, then size: the offspring within `max_drop` on validation data that uses least of
    what is budgeted.

    Where no offspring is within the bound, the one that lost least.
    """
    within = [row for row in rows if setting.validation_drop(row) <= setting.options.max_drop]
    if within:
        scarce = setting.budgeting.factor.name
        return min(within, key=lambda row: (row.get(scarce) or row["synapses"], row["bytes"]))
    return min(rows, key=setting.validation_drop)


def recover(
    setting: Setting, store: RunStore, chosen: Row, budget: TrainingBudget, seed: int
) -> dict[str, Any]:
    """Train the chosen offspring once more, keep the result if validation agrees, and put best.onnx in place.

    Returns:
        The figures of best.onnx, with "generation" (whose structure it has), "recovered" and "notes".
    """
    metric = setting.judge.metric
    source = store.generation_folder(chosen["generation"]) / COMPACT_FILE
    workspace = store.workspace("best")
    candidate = workspace / BEST_FILE
    start = time.perf_counter()
    score_validation, recovered = chosen["score_validation"], False
    training: dict[str, Any] = {"history": [], "notes": []}
    if budget.epochs > 0:
        setting.observer.stage(0, f"recovery training of generation {chosen['generation']}")
        training = setting.trainer.retrain(
            source, candidate, budget, seed, lambda news: setting.observer.training(0, news)
        )
        score = setting.judge.validation(candidate)
        recovered = not metric.better(score_validation, score)
        if recovered:
            score_validation = score
    if not recovered:
        shutil.copyfile(source, candidate)
    candidate.replace(store.folder / BEST_FILE)
    store.discard(workspace)
    store.drop_checkpoints()
    best = store.folder / BEST_FILE
    notes: list[str] = list(training["notes"])
    if budget.epochs > 0 and not recovered:
        notes.append(
            "Recovery training did not improve the validation score; best.onnx is the offspring as it was."
        )
    return {
        "generation": chosen["generation"],
        "recovered": recovered,
        **figures(
            count(load_network(best, setting.options.input_shapes)), setting.ancestor, best.stat().st_size
        ),
        **score_columns(setting.judge.reported(best)),
        "score_ancestor": setting.score_ancestor,
        "score_validation": score_validation,
        "recovery_seconds": time.perf_counter() - start,
        "training": training,
        "notes": notes,
    }
