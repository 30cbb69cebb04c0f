"""Disturbances: what is read where it is there, what is made of it, and when it is worth a sentence."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evonnx import speed
from evonnx.speed import readings
from evonnx.speed.noise import conditions, noise_notes
from evonnx.speed.readings import Reading
from evonnx.speed.records import Conditions, Latency

STAT = """cpu  500 0 0 0 0 0 0 0 0 0
cpu0 100 10 20 1000 7 1 2 30 50 0
cpu1 200 20 40 2000 7 3 4 60 50 0
cpu2 9000 9000 9000 9000 9000 9000 9000 9000 0 0
intr 5 6 7
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cores of three, with all that Linux may tell."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda _: 100, raising=False)
    (tmp_path / "stat").write_text(STAT)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\ncpu MHz\t\t: 2000.5\n\ncpu MHz\t\t: 3000.5\n")
    for core, khz in ((0, "1800000"), (1, "2200000"), (2, "9900000")):
        for name, value in (("cpufreq/scaling_cur_freq", khz), ("thermal_throttle/core_throttle_count", "4")):
            path = tmp_path / f"cpu{core}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value + "\n")
    return tmp_path


def test_the_cores_of_this_process_are_read(machine: Path) -> None:
    one = readings.read(lambda: 12.5, machine, machine)
    assert (one.seconds, one.cores, one.mhz, one.throttled) == (12.5, 2, 2000.0, 8)
    assert one.busy_seconds == pytest.approx((133 + 267) / 100)
    assert one.stolen_seconds == pytest.approx(0.9)
    assert one.own_seconds > 0


def test_clock_rates_come_from_cpuinfo_where_no_driver_tells(machine: Path, tmp_path: Path) -> None:
    assert readings.read(proc=machine, cpus=tmp_path / "none").mhz == 2500.5


@pytest.mark.parametrize("stat", ["", "cpu  1 2 3 4 5 6 7 8\n", "cpu0 1 2 3\n", STAT.replace("cpu1", "cpu7")])
def test_what_is_not_told_is_none(machine: Path, tmp_path: Path, stat: str) -> None:
    (machine / "stat").write_text(stat)
    one = readings.read(proc=machine, cpus=tmp_path / "none")
    assert one.busy_seconds is one.stolen_seconds is one.throttled is None


def test_another_system_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "resource", None)
    one = readings.read(proc=tmp_path / "none", cpus=tmp_path / "none")
    assert one.busy_seconds is one.stolen_seconds is one.switches is one.throttled is one.mhz is None
    found = conditions([(one, replace(one, seconds=one.seconds + 1))])
    assert found.other_cores is found.stolen_share is found.switches is None
    assert noise_notes(found, [LATENCY]) == []


START = Reading(0.0, 2, 1.0, 10.0, 0.0, 5, 0, 2000.0)
LATENCY = Latency(0, "m.onnx", 8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10, 1)


def test_conditions_are_of_the_stretches_that_were_timed() -> None:
    after = Reading(4.0, 2, 6.0, 18.0, 0.4, 25, 1, 1900.0)
    later = replace(after, seconds=100.0, own_seconds=50.0, busy_seconds=900.0, mhz=1800.0)
    end = replace(later, seconds=106.0, own_seconds=53.0, busy_seconds=905.0)
    found = conditions([(START, after), (later, end)])
    assert (found.seconds, found.cores, found.switches, found.throttled) == (10, 2, 20, 1)
    assert found.other_cores == pytest.approx((8 - 5 + 5 - 3) / 10)
    assert found.stolen_share == pytest.approx(0.4 / 20)
    assert (found.mhz_before, found.mhz_after) == (2000, 1800)


def test_clocks_that_tick_apart_make_no_negative_load() -> None:
    after = replace(START, seconds=2.0, own_seconds=3.0, busy_seconds=11.9)
    assert conditions([(START, after)]).other_cores == 0
    assert conditions([(START, START)]).other_cores is None


QUIET = Conditions(10.0, 2, 0.05, 0.001, 20, 0, 2000.0, 2010.0)
DRIFTED = "Times drifted: the last third of m.onnx at batch 8 "
NOTED = {
    "nothing": ({}, {}, []),
    "other processes": (
        {"other_cores": 0.84}, {}, ["Other processes used 0.8 of 2 cores while this was measured: ratios"]
    ),
    "one core": ({"cores": 1, "other_cores": 0.5}, {}, ["Other processes used 0.5 of 1 core while"]),
    "a hypervisor": ({"stolen_share": 0.12}, {}, ["The hypervisor gave 12% of the cores' time"]),
    "waits": ({"switches": 900}, {}, ["This process was made to wait 900 times in 10.0 seconds"]),
    "heat": ({"throttled": 3}, {}, ["The processor was slowed down 3 times because it was hot"]),
    "clock": ({"mhz_after": 1500.0}, {}, ["Clock rates went from 2,000 to 1,500 MHz"]),
    "slower": ({}, {"drift": 1.3}, [DRIFTED + "took 1.30x the first"]),
    "faster": ({}, {"drift": 0.5}, [DRIFTED + "took 0.50x the first"]),
    "spread": ({}, {"spread": 2.0}, ["Samples are far apart: the 90th percentile of m.onnx"]),
    "several": ({"throttled": 1}, {"spread": 2.0}, ["The processor was", "Samples are far apart"]),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTED)
def test_a_disturbance_gets_a_sentence(case: str) -> None:
    seen, sampled, expected = NOTED[case]
    notes = noise_notes(replace(QUIET, **seen), [LATENCY, replace(LATENCY, **sampled)])
    assert len(notes) == len(expected)
    assert all(note.startswith(start) for note, start in zip(notes, expected, strict=True))
    assert all(note.endswith(".") for note in notes)


def test_many_are_said_as_the_worst_and_a_number() -> None:
    rows = [replace(LATENCY, model=f"{drift}.onnx", drift=drift) for drift in (1.2, 0.4, 1.5)]
    (note,) = noise_notes(QUIET, rows)
    assert "0.4.onnx at batch 8 took 0.40x the first, and 2 others likewise." in note


def test_drift_and_spread_are_of_the_samples() -> None:
    times = np.array([[1.0], [1.0], [1.0], [9.0], [2.0], [2.0], [2.0]])
    (one,) = speed.summarise(["m"], 1, times, [1], seed=0)
    assert (one.drift, one.spread) == (2.0, pytest.approx(one.p90_ms / one.p10_ms))
    (alone,) = speed.summarise(["m"], 1, times[:1], [1], seed=0)
    assert (alone.drift, alone.spread) == (1.0, 1.0)


def test_readings_are_taken_around_each_batch(tmp_path: Path) -> None:
    from test_speed import conv

    taken = iter([replace(START, seconds=float(n), busy_seconds=10.0 + 3 * n) for n in range(4)])
    paths = [conv(tmp_path / "m.onnx", 4)]
    result = speed.bench(paths, batches=(1, 2), rounds=3, threads=1, provider="cpu", read=lambda: next(taken))
    assert result.conditions is not None
    assert (result.conditions.seconds, result.conditions.other_cores) == (2.0, 3.0)
    assert result.to_json()["conditions"]["cores"] == 2
    assert any(note.startswith("Other processes used 3.0 of 2 cores") for note in result.notes)
