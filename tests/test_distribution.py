"""What is published: wheel and sdist build, hold what they should and no more; the wheel works by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from evonnx.onnx_io.detached import BESIDE
from evonnx.report.embedding import SCRIPTS, STYLES

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__", "results")
ALONE = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def done(words: list[str | Path], folder: Path) -> str:
    process = subprocess.run(words, cwd=folder, env=ALONE, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built from a copy: building writes into the source."""
    source = tmp_path_factory.mktemp("source") / "evonnx"
    shutil.copytree(ROOT, source, ignore=NOT_OURS)
    out = source.parent / "dist"
    done([sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source], source)
    return out


def test_the_wheel_holds_the_packages_their_types_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names}
    ours = {path.parent.name for path in [*ROOT.glob("*/__init__.py"), *ROOT.glob("adapters/*/__init__.py")]}
    assert packages == ours | {next(name for name in packages if name.endswith(".dist-info"))}
    assert f"evonnx/empty/{BESIDE}" in names  # onnxruntime asks for it
    assert {f"evonnx/report/assets/{name}" for name in (*SCRIPTS, *STYLES)} <= set(names)
    for package in ours:
        assert f"{package}/py.typed" in names
    shipped = {name for name in names if name.startswith("evonnx/") and name.endswith(".py")}
    assert shipped == {str(path.relative_to(ROOT)) for path in ROOT.glob("evonnx/**/*.py")}


def test_the_source_has_its_licence_and_readme(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[-1] for name in opened.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_wheel_alone_evolves_the_digits(dist: Path, tmp_path: Path) -> None:
    """In an environment that has what evonnx asks for, and neither this checkout nor its editable install."""
    (wheel,) = dist.glob("*.whl")
    home = tmp_path / "environment"
    done([sys.executable, "-m", "venv", "--without-pip", home], tmp_path)
    python = home / "bin" / "python" if os.name == "posix" else home / "Scripts" / "python.exe"
    site = Path(
        done([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip()
    )
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    done([*pip, wheel], tmp_path)
    found = done(
        [python, "-c", "import evonnx, evonnx_torch; print(evonnx.__file__, evonnx_torch.__file__)"], tmp_path
    )
    assert [Path(name).is_relative_to(home) for name in found.split()] == [True, True]
    program = python.with_name("evonnx")
    model = ROOT / "samples" / "digits" / "lenet5.onnx"
    few = ["--gens", "1", "--epochs", "1", "--recovery-epochs", "0", "--screen", "2", "--threads", "1"]
    done([program, "evolve", model, "--out", "run", *few], tmp_path)
    assert (tmp_path / "run" / "best.onnx").is_file()
    listed = done([program, "plugins"], tmp_path)
    assert "torch" in listed
    assert "command" in listed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("evonnx")
    script = subprocess.run(
        [program],
        cwd=tmp_path,
        env={**os.environ, "_EVONNX_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
    )
    assert f"_EVONNX_COMPLETE=complete_{shell}" in script.stdout
