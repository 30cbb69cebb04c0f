"""Where a generation's time goes, by a fake clock."""

from __future__ import annotations

import sys
from itertools import accumulate
from pathlib import Path

import pytest

from evonnx.evolution.stopwatch import EVALUATE, RETRAIN, Stopwatch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import overhead


def test_every_second_is_somebodys():
    #                   begin | sample 2 | retrain 5 | idle 1, sample 3 | evaluate 7 | idle 4
    ticks = accumulate([0, 0, 2, 0, 5, 1, 3, 0, 7, 4])
    watch = Stopwatch(lambda: float(next(ticks)))
    for purpose in ("sample", RETRAIN, "sample", EVALUATE):
        with watch.timing(purpose):
            pass
    assert watch.seconds == {"sample": 5, RETRAIN: 5, EVALUATE: 7}
    assert watch.stages() == {"sample": 5, "other": 5}


def test_a_stage_that_fails_is_timed_too():
    ticks = iter([0.0, 1.0, 3.0])
    watch = Stopwatch(lambda: next(ticks))
    with pytest.raises(RuntimeError), watch.timing("prove"):
        raise RuntimeError
    assert watch.seconds["prove"] == 2


def test_the_benchmark_takes_medians_over_generations():
    rows = [
        {
            "stage_seconds": {"encode": cost, "other": 0.75, "pilot": 0.25},
            "overhead_seconds": cost + 1,
            "retrain_seconds": 8 * (cost + 1),
            "evaluate_seconds": cost + 1,
        }
        for cost in (1.0, 2.0, 9.0)
    ]
    cells = [cell.strip() for cell in overhead.row("net", rows).strip("|").split("|")]
    by_stage = dict(zip(overhead.STAGES, cells[1:], strict=False))
    assert (by_stage["encode"], by_stage["prove"], by_stage["other"]) == ("2.00", "0.00", "1.00")
    assert cells[0] == "net"
    assert cells[-3:] == ["3.00", "10.0%", ""]


def test_the_worst_stage_is_named_beside_the_file():
    assert overhead.worst({"load": 2**20, "prove": 3 * 2**20}, 2**19) == "3 MiB, 6.0x (prove)"
