"""A run's record as parameters and points. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evonnx.tracker import Point, Value

_FIGURES = (
    "score",
    "score_validation",
    "synapses",
    "architectural_efficiency",
    "kernels",
    "cluster_efficiency",
    "filters",
    "parameters",
    "macs",
    "bytes",
    "retrain_seconds",
    "overhead_seconds",
)
"""Of a row: one curve each, by generation."""


def parameters_of(record: Mapping[str, Any]) -> dict[str, Value]:
    """What a run was begun with, by dotted names: "options.pressure.keep", "versions.onnx", "seed"."""
    configuration = record.get("configuration", {})
    found = dict(_flat({**configuration, "seed": record.get("seed"), "task": configuration.get("task")}))
    task = record.get("task")
    if isinstance(task, Mapping):
        found |= dict(_flat({"metric": task.get("metric"), "examples": task.get("examples")}))
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float | bool):
            yield f"{prefix}{name}", value
        elif value is not None:
            yield f"{prefix}{name}", str(value)


def epochs_of(row: Mapping[str, Any]) -> int:
    """How many epochs an offspring was trained for."""
    return len(row.get("training", {}).get("history", ()))


def points_of(row: Mapping[str, Any], epochs_before: int) -> list[Point]:
    """An offspring's (or the ancestor's) figures by generation, and its training by epoch.

    Args:
        row: as in run.json.
        epochs_before: epochs of all generations before it.
    """
    generation = int(row["generation"])
    figures = {f"generation/{name}": row.get(name) for name in _FIGURES}
    figures |= {f"generation/{name}": value for name, value in row.get("details", {}).items()}
    found = list(_points(figures, generation))
    for entry in row.get("training", {}).get("history", ()):
        step = epochs_before + int(entry["epoch"])
        values = {
            "training/loss": entry["loss"],
            "training/learning_rate": entry["learning_rate"],
            "training/generation": generation,
        }
        found += _points(values, step)
    return found


def points_of_best(best: Mapping[str, Any], generations: int, epochs_before: int) -> list[Point]:
    """best.onnx: its figures behind the last generation, and recovery training behind the last epoch.

    Args:
        best: as in run.json.
        generations: how many offspring there are.
        epochs_before: epochs of all of them.
    """
    row = {**best, "generation": generations, "details": {}}
    training = [point for point in points_of(row, epochs_before) if point.name.startswith("training/")]
    figures = {f"best/{name}": best.get(name) for name in ("generation", *_FIGURES)}
    return training + list(_points(figures, generations))


def points_of_bench(bench: Mapping[str, Any], generations: int) -> list[Point]:
    """Latency and speed-up by generation, one curve per batch size; best.onnx has points of its own."""
    found: list[Point] = []
    for one in bench["latencies"]:
        index, batch = int(one["index"]), int(one["batch"])
        group, step = ("generation", index) if index <= generations else ("best", generations)
        values = {
            f"{group}/latency_ms_batch_{batch}": one["median_ms"],
            f"{group}/speed_up_batch_{batch}": one["ratio"],
        }
        found += _points(values, step)
    return found


def _points(values: Mapping[str, Any], step: int) -> Iterator[Point]:
    """Those that are finite numbers."""
    for name, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield Point(name, step, float(value))


def new_points(points: Sequence[Point], told: set[tuple[str, int]]) -> list[Point]:
    """Those that were not told yet; they count as told from now on."""
    found = []
    for point in points:
        if (point.name, point.step) not in told:
            told.add((point.name, point.step))
            found.append(point)
    return found
