"""Mixed precision and memory layout on the CPU: what they change, and what they must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import GRAPHS
from torch_support import BUDGET, digest, feed_for, labelled, module_of, run, with_arrays, write

torch = pytest.importorskip("torch")

from evonnx.adapter import check_result  # noqa: E402
from evonnx.onnx_io import initializer_arrays, load_model  # noqa: E402
from evonnx_torch import retraining  # noqa: E402
from evonnx_torch.feeding import chunks  # noqa: E402
from evonnx_torch.runtime import native_bfloat16, roomy_heap  # noqa: E402


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("flags\t: sse avx512_bf16 rdpid", True),
        ("flags\t: amx_bf16 amx_tile", True),
        ("flags\t: avx512f avx512bw", False),
        ("", False),
    ],
)
def test_what_the_processor_says(flags: str, native: bool, tmp_path: Path) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    (tmp_path / "cpuinfo").write_text(flags)
    assert native_bfloat16(tmp_path / "cpuinfo") == native


def test_without_cpuinfo_torch_is_asked(tmp_path: Path) -> None:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch does not say what the processor can do")
    found = torch.cpu.get_capabilities()
    want = bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    assert native_bfloat16(tmp_path / "missing") == want


def test_mixed_precision_trains_as_well_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GRAPHS["residual_bn"]()
    path = write(model, tmp_path / "m.onnx")
    task, budget = labelled(model, count=128), replace(BUDGET, epochs=6, learning_rate=0.05)
    monkeypatch.setattr(retraining, "native_bfloat16", lambda: True)
    plain = run(path, task, budget, ancestor=path, options={"precision": "fp32"})
    mixed = [run(path, task, budget, ancestor=path, options={"precision": "amp"}) for _ in range(2)]
    assert digest(mixed[0].weights) == digest(mixed[1].weights) != digest(plain.weights)
    check_result(initializer_arrays(load_model(path)), {}, mixed[0], "torch")
    assert mixed[0].history[-1].loss == pytest.approx(plain.history[-1].loss, rel=0.25)
    assert not mixed[0].notes


def test_mixed_precision_trains_every_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch 2.6 kept casts that were made without gradients: only norms were trained."""
    model = GRAPHS["residual_bn"]()
    path = write(model, tmp_path / "m.onnx")
    monkeypatch.setattr(retraining, "native_bfloat16", lambda: True)
    budget = replace(BUDGET, epochs=2, learning_rate=0.05)
    result = run(path, labelled(model, count=128), budget, options={"precision": "amp"})
    assert not result.faults
    before = initializer_arrays(load_model(path))
    layers = [name for name, array in before.items() if array.ndim > 1]
    assert len(layers) > 2
    assert not [name for name in layers if np.array_equal(result.weights[name], before[name])]


def test_small_networks_stay_in_float32_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GRAPHS["residual_bn"]()
    path = write(model, tmp_path / "m.onnx")
    task, budget = labelled(model, count=128), replace(BUDGET, epochs=3, learning_rate=0.05)
    monkeypatch.setattr(retraining, "native_bfloat16", lambda: True)
    plain = digest(run(path, task, budget, options={"precision": "fp32"}).weights)
    assert digest(run(path, task, budget).weights) == plain
    monkeypatch.setattr(retraining, "_WORTH_MIXING_ON_CPU", 1)
    assert digest(run(path, task, budget).weights) != plain


def test_a_processor_without_bfloat16_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GRAPHS["lenet"]()
    path = write(model, tmp_path / "m.onnx")
    task = labelled(model, classes=5)
    monkeypatch.setattr(retraining, "native_bfloat16", lambda: False)
    asked = run(path, task, options={"precision": "amp"})
    assert any("no bfloat16" in note for note in asked.notes)
    unasked = run(path, task)
    assert not unasked.notes
    assert digest(asked.weights) == digest(unasked.weights)


def test_what_takes_no_mix_of_types_is_trained_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def __enter__(self) -> None:
            raise RuntimeError("expected Float but found BFloat16")

        def __exit__(self, *_: object) -> None: ...

    model = GRAPHS["lenet"]()
    path = write(model, tmp_path / "m.onnx")
    task = labelled(model, classes=5)
    plain = digest(run(path, task).weights)
    monkeypatch.setattr(retraining, "_autocast", lambda *_: Refusing)
    result = run(path, task)
    assert any("does not work for this model (expected Float" in note for note in result.notes)
    assert digest(result.weights) == plain


@pytest.mark.parametrize("name", ["lenet", "residual_bn", "concat_fire", "depthwise", "relayouts"])
def test_the_layout_in_memory_changes_no_gradient(name: str) -> None:
    model = GRAPHS[name]()
    inputs = feed_for(model, np.random.default_rng(0), free=6)
    gradients = []
    for channels_last in (False, True):
        module = module_of(model)
        if channels_last:
            module.use_channels_last()
        module.train()
        for output in module(module.tensors(inputs)).values():
            output.square().sum().backward(retain_graph=True)
        gradients.append({n: w.grad for n, w in module.weights.items() if w.grad is not None})
    for tensor in gradients[0]:
        torch.testing.assert_close(gradients[0][tensor], gradients[1][tensor], rtol=1e-3, atol=1e-3)
    module = module_of(model)
    module.use_channels_last()
    assert {n: a.tobytes() for n, a in module.arrays().items()} == {
        n: a.tobytes() for n, a in module_of(model).arrays().items()
    }


def test_one_channel_is_laid_out_as_many_are() -> None:
    """Torch tells layouts apart by strides; the first convolution of a grey-scale network sets them for the
    rest."""
    module = module_of(GRAPHS["lenet"]())
    module.use_channels_last()
    x = module.tensors({"x": np.zeros((2, 1, 12, 12), np.float32)})["x"]
    weights = [weight for weight in module.weights.values() if weight.ndim == 4]
    assert weights
    assert all(tensor.stride(1) == 1 for tensor in (x, *weights))


def test_averaged_weights_get_norm_statistics_of_their_own(tmp_path: Path) -> None:
    """With a moving average of the weights, running statistics belong to other weights until estimated
    anew."""
    model = GRAPHS["residual_bn"]()
    path = write(model, tmp_path / "m.onnx")
    task = labelled(model, count=96)
    budget = replace(BUDGET, epochs=3, ema_decay=0.9, schedule="one-cycle", learning_rate=0.1)
    result = run(path, task, budget)
    assert digest(result.weights) != digest(run(path, task, replace(budget, ema_decay=0.0)).weights)
    assert not result.notes
    module = module_of(with_arrays(model, result.weights))
    module.train()
    module.norm.cumulative = 0
    with torch.no_grad():
        for batch in task.batches("train", 32, np.random.default_rng([0, 0])):
            module(next(chunks(module, batch, None)).inputs)
            module.norm.cumulative += 1
    assert module.statistics
    for name, want in module.statistics.items():
        np.testing.assert_allclose(result.weights[name], want.numpy(), rtol=1e-4, atol=1e-5)


def test_a_roomy_heap_is_left_again() -> None:
    with roomy_heap():
        assert float(torch.ones(2**20).sum()) == 2**20
    with pytest.raises(ZeroDivisionError), roomy_heap():
        raise ZeroDivisionError
