"""The Pareto front of a run: offspring that no other beats in score, size and measured time at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evonnx.evolution.selection import MARGIN
from evonnx.task import Metric


@dataclass(frozen=True)
class Point:
    """A retrained model."""

    name: str
    """In tables: "3, offspring 2", "best"."""
    generation: int
    kept: str | None
    """Its folder or file in the run directory; None where it was not kept."""
    score_validation: float
    synapses: int
    bytes: int
    latency_share: float
    """Its time over the ancestor's, timed in turns."""


_FIGURES = tuple(name for name in Point.__annotations__ if name not in ("name", "generation"))


def dominates(one: Point, other: Point, metric: Metric) -> bool:
    """Whether `one` is at least as good in score and synapses and not measurably slower, and in one of the
    three better.

    Times are noisy: two are told apart where one is more than `MARGIN` times the other.
    """
    if metric.better(other.score_validation, one.score_validation) or one.synapses > other.synapses:
        return False
    if one.latency_share > MARGIN * other.latency_share:
        return False
    return (
        metric.better(one.score_validation, other.score_validation)
        or one.synapses < other.synapses
        or other.latency_share > MARGIN * one.latency_share
    )


def front(points: Sequence[Point], metric: Metric) -> tuple[Point, ...]:
    """Those that no other dominates, in the order given; at least one of any."""
    return tuple(one for one in points if not any(dominates(other, one, metric) for other in points))


def points_of(
    rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any], bench: Mapping[str, Any]
) -> list[Point]:
    """Every offspring that was raised, and best.onnx where recovery training made it another model.

    Args:
        rows: of the generations, with "raised" (`breeding.raised`).
        best: run.json's.
        bench: run.json's, whose last model is best.onnx.
    """
    found = [
        Point(
            f"{row['generation']}, {one['name']}", row["generation"], **{name: one[name] for name in _FIGURES}
        )
        for row in rows
        for one in row["raised"]
    ]
    if best["recovered"]:
        last = len(rows) + 1
        share = next(1 / one["ratio"] for one in bench["latencies"] if one["index"] == last)
        sizes = (best["score_validation"], best["synapses"], best["bytes"])
        found.append(Point("best", best["generation"], "best.onnx", *sizes, share))
    return found


def to_json(points: Sequence[Point], metric: Metric) -> dict[str, Any]:
    """For run.json: how many were compared, and the front, the smallest first."""
    ordered = sorted(front(points, metric), key=lambda one: (one.synapses, one.name))
    return {"of": len(points), "front": [asdict(one) for one in ordered]}
