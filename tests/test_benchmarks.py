"""Parts of the benchmarks that tables rest on."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import GRAPHS

from evonnx.network import load_network
from evonnx.onnx_io import initializer_arrays, load_model
from evonnx.resources import count

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import provenance
import sample_speed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "sample" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(GRAPHS["conv_bn"](), path)
    return path


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- one -->\nold\nolder\n<!-- /one -->\nafter\n", encoding="utf-8")
    provenance.replace_section(file, "one", "new")
    assert file.read_text(encoding="utf-8") == "before\n<!-- one -->\nnew\n<!-- /one -->\nafter\n"
    provenance.replace_section(file, "one", "newer")
    assert file.read_text(encoding="utf-8").splitlines()[2:3] == ["newer"]
    with pytest.raises(ValueError):
        provenance.replace_section(file, "two", "text")


def test_provenance_names_machine_commit_versions_and_command() -> None:
    text = provenance.provenance()
    for part in ("at commit ", "cores", "onnxruntime", "Python 3", "`python benchmarks/"):
        assert part in text


def test_ancestors_are_found_by_their_hash(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "result"
    (run / "gen-01").mkdir(parents=True)
    record = {"seed": 0, "configuration": {"model": "model.onnx", "model_sha256": "0" * 64}}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match=r"model.onnx .sha256 0000.*train.py makes it"):
        sample_speed.by_ancestor([run], tmp_path / "runs")
    record["configuration"]["model_sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
    (run / "run.json").write_text(json.dumps(record))
    assert sample_speed.by_ancestor([run], tmp_path / "runs") == {model: [run]}
    (run / "gen-01" / "compact.onnx").touch()
    assert sample_speed.label(run) == "gen-01 of result"
    (run / "best.onnx").touch()
    assert sample_speed.label(run) == "result"


def test_rows_hold_one_cell_per_precision() -> None:
    names = ["ancestor", "small"]
    document = {
        "models": [{"index": index, "bytes": 1000 * (4 - index)} for index in range(4)],
        "latencies": [
            {"index": index, "batch": batch, "median_ms": batch / (1 + index), "ratio": 1.0 + index}
            for batch in (1, 64)
            for index in range(4)
        ],
    }
    rows = sample_speed.rows_of(names, document)
    assert rows[0] == "| ancestor | 1 | 1 ms, 1.00x, 4 kB | 0.333 ms, 3.00x, 2 kB |"
    assert rows[3] == "| small | 64 | 32 ms, 2.00x, 3 kB | 16 ms, 4.00x, 1 kB |"


def test_zeros_leave_shapes_and_the_largest_weights(model: Path, tmp_path: Path) -> None:
    controls = pytest.importorskip("controls", reason="needs torch")
    controls.zeros(model, 0.25, tmp_path / "zeros.onnx")
    before, after = (initializer_arrays(load_model(path)) for path in (model, tmp_path / "zeros.onnx"))
    names = list(load_network(model).weights)
    old, new = (np.concatenate([arrays[name].ravel() for name in names]) for arrays in (before, after))
    alive = new != 0
    assert alive.mean() == pytest.approx(0.25, abs=0.01)
    assert np.abs(old[alive]).min() >= np.abs(old[~alive]).max()
    assert count(load_network(tmp_path / "zeros.onnx")).macs == count(load_network(model)).macs


def test_a_missing_control_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    controls = pytest.importorskip("controls", reason="needs torch")
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(SystemExit, match=r"pip install torch-pruning.*--without torch-pruning"):
        controls.torch_pruning(controls.nn.Identity(), 1, tmp_path / "x.onnx")
