"""The scale benchmark's graphs, small: data beside the file both ways, and cost that grows with nodes."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from cli_support import CommandLine
from evolution_support import run, write_case
from onnx import TensorProto, helper, numpy_helper

from evonnx.dependency import analyse
from evonnx.network import load_network, network_of
from evonnx.onnx_io import MappedTensor, files, forget_pages, load_model, save_model
from evonnx.proof import proving


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


def test_weights_of_one_file_share_one_handle(tmp_path: Path) -> None:
    """A process may have a thousand open files, and a model more weights than that."""
    resource = pytest.importorskip("resource")
    layers = 200
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(layers)],
        "many",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info(f"v{layers}", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(np.eye(16, dtype=np.float32), f"w{i}") for i in range(layers)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "many.onnx"
    onnx.save(model, path, save_as_external_data=True, location="many.data", size_threshold=1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(150, limits[0]), limits[1]))
    try:
        network = load_network(path)
        assert all(np.array_equal(network.array(f"w{i}"), np.eye(16)) for i in range(layers))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert network.file_bytes == path.stat().st_size + (tmp_path / "many.data").stat().st_size


def test_pages_of_a_mapped_weight_are_let_go_of_and_come_back(scale: ModuleType, tmp_path: Path) -> None:
    if not Path("/proc/self/smaps").exists():
        pytest.skip("needs Linux's account of memory")
    scale.write_wide(tmp_path / "model.onnx", 16 << 20, width=1024)
    network = load_network(tmp_path / "model.onnx")

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().split("model.onnx.data", 1)[1].splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

    before = network.array("fc1.weight").sum()
    held = resident()
    network.forget("fc1.weight")
    assert resident() <= held - 4096 + 8
    assert network.array("fc1.weight").sum() == before
    own = np.ones((64, 64))
    forget_pages(own)
    assert own.all()


def test_a_run_whose_models_have_their_weights_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit of a message lowered to a kilobyte, and copies of the proof in files: every model of
    the run has its data beside it, and the bytes that are stated are those of both files."""
    monkeypatch.setattr(files, "_EXTERNAL_FROM_BYTES", 1 << 10)
    monkeypatch.setattr(proving, "_SPOOL_FROM_BYTES", 0)
    model = write_case(tmp_path)
    record = run(model, tmp_path / "run", keep=0.9)
    best = tmp_path / "run" / "best.onnx"
    compact = [tmp_path / "run" / f"gen-{number:02d}" / "compact.onnx" for number in (1, 2)]
    for path, row in zip((best, *compact), (record["best"], *record["generations"]), strict=True):
        data = load_model(path).graph.initializers["fc1.weight"].const_value
        assert isinstance(data, MappedTensor)
        assert row["bytes"] == path.stat().st_size + data.nbytes
        assert not list(path.parent.glob(".evonnx-*"))
    assert record["generations"][-1]["synapses"] < record["ancestor"]["synapses"]
