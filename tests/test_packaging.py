"""What the distribution promises about its dependencies."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


def wanted_runtimes(requirements: list[str], **platform: str) -> set[str]:
    environment = {**default_environment(), **platform}
    parsed = [Requirement(text) for text in requirements]
    return {
        one.name
        for one in parsed
        if one.name in RUNTIMES and (one.marker is None or one.marker.evaluate(environment))
    }


@pytest.mark.parametrize(
    ("system", "machine", "runtime"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
        ("win32", "ARM64", "onnxruntime"),
    ],
)
def test_exactly_one_onnxruntime_is_asked_for(system: str, machine: str, runtime: str) -> None:
    platform = {"sys_platform": system, "platform_machine": machine}
    assert wanted_runtimes(PROJECT["dependencies"], **platform) == {runtime}
    for extra in PROJECT["optional-dependencies"].values():
        assert wanted_runtimes(extra, **platform) <= {runtime}


def test_the_oldest_libraries_are_the_oldest_that_are_allowed() -> None:
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(text) for text in [*PROJECT["dependencies"], *extras["torch"], *extras["images"]]]
    floors = {one.name: next(iter(one.specifier)).version for one in asked}
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = [Requirement(line) for line in lines if not line.startswith("#")]
    pinned = {one.name: next(iter(one.specifier)).version for one in oldest}
    assert set(floors) <= set(pinned)
    for name, floor in floors.items():
        assert Version(pinned[name]) == Version(floor), name


def test_nothing_installed_pulls_in_the_other_onnxruntime() -> None:
    installed = {canonicalize_name(one.metadata["Name"]): one for one in distributions()}
    present = RUNTIMES & set(installed)
    assert len(present) == 1
    for name, one in installed.items():
        if name == "evonnx":
            continue
        for text in one.requires or []:
            requirement = Requirement(text)
            if requirement.marker is not None and "extra" in str(requirement.marker):
                continue
            assert canonicalize_name(requirement.name) not in RUNTIMES - present, f"{name} requires {text}"


def test_core_needs_no_framework() -> None:
    names = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert not names & {"torch", "jax", "tensorflow", "torchvision"}


def test_constraints_pin_everything_that_is_asked_for() -> None:
    pins = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    asked = [*PROJECT["dependencies"]]
    for extra in ("torch", "jax", "ray", "audio", "mlflow", "tensorboard", "samples", "docs", "dev"):
        asked += PROJECT["optional-dependencies"][extra]
    for text in asked:
        requirement = Requirement(text)
        here = requirement.marker is None or Marker(str(requirement.marker)).evaluate(
            {**default_environment(), "sys_platform": "linux", "platform_machine": "x86_64"}
        )
        assert not here or canonicalize_name(requirement.name) in pins, text


def test_no_path_or_host_of_ours_is_committed() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(work|root|tmp|home)/", text), path
