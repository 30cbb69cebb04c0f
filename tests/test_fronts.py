"""The Pareto front: a pure function of figures, and its table."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import RUN, check_golden, report

from evonnx.errors import RunError
from evonnx.evolution.fronts import Point, dominates, front, points_of, to_json
from evonnx.report.reading import read_run
from evonnx.report.table import to_markdown
from evonnx.report.tables import front_table, mating_table
from evonnx.task import Metric

SHARE = Metric("accuracy", unit="%")
ERROR = Metric("error", higher_is_better=False)


def point(score: float, synapses: int, share: float, name: str = "1") -> Point:
    return Point(name, 1, None, score, synapses, 4 * synapses, share)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (point(0.9, 10, 0.5), point(0.8, 20, 0.9), True),
        (point(0.9, 10, 0.5), point(0.9, 10, 0.5), False),
        (point(0.9, 10, 0.5), point(0.8, 10, 0.5), True),
        (point(0.9, 10, 0.5), point(0.9, 11, 0.5), True),
        (point(0.9, 10, 0.5), point(0.9, 10, 0.52), True),
        (point(0.9, 10, 0.5), point(0.9, 10, 0.512), False),
        (point(0.9, 10, 0.51), point(0.8, 20, 0.5), True),
        (point(0.9, 10, 0.53), point(0.8, 20, 0.5), False),
        (point(0.9, 11, 0.1), point(0.8, 10, 0.5), False),
        (point(0.8, 10, 0.1), point(0.9, 11, 0.5), False),
    ],
    ids=[
        *("better in all", "the same", "better score", "smaller", "measurably faster", "faster within noise"),
        *("slower within noise", "measurably slower", "larger", "worse"),
    ],
)
def test_one_dominates_another_where_it_is_nowhere_worse(one: Point, other: Point, expected: bool) -> None:
    assert dominates(one, other, SHARE) == expected


def test_lower_errors_are_better() -> None:
    assert dominates(point(0.1, 10, 0.5), point(0.2, 10, 0.5), ERROR)
    assert not dominates(point(0.2, 10, 0.5), point(0.1, 10, 0.5), ERROR)


points = st.builds(
    point,
    st.sampled_from([0.8, 0.9, 0.95]),
    st.integers(1, 5),
    st.sampled_from([0.5, 0.51, 0.52, 0.53, 0.6]),
    st.text("ab", min_size=1, max_size=3),
)


@given(st.lists(points, min_size=1, max_size=12), st.sampled_from([SHARE, ERROR]))
def test_the_front_holds_whoever_nobody_beats(given_points: list[Point], metric: Metric) -> None:
    found = front(given_points, metric)
    assert found, "somebody is always on it"
    for one in given_points:
        beaten = any(dominates(other, one, metric) for other in given_points)
        assert (one in found) != beaten
    best = min if metric is ERROR else max
    assert best(one.score_validation for one in found) == best(one.score_validation for one in given_points)
    assert min(one.synapses for one in found) == min(one.synapses for one in given_points)
    assert to_json(given_points, metric) == to_json([*given_points], metric)


def raised(name: str, kept: str | None, score: float, synapses: int, share: float) -> dict[str, Any]:
    return {
        "name": name,
        "kept": kept,
        "score_validation": score,
        "synapses": synapses,
        "macs": 1e6,
        "bytes": 4 * synapses,
        "latency_share": share,
        "latency_share_low": share,
        "latency_share_high": share,
    }


ROWS = [
    [
        ("offspring 1", "gen-01", 0.9958, 281950, 0.87),
        ("offspring 2", "gen-01/sibling-1", 0.9917, 280000, 0.86),
    ],
    [
        ("offspring 1", None, 0.97, 175000, 0.70),
        ("offspring 2", "gen-02", 0.9917, 174650, 0.67),
    ],
    [
        ("offspring 1", "gen-03", 0.9875, 46850, 0.40),
        ("offspring 2", "gen-03/sibling-1", 0.9875, 47000, 0.35),
    ],
]


def mated_run() -> dict[str, Any]:
    """The golden run, as if its generations had been bred from two parents."""
    document = copy.deepcopy(RUN)
    for row, figures in zip(document["generations"], ROWS, strict=True):
        row["raised"] = [raised(*one) for one in figures]
        row["siblings"] = ["offspring 2"]
    document["generations"][1]["mating"] = {
        "parents": ["gen-01", "gen-01/sibling-1"],
        "overlaps": [[1.0, 0.8125], [0.8125, 1.0]],
        "overlap": 0.8125,
        "synapses_of_parents": [281950, 280000],
        "synapses": 320411,
    }
    points = points_of(document["generations"], document["best"], document["bench"])
    return document | {"pareto": to_json(points, SHARE)}


def test_points_are_all_that_were_raised_and_the_best() -> None:
    document = mated_run()
    found = points_of(document["generations"], document["best"], document["bench"])
    assert [one.name for one in found[:2]] == ["1, offspring 1", "1, offspring 2"]
    assert found[-1].name == "best"
    assert found[-1].kept == "best.onnx"
    last = [one for one in document["bench"]["latencies"] if one["index"] == len(ROWS) + 1]
    assert found[-1].latency_share == 1 / last[0]["ratio"]
    document["best"]["recovered"] = False
    assert len(points_of(document["generations"], document["best"], document["bench"])) == 6


def test_the_report_shows_the_front_and_who_was_mated(tmp_path: Path) -> None:
    run = read_run(mated_run())
    check_golden("mated.md", to_markdown(mating_table(run)) + "\n" + to_markdown(front_table(run)))
    page, text = report(mated_run(), tmp_path)
    assert "## Mating" in text
    assert "<h3>Pareto front</h3>" in page


@pytest.mark.parametrize(
    "damage",
    [
        {"pareto": {"of": 3, "front": [{"name": "x"}]}},
        {"pareto": {"front": []}},
        {"pareto": [1]},
    ],
)
def test_a_damaged_front_is_no_record(damage: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="not the record"):
        read_run(mated_run() | damage)
