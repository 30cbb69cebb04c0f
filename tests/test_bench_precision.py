"""`--precision`: float16 and int8 copies beside the files they are of."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnxruntime.quantization import QuantType
from test_speed import conv

from evonnx import speed
from evonnx.errors import ModelError
from evonnx.sessions import CPU, CUDA, make_session, run_session
from evonnx.speed import precision
from evonnx.speed.precision import eight_bits, in_precision


def net(path: Path, opset: int = 13, batch: str = "N", body: str = "y = Conv(x, w)") -> Path:
    model = onnx.parser.parse_model(f"""<ir_version: 7, opset_import: ["" : {opset}]>
    net (float[{batch}, 4, 8, 8] x) => (float[{batch}, 4, h, v] y) {{ {body} }}""")
    if "w" in body:
        weight = np.random.default_rng(0).normal(size=(4, 4, 3, 3)).astype("f")
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def quiet_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go; onnxruntime's own mark of a session apart, nothing may stay there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_evolved_quantised_and_both_stand_side_by_side(tmp_path: Path, quiet_folder: Path) -> None:
    paths = [conv(tmp_path / "a.onnx", 16), conv(tmp_path / "b.onnx", 8)]
    before = [path.read_bytes() for path in paths]
    result = speed.bench(
        paths, precision=("fp32", "int8"), batches=(2,), check=True, rounds=3, threads=1, provider="cpu"
    )
    assert [path.read_bytes() for path in paths] == before
    assert [path.name for path in quiet_folder.iterdir() if path.name != ".ses"] == []
    names = ["a.onnx", "b.onnx", "a.onnx", "b.onnx"]
    assert [Path(one.model).name for one in result.latencies] == names
    assert [one.precision for one in result.latencies] == ["fp32", "fp32", "int8", "int8"]
    assert [one.index for one in result.models] == [0, 1, 2, 3]
    assert result.models[2].bytes < len(before[0]) == result.models[0].bytes
    assert any(note.startswith("int8 copies are") for note in result.notes)
    assert result.to_json()["precision"] == "fp32,int8"
    compared = [(one.index, Path(one.against).name, one.against_precision) for one in result.agreement]
    assert compared == [(1, "a.onnx", "fp32"), (2, "a.onnx", "fp32"), (3, "b.onnx", "fp32")]
    evolved, *quantised = (one.outputs[0].relative_difference for one in result.agreement)
    assert evolved > 0.1
    assert all(0 < one < 0.1 for one in quantised)


def test_copies_alone_are_compared_among_themselves_and_with_their_files(tmp_path: Path) -> None:
    paths = [conv(tmp_path / "a.onnx", 8), conv(tmp_path / "b.onnx", 4)]
    result = speed.bench(paths, precision="fp16", check=True, rounds=3, threads=1, provider="cpu")
    assert [(one.index, Path(one.against).name, one.against_precision) for one in result.agreement] == [
        (0, "a.onnx", "fp32"),
        (1, "a.onnx", "fp16"),
        (1, "b.onnx", "fp32"),
    ]
    assert result.agreement[0].outputs[0].relative_difference < 0.01


@pytest.mark.parametrize(("opset", "batch"), [(8, "N"), (11, "N"), (13, "3"), (21, "N")])
def test_a_quantised_copy_is_valid_and_near(opset: int, batch: str, tmp_path: Path) -> None:
    path = net(tmp_path / "m.onnx", opset, batch)
    source = in_precision(path, "int8")
    assert isinstance(source, bytes)
    copy = onnx.load_from_string(source)
    onnx.checker.check_model(copy, full_check=True)
    scales = [tuple(one.dims) for one in copy.graph.initializer if one.name == "w_scale"]
    assert scales == [(4,)], "weights per channel"
    feeds = {"x": np.random.default_rng([0, 0]).standard_normal((3, 4, 8, 8)).astype("f")}
    expected = run_session(make_session(path, threads=1), feeds)["y"]
    found = run_session(make_session(source, threads=1), feeds)["y"]
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_converters_keep_their_words_to_themselves(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level, logging.root.manager.disable
    path = net(tmp_path / "m.onnx")
    for name in ("fp16", "int8"):
        in_precision(path, name)
    assert capfd.readouterr() == ("", "")
    assert (root.handlers, root.level, logging.root.manager.disable) == before
    assert len(recwarn) == 0


def test_what_cannot_be_quantised_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = net(tmp_path / "exp.onnx", body="y = Exp(x)")
    with pytest.raises(ModelError, match=r"exp\.onnx has nothing that onnxruntime can quantise"):
        in_precision(path, "int8")
    once = tmp_path / "once.onnx"
    once.write_bytes(in_precision(net(tmp_path / "m.onnx"), "int8"))
    with pytest.raises(ModelError, match=r"once\.onnx is quantised already; time it as it is"):
        in_precision(once, "int8")

    def stumble(*_: Any, **__: Any) -> None:
        raise ValueError("no such\nnode")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", stumble)
    with pytest.raises(ModelError, match=r"m\.onnx can't be quantised to int8: no such node\. Time it"):
        in_precision(tmp_path / "m.onnx", "int8")


UNSIGNED, SIGNED = QuantType.QUInt8, QuantType.QInt8


@pytest.mark.parametrize(
    ("provider", "machine", "flags", "activations", "seven_bits"),
    [
        (CPU, "x86_64", ["avx2"], UNSIGNED, True),
        (CPU, "AMD64", [], UNSIGNED, True),
        (CPU, "x86_64", ["avx2", "avx512_vnni"], UNSIGNED, False),
        (CPU, "x86_64", ["avx_vnni"], UNSIGNED, False),
        (CPU, "arm64", [], SIGNED, False),
        (CUDA, "x86_64", [], SIGNED, False),
    ],
)
def test_types_are_those_that_the_processor_runs_fast(
    provider: str, machine: str, flags: list[str], activations: Any, seven_bits: bool
) -> None:
    found = eight_bits(provider, machine, flags)
    assert (found["activation_type"], found["weight_type"]) == (activations, SIGNED)
    assert found["reduce_range"] == seven_bits
    assert ("extra_options" in found) == (provider == CUDA)


def test_processor_flags_are_read_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\n\nflags\t\t: other\n")
    assert precision._processor(tmp_path / "cpuinfo")[1] == ["fpu", "avx2", "avx_vnni"]
    assert precision._processor(tmp_path / "none")[1] == []
