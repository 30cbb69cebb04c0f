"""The scale benchmark's graphs, small: data beside the file both ways, and cost that grows with nodes."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from cli_support import CommandLine

from evonnx.dependency import analyse
from evonnx.network import load_network, network_of
from evonnx.onnx_io import files, load_model, save_model


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module("scale")


def test_a_model_over_the_limit_of_one_message_goes_through(
    scale: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the limit lowered to a megabyte: sampled and made compact, with data beside every file."""
    monkeypatch.setattr(files, "_EXTERNAL_FROM_BYTES", 1 << 20)
    model, masked, compact = (tmp_path / f"{name}.onnx" for name in ("model", "masked", "compact"))
    scale.write_wide(model, 8 << 20, width=512)
    run = CommandLine(capsys)
    options = ("--levels", "clusters", "--clusters", "channel", "--align", "1", "--provider", "cpu")
    sampled = run("synthesize", model, "-o", masked, "--keep", "0.6", *options, "--json")
    assert sampled.code == 0, sampled.err
    removed = run("compact", masked, "-o", compact, "--json")
    assert removed.code == 0, removed.err
    for path in (model, masked, compact):
        assert path.with_name(f"{path.name}.data").stat().st_size > 1 << 20
        assert path.stat().st_size < 1 << 14
    assert removed.document["proof"]["passed"]
    assert removed.document["bytes"]["masked"] > 8_000_000
    assert removed.document["parameters"]["compact"] < 0.7 * removed.document["parameters"]["masked"]


def test_the_size_of_a_model_in_memory_is_that_of_its_file(scale: ModuleType, tmp_path: Path) -> None:
    scale.write_wide(tmp_path / "model.onnx", 2 << 20, width=256)
    model = load_model(tmp_path / "model.onnx")
    save_model(model, tmp_path / "inside.onnx")
    assert network_of(model, "in memory").file_bytes == (tmp_path / "inside.onnx").stat().st_size


@pytest.mark.parametrize("kind", ["convolutions", "attention"])
def test_analysis_grows_with_nodes(scale: ModuleType, kind: str, tmp_path: Path) -> None:
    """Four times the nodes take four times as long; sixteen times would be quadratic."""

    def seconds(count: int) -> float:
        path = tmp_path / f"{count}.onnx"
        assert scale.write_deep(kind, count, path) >= count - 25
        taken = []
        for _ in range(3):
            started = time.process_time()
            analyse(load_network(path))
            taken.append(time.process_time() - started)
        return min(taken)

    seconds(100)  # imports
    assert seconds(2000) < 9 * seconds(500)
