"""The end of a run: which offspring is best, and its recovery training."""

from __future__ import annotations

import time
from typing import Any

from evonnx.adapter import TrainingBudget
from evonnx.durable import digest_of
from evonnx.evolution.figures import figures
from evonnx.evolution.judging import score_columns
from evonnx.evolution.selection import Candidate, Choice, is_time, sizes, smallest
from evonnx.evolution.setting import Setting
from evonnx.network import load_network
from evonnx.resources import count
from evonnx.run_store import BEST_FILE, COMPACT_FILE, Row, RunStore

_ROUNDING = 1 + 1e-9
"""A goal is reached in steps whose shares are floating-point numbers."""


def choose_best(setting: Setting, store: RunStore, rows: list[Row]) -> tuple[Row, dict[str, Any]]:
    """The offspring that best.onnx is made of, and for run.json why.

    Within `max_drop` on validation data, else the one that lost least; of those, that reached what was asked
    for, if any did; of those, the smallest, unless another's measured speed outweighs its size.
    """
    within = [row for row in rows if setting.within(row["score_validation"])]
    if not within:
        row = min(rows, key=setting.validation_drop)
        reason = f"{_name(row)} lost least; no offspring is within --max-drop {setting.options.max_drop:g}."
        return row, Choice(0, reason).to_json([_candidate(setting, store, row)])
    factor = setting.budgeting.leading
    candidates = [_candidate(setting, store, row) for row in within]
    reached = [one for one, row in zip(candidates, within, strict=True) if _reached(setting, row, one)]
    candidates = reached or candidates
    choice = smallest(candidates, None if is_time(factor) else factor.unit, setting.timings, "best")
    chosen = candidates[choice.index].name
    return next(row for row in within if _name(row) == chosen), choice.to_json(candidates)


def _reached(setting: Setting, row: Row, one: Candidate) -> bool:
    """Whether an offspring is where the run was asked to end; time apart, which is compared by measuring."""
    goals, target = setting.budgeting.goals, setting.options.pressure.target
    if not goals:
        return target is None or one.sizes[0] <= target * setting.ancestor.synapses * _ROUNDING
    used = {entry["factor"]: entry["amount"] for entry in row["budgets"]}
    return all(is_time(goal.factor) or used[goal.factor.name] <= goal.amount * _ROUNDING for goal in goals)


def _candidate(setting: Setting, store: RunStore, row: Row) -> Candidate:
    model = store.generation_folder(row["generation"]) / COMPACT_FILE
    network = load_network(model, setting.options.input_shapes)
    measured = sizes(setting.budgeting.leading, network, model)
    return Candidate(_name(row), model, row["score_validation"], measured)


def _name(row: Row) -> str:
    return f"generation {row['generation']}"


def recover(
    setting: Setting, store: RunStore, chosen: Row, budget: TrainingBudget, seed: int
) -> dict[str, Any]:
    """Train the chosen offspring once more, keep the result if validation agrees, and put best.onnx in place.

    What the adapter kept of the training stays: the run is not finished yet.

    Returns:
        The figures of best.onnx, with "generation" (whose structure it has), "recovered", "sha256" of the
        file and "notes".
    """
    metric = setting.judge.metric
    source = store.generation_folder(chosen["generation"]) / COMPACT_FILE
    start = time.perf_counter()
    score_validation, recovered = chosen["score_validation"], False
    training: dict[str, Any] = {"history": [], "notes": []}
    with store.scratch("best") as workspace:
        candidate = workspace / BEST_FILE
        if budget.epochs > 0:
            setting.observer.stage(0, f"recovery training of generation {chosen['generation']}")
            training = setting.trainer.retrain(
                source, candidate, budget, seed, lambda news: setting.observer.training(0, news)
            )
            score = setting.judge.validation(candidate)
            recovered = not metric.better(score_validation, score)
            if recovered:
                score_validation = score
        store.keep_as_best(candidate if recovered else source)
    best = load_network(store.folder / BEST_FILE, setting.options.input_shapes)
    notes: list[str] = list(training["notes"])
    if budget.epochs > 0 and not recovered:
        notes.append(
            "Recovery training did not improve the validation score; best.onnx is the offspring as it was."
        )
    return {
        "generation": chosen["generation"],
        "recovered": recovered,
        "sha256": digest_of(store.folder / BEST_FILE),
        **figures(count(best), setting.ancestor, best.file_bytes),
        **score_columns(setting.judge.reported(store.folder / BEST_FILE)),
        "score_ancestor": setting.score_ancestor,
        "score_validation": score_validation,
        "recovery_seconds": time.perf_counter() - start,
        "training": training,
        "notes": notes,
    }
