"""A run that is killed for good and resumed ends like one left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evolution_support import write_case
from safetensors import safe_open
from test_evolution import assert_same_run

from evonnx.run_store import read_json

GENERATIONS = 5
TIMES = ("retrain_seconds", "evaluate_seconds", "overhead_seconds", "stage_seconds")
QUIET: dict[str, Any] = {
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "env": {**os.environ, "OMP_NUM_THREADS": "1"},
}
needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")


def command(
    model: Path, out: Path, *more: str, generations: int, epochs: int, recovery: int, adapter: str
) -> list[str]:
    return [
        *(sys.executable, "-m", "evonnx", "evolve", str(model), "--out", str(out), *more),
        *("--gens", str(generations), "--keep", "0.75", "--max-drop", "1", "--align", "1", "--screen", "8"),
        *("--epochs", str(epochs), "--recovery-epochs", str(recovery), "--threads", "1"),
        *("--adapter", adapter),
    ]


def killed_once(words: list[str], begun: Callable[[], bool]) -> None:
    """Start it and kill it for good as soon as `begun`."""
    process = subprocess.Popen(words, **QUIET)
    deadline = time.monotonic() + 120
    while not begun() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def timeless(run: Path) -> list[dict[str, Any]]:
    """The generations' rows but for times."""
    rows = read_json(run / "run.json")["generations"]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


@needs_kill
def test_killed_in_generation_3_and_resumed_equals_left_alone(tmp_path):
    model = write_case(tmp_path / "case")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    toy = {"generations": GENERATIONS, "epochs": 3, "recovery": 1, "adapter": "evonnx.testing:ToyAdapter"}
    subprocess.run(command(model, alone, **toy), check=True, timeout=120, **QUIET)

    killed_once(command(model, killed, **toy), (killed / ".partial-gen-03").exists)
    assert (killed / "gen-02").is_dir()
    assert not (killed / "gen-03").exists()
    assert not (killed / "best.onnx").exists()

    subprocess.run(command(model, killed, "--resume", **toy), check=True, timeout=120, **QUIET)
    assert_same_run(alone, killed)
    assert timeless(alone) == timeless(killed)
    assert len(timeless(alone)) == GENERATIONS


@needs_kill
def test_killed_in_recovery_and_resumed_goes_on_from_its_last_epoch(tmp_path):
    pytest.importorskip("torch")
    model = write_case(tmp_path / "case")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    torch = {"generations": 1, "epochs": 1, "recovery": 60, "adapter": "torch"}
    subprocess.run(command(model, alone, **torch), check=True, timeout=120, **QUIET)

    def recovering() -> bool:
        return (killed / ".partial-best").is_dir() and any((killed / "checkpoints").glob("[!.]*"))

    killed_once(command(model, killed, **torch), recovering)
    assert not (killed / "best.onnx").exists()
    kept = next((killed / "checkpoints").glob("[!.]*"))
    with safe_open(kept, "numpy") as file:
        assert 1 <= json.loads(file.metadata()["place"])["epoch"] < 60

    subprocess.run(command(model, killed, "--resume", **torch), check=True, timeout=120, **QUIET)
    assert_same_run(alone, killed)
    assert timeless(alone) == timeless(killed)
    assert not (killed / "checkpoints").exists()
