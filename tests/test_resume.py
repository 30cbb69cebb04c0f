"""A run that is killed for good and resumed ends like one left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evolution_support import write_case
from test_evolution import assert_same_run

from evonnx.run_store import read_json

GENERATIONS = 5


def command(model: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "evonnx", "evolve", str(model), "--out", str(out), *more),
        *("--gens", str(GENERATIONS), "--keep", "0.75", "--max-drop", "1", "--align", "1", "--screen", "8"),
        *(
            "--epochs",
            "3",
            "--recovery-epochs",
            "1",
            "--threads",
            "1",
            "--adapter",
            "evonnx.testing:ToyAdapter",
        ),
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_in_generation_3_and_resumed_equals_left_alone(tmp_path):
    model = write_case(tmp_path / "case")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    subprocess.run(command(model, alone), check=True, timeout=120, **quiet)

    process = subprocess.Popen(command(model, killed), **quiet)
    deadline = time.monotonic() + 120
    while not (killed / ".partial-gen-03").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (killed / "gen-02").is_dir()
    assert not (killed / "gen-03").exists()
    assert not (killed / "best.onnx").exists()

    subprocess.run(command(model, killed, "--resume"), check=True, timeout=120, **quiet)
    assert_same_run(alone, killed)
    times = ("retrain_seconds", "evaluate_seconds", "overhead_seconds")
    rows = [
        [
            {key: value for key, value in row.items() if key not in times}
            for row in read_json(run / "run.json")["generations"]
        ]
        for run in (alone, killed)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == GENERATIONS
