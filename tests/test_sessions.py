"""Sessions: no silent fallback, warnings that can be read, inputs of the right kinds, clear errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from evonnx import sessions
from evonnx.errors import ModelError, ProviderError

SMALL = """
<ir_version: 8, opset_import: ["" : 13]>
small (float[N, 3, H, 4] x, int64[N] ids) => (float[N, 3, H, 4] y, int64[N] z)
<float[3, 1, 1] b = {1, 2, 3}, int64[1] one = {1}>
{
  s = Mul(x, b)
  y = Relu(s)
  z = Add(ids, one)
}
"""


@pytest.fixture
def small() -> bytes:
    return onnx.parser.parse_model(SMALL).SerializeToString()


def test_a_session_runs_on_the_cpu_with_pinned_threads(small: bytes) -> None:
    session = sessions.make_session(small, threads=1)
    options = session.get_session_options()
    assert session.get_providers() == [sessions.CPU]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    x = np.array([-1.0, 2.0], np.float32).reshape(1, 1, 2, 1) * np.ones((1, 3, 2, 4), np.float32)
    got = sessions.run_session(session, {"x": x, "ids": np.array([4])})
    assert got["y"][0, 2].tolist() == [[0.0] * 4, [6.0] * 4]
    assert got["z"].tolist() == [5]


def test_every_node_is_placed(small: bytes) -> None:
    placed = sessions.placement(sessions.make_session(small, threads=1, optimize=False))
    assert placed == {sessions.CPU: ["Mul", "Relu", "Add"]}


def test_placement_is_none_where_onnxruntime_does_not_report_it() -> None:
    assert sessions.placement(object()) is None


@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_provider_that_cannot_run_is_an_error(
    small: bytes, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = sessions.resolve_providers(name)[0]
    if sessions.making._working_devices(wanted):
        pytest.skip(f"{wanted} works here")
    with pytest.raises(ProviderError, match=f"{wanted}.*pip install") as caught:
        sessions.make_session(small, providers=name)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_auto_picks_cuda_where_it_runs(small: bytes, onnxruntime_cuda: str) -> None:
    assert sessions.make_session(small, providers="auto").get_providers()[0] == onnxruntime_cuda


def test_auto_says_what_it_picked() -> None:
    picked = sessions.resolve_providers("auto")[0]
    assert picked == (sessions.CUDA if sessions.making._working_devices(sessions.CUDA) else sessions.CPU)


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        ("gpu", "Unknown execution provider 'gpu'"),
        ((), "No execution provider was named"),
        ("NoSuchExecutionProvider", "not part of the installed onnxruntime"),
    ],
)
def test_unknown_providers_are_errors(small: bytes, providers: str, message: str) -> None:
    with pytest.raises(ProviderError, match=message):
        sessions.make_session(small, providers=providers)


def test_a_bad_model_is_one_paragraph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"cannot load .*bad\.onnx") as caught:
        sessions.make_session(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_run_that_fails_names_the_shapes(small: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    session = sessions.make_session(small, threads=1)
    with pytest.raises(ModelError, match=r"x \[1, 2, 2, 4\]"):
        sessions.run_session(session, {"x": np.zeros((1, 2, 2, 4), np.float32), "ids": np.zeros(1, np.int64)})
    assert capfd.readouterr().err == ""


def test_warnings_of_the_c_library_are_seen(small: bytes) -> None:
    assert sessions.load_warnings(small) == []
    model = onnx.load_from_string(small)
    model.graph.input.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [3, 1, 1]))
    (warning,) = sessions.load_warnings(model.SerializeToString())
    assert warning.startswith("Initializer b appears in graph inputs")


def test_input_specs_and_concrete_shapes(small: bytes) -> None:
    x, ids = sessions.input_specs(sessions.make_session(small, threads=1))
    assert x == sessions.InputSpec("x", ("N", 3, "H", 4), np.dtype(np.float32))
    assert ids.dtype == np.int64
    assert sessions.concrete_shape(x) == (1, 3, 1, 4)
    assert sessions.concrete_shape(x, batch=5) == (5, 3, 1, 4)
    assert sessions.concrete_shape(x, {"H": 7, "N": 2}, batch=5) == (2, 3, 7, 4)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("int8", 0, 127),
        ("int64", 0, 1),
        ("bool", 0, 1),
        ("float16", -60, 60),
        ("float32", -60, 60),
    ],
)
def test_random_arrays_stay_in_range(dtype: str, low: int, high: int) -> None:
    spec = sessions.InputSpec("x", (50, 40), np.dtype(dtype))
    one = sessions.random_array(spec, (50, 40), np.random.default_rng(1), scale=10.0)
    assert one.dtype == spec.dtype
    assert one.shape == (50, 40)
    assert low <= one.astype(np.float64).min() < one.astype(np.float64).max() <= high
    assert np.array_equal(one, sessions.random_array(spec, (50, 40), np.random.default_rng(1), scale=10.0))


def test_importing_sessions_leaves_onnxruntime_alone() -> None:
    code = "import sys, evonnx.sessions; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
