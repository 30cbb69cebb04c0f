"""onnxruntime on a GPU, where there is one; and how it is refused where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from test_speed import conv

from evonnx import sessions, speed
from evonnx.errors import ModelError, ProviderError
from evonnx.sessions import CPU, CUDA

# --- on a GPU


@pytest.mark.gpu
def test_a_gpu_replays_graphs(tmp_path: Path, onnxruntime_cuda: str) -> None:
    paths = [conv(tmp_path / "a.onnx", 8), conv(tmp_path / "b.onnx", 4)]
    result = speed.bench(paths, provider="cuda", batches=(1, 8), check=True, memory=True)
    assert (result.copies, result.cuda_graphs) == ("excluded", True), result.notes


@pytest.mark.gpu
def test_bench_says_node_by_node_what_ran_on_the_gpu(tmp_path: Path, onnxruntime_cuda: str) -> None:
    whole = conv(tmp_path / "whole.onnx", 8)
    result = speed.bench([whole], provider="cuda", rounds=3)
    (model,) = result.models
    assert result.provider == onnxruntime_cuda
    assert model.nodes is not None, "this onnxruntime reports no placement"
    assert set(model.nodes) == {onnxruntime_cuda}
    assert sum("Conv" in label for label in model.nodes[onnxruntime_cuda]) == 2
    assert not any("does not run on" in note for note in result.notes)
    # Unique has no kernel for CUDA.
    mixed = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
    net (float[4, 8] x) => (float[N] y) { a = Relu(x)  y = Unique(a) }""")
    onnx.save(mixed, tmp_path / "mixed.onnx")
    result = speed.bench([tmp_path / "mixed.onnx"], provider="cuda", rounds=3)
    assert any("Unique" in label for label in result.models[0].nodes[CPU])
    assert any("does not run on CUDAExecutionProvider as a whole" in note for note in result.notes)
    assert not result.cuda_graphs


@pytest.mark.gpu
def test_float16_copies_agree_on_a_gpu(tmp_path: Path, onnxruntime_cuda: str) -> None:
    path = conv(tmp_path / "m.onnx", 8)
    result = speed.bench([path], provider="cuda", precision=["fp32", "fp16"], check=True, rounds=3)
    assert [model.precision for model in result.models] == ["fp32", "fp16"]
    assert set(result.models[1].nodes or {}) == {onnxruntime_cuda}
    (found,) = [row for row in result.agreement or () if row.precision == "fp16"]
    (output,) = found.outputs
    assert (found.against_precision, output.reason, output.not_finite) == ("fp32", None, 0)
    # Eleven bits of a number, summed over 72 products twice.
    assert output.relative_difference is not None
    assert 0 < output.relative_difference < 1e-2


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(tmp_path: Path, onnxruntime_cuda: str) -> None:
    path = conv(tmp_path / "m.onnx", 8)
    feeds = {"x": np.random.default_rng(0).normal(size=(4, 8, 16, 16)).astype(np.float32)}
    here, there = (
        sessions.run_session(sessions.make_session(path, providers=provider), feeds)["y"]
        for provider in ("cpu", "cuda")
    )
    # TensorFloat-32 has 11 bits.
    np.testing.assert_allclose(there, here, atol=1e-2 * np.abs(here).max())


# --- refused, by a device that pretends


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make onnxruntime list CUDA, and give sessions on `gives` instead, or fail with `fails`."""
    real = onnxruntime.InferenceSession

    def install(available: Sequence[str] = (CUDA, CPU), gives: str = CPU, fails: str = "") -> None:
        def make(source: Any, options: Any, providers: Sequence[str], **more: Any) -> Any:
            if fails and source != sessions.probe_model():
                raise RuntimeError(f"[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : {fails}")
            session = real(source, options, providers=[CPU])
            order = [gives, CPU] if gives != CPU else [CPU]
            return SimpleNamespace(
                get_providers=lambda: order,
                disable_fallback=session.disable_fallback,
                run=session.run,
                get_outputs=session.get_outputs,
                get_inputs=session.get_inputs,
            )

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(available))
        monkeypatch.setattr(onnxruntime, "InferenceSession", make)
        monkeypatch.setattr(sessions.making, "missing_gpu", lambda: None)
        sessions.making._working_devices.cache_clear()

    yield install
    sessions.making._working_devices.cache_clear()


def test_a_session_that_silently_fell_back_is_refused(pretending: Any, tmp_path: Path) -> None:
    path = conv(tmp_path / "m.onnx", 4)
    pretending()
    with pytest.raises(ProviderError, match=r"cannot run here: onnxruntime gave no reason.*--provider cpu"):
        sessions.make_session(path, providers="cuda")
    with pytest.raises(ProviderError, match="cannot run here"):
        speed.bench([path], provider="cuda")
    assert sessions.resolve_providers("auto") == (CPU,)


@pytest.mark.parametrize(
    ("status", "devices", "reason"),
    [(None, 0, "is not installed"), (100, 0, "reports error 100"), (0, 0, "sees no GPU"), (0, 1, None)],
    ids=["no driver", "driver fails", "no device", "a device"],
)
def test_no_session_is_tried_where_there_is_no_gpu(
    status: int | None, devices: int, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def driver(library: str) -> SimpleNamespace:
        if status is None:
            raise OSError(library)

        def counted(found: Any) -> int:
            found._obj.value = devices
            return 0

        return SimpleNamespace(cuInit=lambda flags: status, cuDeviceGetCount=counted)

    monkeypatch.setattr(sessions.devices.ctypes, "CDLL", driver)
    if reason is None:
        assert sessions.missing_gpu() is None
        return
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    with pytest.raises(ProviderError, match=f"cannot run here: NVIDIA's driver .*{reason}.*--provider cpu"):
        sessions.make_session(conv(tmp_path / "m.onnx", 4), providers="cuda")


def test_a_provider_that_this_build_lacks_is_refused(pretending: Any, tmp_path: Path) -> None:
    pretending(available=("AzureExecutionProvider", CPU))
    with pytest.raises(
        ProviderError, match=r"not part of .* \(it has AzureExecutionProvider, CPU.*evonnx\[gpu"
    ):
        sessions.make_session(conv(tmp_path / "m.onnx", 4), providers="cuda")
    assert sessions.resolve_providers("auto") == (CPU,)


def test_where_the_device_works_a_model_that_it_refuses_is_the_models_fault(
    pretending: Any, tmp_path: Path
) -> None:
    pretending(gives=CUDA, fails="no kernel for Conv(99)")
    assert sessions.resolve_providers("auto")[0] == CUDA
    with pytest.raises(ModelError, match=r"cannot load .*m\.onnx: no kernel for Conv"):
        sessions.make_session(conv(tmp_path / "m.onnx", 4), providers="cuda")
