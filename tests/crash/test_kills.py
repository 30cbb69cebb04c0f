"""SIGKILL at any moment: nothing is lost, all can be read, and a resumed run ends like one left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_support import Alone, Case, Nursery, campaign

from evonnx.run_store import read_json

SEVERAL = ("--offspring", "2", "--parents", "2", "--epochs", "1", "--recovery-epochs", "0")
TORCH = ("--epochs", "3", "--recovery-epochs", "2", "--adapter-option", "checkpoint=0")


@pytest.mark.parametrize(
    "kills", [12, pytest.param(200, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))]
)
def test_killed_runs_end_like_one_left_alone(
    kills: int, alone: Alone, nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = campaign(nursery, alone.case, alone.run, alone.ended.seconds, kills, kills, tmp_path)
    with capsys.disabled():
        print(f"\ntoy: {figures}")
    assert figures.kills >= kills
    assert not figures.faults


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))])
def test_killed_runs_with_several_parents_breed_the_same_offspring(
    kills: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case.written(tmp_path / "case", generations=2, more=SEVERAL)
    (tmp_path / "killed").mkdir()
    with Nursery("no_clock") as nursery:
        alone = nursery.run(case.words(tmp_path / "alone"), tmp_path / "log")
        assert alone.code == 0, alone.said
        rows = read_json(tmp_path / "alone" / "run.json")["generations"]
        assert any("mating" in row for row in rows)
        figures = campaign(
            nursery, case, tmp_path / "alone", alone.seconds, kills, seed=7, folder=tmp_path / "killed"
        )
    with capsys.disabled():
        print(f"\nseveral parents: {figures}")
    assert figures.kills >= kills
    assert not figures.faults


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_in_mid_training_with_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    case = Case.written(tmp_path / "case", generations=2, adapter="torch", more=TORCH)
    (tmp_path / "killed").mkdir()
    with Nursery("evonnx_torch.retraining") as nursery:
        alone = nursery.run(case.words(tmp_path / "alone"), tmp_path / "log")
        assert alone.code == 0, alone.said
        figures = campaign(
            nursery, case, tmp_path / "alone", alone.seconds, 60, seed=5, folder=tmp_path / "killed"
        )
    with capsys.disabled():
        print(f"\ntorch: {figures}")
    assert figures.moments["2 in a generation"] >= 20
    assert not figures.faults
