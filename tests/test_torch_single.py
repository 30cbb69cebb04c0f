"""Normalisations of one value: the last batch of an epoch may be one example. PyTorch refuses what the
standard defines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_support import CommandLine
from graph_builder import Builder
from torch_cases import Case, case, model_of, normal
from torch_support import BUDGET, labelled, module_of, reference, run, write

torch = pytest.importorskip("torch")

from evonnx.run_store import read_json  # noqa: E402

TASK = '[task]\nkind = "classification"\ntrain = "data.npz"\nvalidation = "data.npz"\ntest = "data.npz"\n'
NORM = (normal(6), normal(6))
SINGLE = [
    case(
        "BatchNormalization",
        normal(1, 6),
        *NORM,
        normal(6),
        np.ones(6, np.float32),
        training_mode=1,
        outputs=3,
    ),
    case(
        "BatchNormalization",
        normal(1, 6, 1, 1),
        *NORM,
        normal(6),
        np.ones(6, np.float32),
        training_mode=1,
        outputs=3,
    ),
    case("InstanceNormalization", normal(2, 6, 1, 1), *NORM),
    case("GroupNormalization", normal(1, 6, 1), *NORM, opset=21, num_groups=6),
]


@pytest.mark.parametrize("one", SINGLE, ids=lambda one: f"{one.op} {one.data[0].shape}")
def test_one_value_gives_what_the_standard_says(one: Case) -> None:
    model = model_of(one)
    del model.graph.output[1:]  # running statistics, which the adapter does not put out
    feed = {"x0": one.data[0]}
    (want,) = reference(model, feed).values()
    module = module_of(model)
    for training in (False, True):
        module.train(training)
        given = module.tensors(feed)
        given["x0"].requires_grad_()
        (got,) = module(given).values()
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-4, atol=1e-5)
        got.sum().backward()
        assert not given["x0"].grad.any(), "nothing that goes in changes it"


def _normed(training: bool) -> onnx.ModelProto:
    """x of (N, 8), a layer with a norm over the examples alone, and a head."""
    b = Builder(["N", 8])
    y = b.gemm("x", 8, 16)
    if training:
        ones, zeros = (b.constant(np.full(16, value, np.float32)) for value in (1, 0))
        y = b.node("BatchNormalization", y, ones, zeros, zeros, ones, outputs=3, training_mode=1)
    else:
        y = b.batch_norm(y, 16)
    b.output(b.gemm(b.node("Relu", y), 16, 3), ["N", 3], "scores")
    return b.model()


@pytest.mark.parametrize("training", [False, True])
def test_a_run_whose_last_batch_is_one_example_goes_through(
    training: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """65 examples in batches of 32: the statistics of the others are kept for the last."""
    write(_normed(training), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(65, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=x[:, :3].argmax(1))
    (tmp_path / "m.toml").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    words = "evolve m.onnx --out run --gens 1 --keep 0.8 --align 1 --screen 1 --epochs 2 --recovery-epochs 0"
    more = "--batch-size 32 --max-drop 1 --threads 1 --provider cpu"
    shown = CommandLine(capsys)(*words.split(), *more.split())
    assert shown.code == 0, shown.err
    history = read_json(tmp_path / "run" / "gen-01" / "metrics.json")["training"]["history"]
    assert len(history) == 2, "trained, and not left as it was"


def test_a_norm_that_was_put_back_takes_a_single_example(tmp_path: Path) -> None:
    b = Builder(["N", 8, 1, 1])
    y = b.node("Relu", b.conv("x", 8, 16, 1))
    y = b.gemm(b.node("Flatten", b.conv(y, 16, 16, 1)), 16, 3)
    b.output(y, ["N", 3], "scores")
    model = b.model()
    task = labelled(model, 65, classes=3)
    budget = replace(BUDGET, epochs=2, batch_size=32)
    result = run(write(model, tmp_path / "m.onnx"), task, budget, options={"renormalize": "on"})
    assert len(result.history) == 2
    assert all(np.isfinite(array).all() for array in result.weights.values())
