"""Ctrl-C, SIGTERM and a terminal that goes away: one line that says how to go on, and a tidy folder."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from crash_support import Alone, Nursery, differences, unreadable
from evolution_support import run

from evonnx.cli.evolve import resume_command
from evonnx.run_store import RunStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

START = """
import signal, sys
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may have been started with it ignored
sys.argv[0] = "evonnx"
from evonnx.cli import main
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Ended by SIGTERM.")],
)
def test_a_signal_ends_a_run_with_the_command_to_resume_it(
    number: signal.Signals, code: int, words: str, alone: Alone, nursery: Nursery, tmp_path: Path
) -> None:
    asked = alone.case.words(tmp_path / "a run")
    if number == signal.SIGTERM:  # the command names the folder also where nobody did
        place = asked.index("--out")
        del asked[place : place + 2]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *asked],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("**/.partial-gen-02")):
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    *_, last = err.splitlines()
    assert last.startswith(f"evonnx: {words} Continue with: evonnx evolve ")
    command = shlex.split(last.split("Continue with: ")[1])
    run = tmp_path / command[command.index("--out") + 1]
    assert {path.name for path in run.iterdir()} - {"checkpoints"} == {"run.json", "gen-01"}
    again = nursery.run(command[1:], tmp_path / "log")
    assert again.code == 0, again.said
    assert differences(alone.run, run) == []


def test_a_stop_right_after_a_workspace_is_made_leaves_nothing_of_it(
    alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = RunStore.workspace

    def stopped(store: RunStore, label: str) -> Path:
        folder = makes(store, label)
        if label == "gen-02":
            raise KeyboardInterrupt
        return folder

    monkeypatch.setattr(RunStore, "workspace", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(alone.case.model, tmp_path / "run", generations=3)
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"checkpoints"} == {"run.json", "gen-01"}


@pytest.mark.parametrize("stops", [3, pytest.param(60, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))])
def test_stopped_at_any_moment_nothing_is_left_half_written(
    stops: int, alone: Alone, nursery: Nursery, tmp_path: Path
) -> None:
    rng, count, number = np.random.default_rng(stops), 0, 0
    while count < stops:
        number += 1
        run, told = tmp_path / f"run-{number}", signal.SIGTERM if number % 2 else signal.SIGINT
        after = float(rng.uniform(0, alone.ended.seconds))
        ended = nursery.run(alone.case.words(run), tmp_path / "log", kill_after=after, signal=int(told))
        if ended.code == 0:
            continue
        if ended.code == -told:  # the first moments belong to Python, before evonnx listens
            assert not run.exists()
            continue
        count += 1
        assert ended.code == 128 + told, ended.said
        lines = [line for line in ended.said.splitlines() if line.startswith("evonnx: ")]
        assert len(lines) == 1, ended.said
        assert "Traceback" not in ended.said
        assert unreadable(run) == []
        assert not [path for path in tmp_path.rglob(".*") if run in path.parents]
        if (run / "run.json").exists():
            assert "Continue with: " in lines[0]
    again = nursery.run(alone.case.words(run, run.is_dir()), tmp_path / "log")
    assert again.code == 0, again.said
    assert differences(alone.run, run) == []


@pytest.mark.parametrize(
    ("words", "out", "resume", "command"),
    [
        ("/x/bin/evonnx evolve m.onnx", None, False, "evonnx evolve m.onnx --out 'runs/a b' --resume"),
        ("evonnx evolve m.onnx --out 'runs/a b'", "runs/a b", False,
         "evonnx evolve m.onnx --out 'runs/a b' --resume"),
        ("evonnx evolve --resume --out=r m.onnx", "r", True, "evonnx evolve --resume --out=r m.onnx"),
        ("/x/evonnx/__main__.py evolve m.onnx", None, True,
         "python -m evonnx evolve m.onnx --out 'runs/a b'"),
        ("evonnx evolve -- -m.onnx", "r", False, "evonnx evolve --resume -- -m.onnx"),
        ("my_program.py", None, False,
         "evonnx evolve, the same options, --out 'runs/a b' --resume"),
    ],
)  # fmt: skip
def test_the_command_to_resume(words: str, out: str | None, resume: bool, command: str) -> None:
    assert resume_command(shlex.split(words), Path("runs/a b"), out, resume) == command
