"""Who lives: fitness, then measured speed beyond noise, then size; and the clock is asked only once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from evolution_support import options, run, write_case
from test_evolution import assert_same_run

from evonnx.environment import MacBudget, SynapseBudget
from evonnx.evolution import evolve, timings
from evonnx.evolution.selection import (
    MARGIN,
    Candidate,
    fittest,
    is_time,
    quickest,
    sizes,
    smallest,
    tolerance,
)
from evonnx.evolution.timings import Timing, Timings
from evonnx.masks import live_masks
from evonnx.network import load_network
from evonnx.run_store import read_json
from evonnx.task import Metric

SHARE = Metric("accuracy", unit="%")
ERROR = Metric("error", higher_is_better=False)
SAME = Timing(1.0, 1.0, 1.0, 1.0)


def timed(ratio: float, spread: float = 0.01) -> Timing:
    return Timing(1 / ratio, ratio, ratio - spread, ratio + spread)


def candidates(*facts: tuple[float, float]) -> list[Candidate]:
    """By (score, synapses)."""
    return [
        Candidate(f"offspring {number}", Path(f"{number}.onnx"), score, (synapses, synapses))
        for number, (score, synapses) in enumerate(facts, 1)
    ]


class Clock:
    """Answers with given timings, and remembers what it was asked."""

    def __init__(self, *answers: Timing) -> None:
        self.answers, self.asked = answers, []

    def __call__(self, key: str, models: Sequence[Path]) -> tuple[Timing, ...]:
        self.asked.append((key, [model.stem for model in models]))
        return self.answers


def never(key: str, models: Sequence[Path]) -> tuple[Timing, ...]:
    raise AssertionError("there is nothing to measure")


# --- arithmetic


def test_scores_within_a_standard_error_are_equal() -> None:
    assert tolerance(SHARE, 0.9, 100, 1.0) == pytest.approx(0.03)
    assert tolerance(SHARE, 0.9, 100, 0.02) == 0.02
    assert tolerance(SHARE, 1.0, 100, 1.0) == 0
    assert tolerance(Metric("points", scale=100), 90, 100, 100) == pytest.approx(3)
    assert tolerance(ERROR, 0.5, 100, 1.0) == 0


def test_a_standard_error_is_as_far_as_scores_of_equals_are_apart() -> None:
    drawn = np.random.default_rng(0).binomial(200, 0.97, 20_000) / 200
    assert tolerance(SHARE, 0.97, 200, 1.0) == pytest.approx(drawn.std(), rel=0.02)


@pytest.mark.parametrize(
    ("ratios", "prices", "chosen"),
    [
        ([timed(1.02)], [1], 0),  # certain, but no more than noise between sessions
        ([timed(1.30, spread=0.29)], [1], 0),  # large, but not certain
        ([timed(1.10)], [1], 1),
        ([timed(0.5)], [1], 0),
        ([timed(1.10), timed(1.11)], [1, 1], 1),  # not told apart: the first
        ([timed(1.10), timed(1.20)], [1, 1], 2),
        ([timed(1.20)], [1.25], 0),
        ([timed(1.40)], [1.25], 1),
        ([timed(1.40), timed(1.50)], [1.1, 1.4], 1),  # the most speed for its size
    ],
)
def test_a_speed_up_must_be_beyond_noise_and_worth_its_price(
    ratios: list[Timing], prices: list[float], chosen: int
) -> None:
    assert quickest([SAME, *ratios], [1.0, *prices]) == chosen


def test_the_margin_is_beyond_what_equal_files_are_measured_apart() -> None:
    assert quickest([SAME, Timing(1, MARGIN + 0.02, MARGIN - 0.001, MARGIN + 0.04)], [1, 1]) == 0
    assert quickest([SAME, Timing(1, MARGIN + 0.02, MARGIN + 0.001, MARGIN + 0.04)], [1, 1]) == 1


# --- one generation


def test_one_offspring_and_a_clear_winner_need_no_clock() -> None:
    assert fittest(candidates((0.9, 5)), SHARE, lambda score: True, 0.01, never, "1").index == 0
    choice = fittest(candidates((0.9, 5), (0.95, 9)), SHARE, lambda score: True, 0.01, never, "1")
    assert choice.index == 1
    assert choice.timed == ()
    assert "no other" in choice.reason


def test_lower_errors_are_fitter() -> None:
    assert fittest(candidates((0.3, 5), (0.2, 9)), ERROR, lambda score: True, 0.0, never, "1").index == 1


def test_the_fastest_of_equals_lives_and_the_smallest_where_speed_is_equal() -> None:
    three = candidates((0.95, 9), (0.945, 5), (0.90, 1))
    clock = Clock(SAME, timed(1.2))
    choice = fittest(three, SHARE, lambda score: True, 0.01, clock, "7")
    assert clock.asked == [("7", ["2", "1"])], "smallest first, and not the one that is less fit"
    assert choice.index == 0
    assert "offspring 2, is slower: measured 1.20x as fast" in choice.reason
    assert [name for name, _ in choice.timed] == ["offspring 2", "offspring 1"]
    told = choice.to_json(three)
    assert told["chosen"] == "offspring 1"
    assert told["timed"][1]["ratio"] == 1.2
    assert [one["score_validation"] for one in told["candidates"]] == [0.95, 0.945, 0.90]
    slower = fittest(three, SHARE, lambda score: True, 0.01, Clock(SAME, timed(1.01)), "7")
    assert slower.index == 1
    assert "none of them is measurably faster" in slower.reason


def test_who_is_as_fit_but_beyond_the_accuracy_bound_does_not_live() -> None:
    two = candidates((0.95, 9), (0.945, 5))
    assert fittest(two, SHARE, lambda score: score >= 0.947, 0.01, never, "1").index == 0
    clock = Clock(SAME, SAME)
    assert fittest(two, SHARE, lambda score: score >= 0.99, 0.01, clock, "1").index == 1
    assert clock.asked, "where nobody is within the bound, equals are equals"


# --- the end of a run


def test_the_smallest_is_best_unless_speed_outweighs_size() -> None:
    line = candidates((0.95, 100), (0.94, 80))
    assert smallest(line, "synapses", Clock(SAME, timed(1.2)), "best").index == 1
    choice = smallest(line, "synapses", Clock(SAME, timed(1.4)), "best")
    assert choice.index == 0
    assert "1.25x the synapses, but measured 1.40x as fast" in choice.reason
    assert smallest(line[:1], "synapses", never, "best").index == 0


def test_where_time_is_budgeted_the_fastest_is_best() -> None:
    line = candidates((0.95, 100), (0.94, 80))
    assert smallest(line, None, Clock(SAME, timed(1.1)), "best").index == 0
    assert smallest(line, None, Clock(SAME, timed(1.01)), "best").index == 1
    assert is_time(SimpleNamespace(unit="ms"))
    assert not is_time(MacBudget())


def test_sizes_begin_with_what_is_scarce(tmp_path: Path) -> None:
    model = write_case(tmp_path)
    network = load_network(model)
    live = live_masks(network)
    macs, synapses = MacBudget().measure(network, live), SynapseBudget().measure(network, live)
    assert sizes(MacBudget(), network, model) == (macs, synapses, model.stat().st_size)
    clock = SimpleNamespace(unit="ms", measure=never)
    assert sizes(clock, network, model) == (synapses, model.stat().st_size)


# --- measurements are kept


def test_what_was_measured_of_the_same_files_is_read_again(tmp_path: Path) -> None:
    model = write_case(tmp_path)
    other = tmp_path / "other.onnx"
    shutil.copyfile(model, other)
    recorded: dict[str, Any] = {}
    saved: list[int] = []
    clock = Timings(1, "cpu", 0, {}, recorded, lambda: saved.append(len(recorded)))
    first = clock("1", [model, other])
    assert first[0].ratio == 1.0
    assert first[1].ratio_low <= first[1].ratio <= first[1].ratio_high
    assert first[1].median_ms > 0
    recorded["1"]["timings"][1]["ratio"] = 9.0
    assert clock("1", [model, other])[1].ratio == 9.0
    assert saved == [1]
    other.write_bytes(other.read_bytes() + b"\x52\x00")  # another file, the same model
    assert clock("1", [model, other])[1].ratio != 9.0
    assert saved == [1, 1]


def says(order: Sequence[int]) -> Any:
    """`bench` whose fastest model is the first of `order`, and whose others are slower one by one."""

    def bench(models: Sequence[Path], **given: Any) -> Any:
        speeds = [1.5 ** -order.index(index) for index in range(len(models))]
        rows = [timed(speed / speeds[0]) for speed in speeds]
        return SimpleNamespace(latencies=rows, provider="cpu", threads=1, rounds=10, notes=())

    return bench


def test_a_choice_by_the_clock_is_recorded_and_made_again_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = write_case(tmp_path / "case"), tmp_path / "run"
    # No training, and a score that all share: only the clock tells them apart.
    asked = {"generations": 2, "offspring": 3, "epochs": 0, "recovery_epochs": 0, "keep": 0.97}
    monkeypatch.setattr(timings, "bench", says([2, 1, 0]))
    document = run(model, out, **asked)
    chosen = document["generations"][0]["selection"]
    assert len(chosen["timed"]) == 3, "as fit as each other"
    assert any(note.startswith("Generation 1: offspring") for note in document["notes"])
    assert set(document["choices"]["timings"]) == {"1", "2", "best"}
    kept = tmp_path / "kept"
    shutil.copytree(out, kept)
    # Killed after the choice and before the generation was in place; now the clock would say otherwise.
    for gone in ("gen-01", "gen-02"):
        shutil.rmtree(out / gone)
    (out / "best.onnx").unlink()
    monkeypatch.setattr(timings, "bench", says([0, 1, 2]))
    again = evolve(model, out=out, options=options(**asked), resume=True).record
    assert_same_run(kept, out)
    assert again["generations"][0]["selection"] == chosen
    assert again["best"]["selection"] == document["best"]["selection"]
    assert read_json(out / "run.json")["choices"] == document["choices"]
    # A run of its own follows its own clock.
    other = run(model, tmp_path / "other", **asked)
    assert other["generations"][0]["selection"]["candidates"] == chosen["candidates"]
    assert other["generations"][0]["selection"]["chosen"] != chosen["chosen"]


def test_best_reaches_what_was_asked_for_before_the_clock_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger and much faster generation is preferred, but not to the one that ends at the target."""
    model = write_case(tmp_path / "case")
    quick = {"generations": 2, "epochs": 0, "recovery_epochs": 0, "screen": 1}
    monkeypatch.setattr(timings, "bench", says([1, 0]))
    free = run(model, tmp_path / "free", keep=0.9, **quick)["best"]
    assert free["generation"] == 1
    assert "generation 1 was preferred to generation 2" in free["selection"]["reason"]
    aimed = run(model, tmp_path / "aimed", keep=0.9, target=0.81, **quick)["best"]
    assert aimed["generation"] == 2
    assert "only one" in aimed["selection"]["reason"]


def test_a_run_without_anyone_within_the_bound_says_who_lost_least(tmp_path: Path) -> None:
    model = write_case(tmp_path / "case")
    document = run(model, tmp_path / "run", keep=0.05, epochs=0, generations=1, max_drop=0.0, screen=1)
    assert any("best.onnx: generation 1 lost least" in note for note in document["notes"])
