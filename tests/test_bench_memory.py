"""`--memory`: a process per model, what it reads, and reasons where it can't."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from evonnx import speed
from evonnx.sessions import CPU, CUDA
from evonnx.speed import resident
from evonnx.speed.memory import measure_memory

REQUEST: dict[str, Any] = {
    "batch": 1, "threads": 1, "providers": [CPU], "seed": 0, "input_shapes": None
}  # fmt: skip


def product(path: Path, size: int) -> Path:
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 13]>
    net (float[N, {size}] x) => (float[N, {size}] y) {{ y = MatMul(x, w) }}""")
    weight = np.random.default_rng(0).normal(size=(size, size)).astype("f")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_model_is_charged_for_its_weights(tmp_path: Path) -> None:
    paths = [product(tmp_path / "big.onnx", 2048), product(tmp_path / "small.onnx", 16)]
    result = speed.bench(paths, memory=True, rounds=3, threads=1, provider="cpu").to_json()
    big, small = result["memory"]
    assert big["reason"] is small["reason"] is big["device_bytes"] is big["device_reason"] is None
    weights = 4 * 2048**2
    # Where the peak can't be forgotten, what importing took once hides a part.
    assert 0.5 * weights < big["resident_bytes"] < 8 * weights
    assert 0 <= small["resident_bytes"] < weights
    assert big["baseline_bytes"] == pytest.approx(small["baseline_bytes"], rel=0.2)


def test_a_serialised_model_lies_in_a_folder_only_meanwhile() -> None:
    seen: list[Path] = []

    def spawn(command: list[str], input: str, **_: Any) -> SimpleNamespace:
        model = Path(json.loads(input)["model"])
        assert model.read_bytes() == b"model"
        assert command[1:] == ["-P", "-m", "evonnx.speed.resident"]
        seen.append(model)
        return SimpleNamespace(returncode=0, stdout='noise\n{"resident_bytes": 3}\n', stderr="")

    assert measure_memory(b"model", **REQUEST, spawn=spawn) == {"resident_bytes": 3}
    assert not seen[0].parent.exists()


def failing(**result: Any) -> Callable[..., Any]:
    def spawn(*_: Any, **__: Any) -> SimpleNamespace:
        if "error" in result:
            raise result["error"]
        return SimpleNamespace(**{"returncode": 1, "stdout": "", "stderr": ""} | result)

    return spawn


@pytest.mark.parametrize(
    ("spawn", "reason"),
    [
        (failing(stderr="Traceback\nModelError: no\n"), "its process ended with code 1: ModelError: no"),
        (failing(returncode=-9), "its process ended with code -9: no word"),
        (failing(error=subprocess.TimeoutExpired("x", 1)), "its process could not run: TimeoutExpired"),
        (failing(error=PermissionError()), "its process could not run: PermissionError"),
    ],
)
def test_a_process_that_fails_is_a_reason(spawn: Callable[..., Any], reason: str) -> None:
    found = measure_memory("m.onnx", **REQUEST, spawn=spawn)
    assert found.pop("reason") == reason
    assert set(found.values()) == {None}


def test_the_peak_is_read_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmPeak:\t 99 kB\nVmHWM:\t    1764 kB\n")
    assert resident.peak_bytes(tmp_path) == 1764 * 1024
    resident.forget_peak(tmp_path / "missing")  # no word


@pytest.mark.parametrize(
    ("platform", "expected"), [("darwin", 5000), ("freebsd14", 5000 * 1024), ("linux", None), ("win32", None)]
)
def test_other_systems_are_asked_in_their_way(
    platform: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setitem(sys.modules, "resource", None if platform == "win32" else usage)
    monkeypatch.setattr(resident, "sys", SimpleNamespace(platform=platform))
    assert resident.peak_bytes(tmp_path / "none") == expected


def test_a_platform_that_does_not_tell_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resident, "peak_bytes", lambda: None)
    found = resident.measure(str(product(tmp_path / "m.onnx", 4)), **REQUEST)
    assert found["resident_bytes"] is None
    assert "does not tell" in found["reason"]
    assert found["device_reason"] is None


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("77, 5\n42, 300\n42, 20\n", 320 * 2**20),
        ("77, 5\n", "nvidia-smi does not list"),
        ("42, [N/A]\n", "nvidia-smi does not list"),
        ("", "nvidia-smi does not list"),
        (FileNotFoundError(), "nvidia-smi does not tell: FileNotFoundError"),
    ],
)
def test_device_memory_is_the_drivers_word(listed: str | Exception, expected: int | str) -> None:
    spawn = failing(error=listed) if isinstance(listed, Exception) else failing(stdout=listed)
    found = resident.device_bytes(42, spawn)
    assert found == expected if isinstance(expected, int) else str(found).startswith(expected)


def test_on_a_gpu_device_memory_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make = resident.make_session
    monkeypatch.setattr(resident, "make_session", lambda model, **_: make(model, threads=1))
    request = {**REQUEST, "model": str(product(tmp_path / "m.onnx", 4)), "providers": [CUDA, CPU]}
    for used, name in ((12345, "device_bytes"), ("a reason", "device_reason")):
        monkeypatch.setattr(resident, "device_bytes", lambda _, used=used: used)
        assert resident.measure(**request)[name] == used
