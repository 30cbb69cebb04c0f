"""The README's commands run as they stand, in order, on a small model."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from evolution_support import write_case

README = Path(__file__).resolve().parent.parent / "README.md"

TRAINER = """
import shutil, sys
shutil.copyfile(sys.argv[1], sys.argv[3])
"""

MODULE = """
import onnx, torch
from onnx import numpy_helper
from torch import nn

convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
net = nn.Sequential(convolution, nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))
weights = [numpy_helper.to_array(one).copy() for one in onnx.load("model.onnx").graph.initializer]
for parameter, weight in zip(net.parameters(), weights, strict=True):
    parameter.data = torch.from_numpy(weight)
"""


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    write_case(folder)
    (folder / "my_train.py").write_text(TRAINER)
    (folder / "my_model.py").write_text(MODULE)
    return folder


def python(example: str, folder: Path) -> str:
    """Standard output of a program."""
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_runs(folder):
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 9
    for line in commands:
        words = shlex.split(line)
        assert words[0] == "evonnx", line
        words = [word.replace("python ", f"{shlex.quote(sys.executable)} ", 1) for word in words[1:]]
        done = subprocess.run(
            [sys.executable, "-m", "evonnx", *words], cwd=folder, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line
    (example,) = (block for block in blocks("python") if "apply_plan" in block)  # reads what they wrote
    shown = python(example, folder)
    assert shown.startswith("shrink: ")
    assert "equal to runs/mine/best.onnx in onnxruntime" in shown


def test_the_python_example_runs(folder):
    (example,) = (block for block in blocks("python") if "evolve" in block)
    assert float(python(example, folder).split()[0]) > 1


def test_the_task_file_is_one(folder):
    from evonnx.network import load_network
    from evonnx.tasks import load_task

    (example,) = blocks("toml")
    (folder / "readme.toml").write_text(example)
    assert load_task(folder / "readme.toml", load_network(folder / "model.onnx")).size("test") == 60


def test_links_and_options_exist():
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / target).exists(), target
    for command, title in (("evolve", "option"), ("bench", "option of bench")):
        shown = subprocess.run(
            [sys.executable, "-m", "evonnx", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        (table,) = re.findall(rf"^\| {title} \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
        for option in re.findall(r"^\| `(--[a-z-]+)", table, re.MULTILINE):
            assert option in shown, option
