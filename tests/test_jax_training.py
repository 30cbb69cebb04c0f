"""Retraining with the JAX adapter: losses, norms, rollback, rates, and what it says where it cannot."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import GRAPHS
from torch_support import BUDGET, ArrayTask, deep_residual, labelled, with_arrays, write

jax = pytest.importorskip("jax")
pytest.importorskip("optax")

from evonnx.adapter import RetrainRequest, TrainingBudget, check_result  # noqa: E402
from evonnx.errors import AdapterError  # noqa: E402
from evonnx.evolution import EvolveOptions, Pressure, Retraining, Selection, evolve  # noqa: E402
from evonnx.onnx_io import initializer_arrays, load_model  # noqa: E402
from evonnx.task import Loss, Target, Term  # noqa: E402
from evonnx_jax import JaxAdapter, runtime  # noqa: E402
from evonnx_jax.module import OnnxFunction  # noqa: E402
from evonnx_jax.ops import Context  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiled_once")


def run(path: Path, task, budget: TrainingBudget = BUDGET, **fields):
    seed, masks = fields.pop("seed", 0), fields.pop("masks", {})
    return JaxAdapter().retrain(RetrainRequest(path, masks, task, budget, seed, **fields))


def test_batch_statistics_are_normalised_by_and_tracked() -> None:
    """One step of tracking moves running statistics by the momentum towards the batch's own (unbiased)."""
    function = OnnxFunction(ir.from_proto(GRAPHS["conv_bn"]()))
    norm = next(node for node in function.graph.nodes if node.op_type == "BatchNormalization")
    variables = function.variables({})
    name = function.graph.inputs[0].name
    shape = [d or 8 for d in function.graph.inputs[0].dims]
    inputs = {name: np.random.default_rng(0).normal(2, 3, (8, *shape[1:])).astype(np.float32)}
    found, moved = function(variables, inputs, (norm.inputs[0], norm.outputs[0]), Context(training=True))
    x, y = (np.asarray(found[tap]) for tap in (norm.inputs[0], norm.outputs[0]))
    scale, shift, mean, variance = norm.inputs[1:]
    means, biased = x.mean((0, 2, 3)), x.var((0, 2, 3))
    count = x.size / x.shape[1]
    normal = (x - means[:, None, None]) / np.sqrt(biased + 1e-5)[:, None, None]
    want = (
        normal * variables.weights[scale][:, None, None] + np.asarray(variables.weights[shift])[:, None, None]
    )
    np.testing.assert_allclose(y, want, rtol=1e-3, atol=1e-4)
    for which, batch in ((mean, means), (variance, biased * count / (count - 1))):
        np.testing.assert_allclose(
            moved[which], 0.9 * variables.statistics[which] + 0.1 * batch, rtol=1e-4, atol=1e-5
        )
    _, kept = function(variables, inputs, function.graph.outputs, Context(training=True, frozen=True))
    assert all(np.array_equal(kept[name], variables.statistics[name]) for name in kept)


def test_a_network_with_norms_learns_and_its_statistics_are_those_of_its_weights(tmp_path: Path) -> None:
    model = deep_residual(blocks=1)
    path, task = write(model, tmp_path / "m.onnx"), labelled(model, classes=10)
    arrays = initializer_arrays(load_model(path))
    masks = {
        name: np.random.default_rng(0).random(a.shape) < 0.8 for name, a in arrays.items() if a.ndim == 4
    }
    budget = replace(BUDGET, epochs=3, learning_rate=0.05, ema_decay=0.9)
    result = run(path, task, budget, masks=masks)
    check_result(arrays, masks, result, "jax")
    assert result.history[-1].loss < result.history[0].loss
    function = OnnxFunction(load_model(write(with_arrays(model, result.weights), tmp_path / "after.onnx")))
    norm = next(node for node in function.graph.nodes if node.op_type == "BatchNormalization")
    found, _ = function(function.variables({}), task.inputs, (norm.inputs[0],), Context())
    own = np.asarray(found[norm.inputs[0]]).mean((0, 2, 3))
    np.testing.assert_allclose(result.weights[norm.inputs[3]], own, atol=1e-3)


def test_a_model_for_one_example_at_a_time_learns_from_batches(tmp_path: Path) -> None:
    model = GRAPHS["lenet_reshape"]()
    one = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert one[0] == 1
    result = run(
        write(model, tmp_path / "m.onnx"),
        labelled(model, classes=5),
        replace(BUDGET, epochs=4, learning_rate=0.05),
    )
    assert result.history[-1].loss < result.history[0].loss


def test_losses_of_several_terms_and_values_are_learnt(tmp_path: Path) -> None:
    model = GRAPHS["two_outputs"]()
    path, rng = write(model, tmp_path / "m.onnx"), np.random.default_rng(0)
    function = OnnxFunction(load_model(path))
    inputs = {
        value.name: rng.normal(size=(64, *[d or 8 for d in value.dims[1:]])).astype(np.float32)
        for value in function.graph.inputs
    }
    outputs, _ = function(function.variables({}), inputs, function.graph.outputs, Context())
    terms = tuple(Term(name, kind) for name, kind in zip(function.graph.outputs, ("mse", "l1"), strict=False))

    class Dense(ArrayTask):
        def batches(self, split, batch_size, rng=None):
            for batch in super().batches(split, batch_size, rng):
                targets = {
                    term.output: Target(np.zeros((batch.size, *outputs[term.output].shape[1:]), np.float32))
                    for term in terms
                }
                yield replace(batch, targets=targets)

    result = run(path, Dense(inputs, None, Loss("terms", terms=terms)), replace(BUDGET, epochs=3))
    assert result.history[-1].loss < result.history[0].loss


def test_divergence_is_undone_and_retried_more_gently(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    path = write(model, tmp_path / "m.onnx")
    hot = replace(BUDGET, epochs=2, learning_rate=300.0, clip_norm=0.0, warmup=0.0, schedule="constant")
    result = run(path, labelled(model, count=256, classes=5), hot)
    assert result.faults[0].kind == "divergence"
    assert "undone and retried at learning rate 90" in [fault.action for fault in result.faults]
    check_result(initializer_arrays(load_model(path)), {}, result, "jax")


def test_a_retraining_that_only_harms_is_undone(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    path = write(model, tmp_path / "m.onnx")
    arrays = initializer_arrays(load_model(path))
    task = labelled(model, classes=5)
    taught = ArrayTask(task.inputs, None, Loss("distillation"))
    decaying = replace(BUDGET, learning_rate=1.0, schedule="constant", weight_decay=0.9)
    result = run(path, taught, decaying, ancestor=path)
    assert [fault.kind for fault in result.faults] == ["no help"] * 2
    assert all(np.array_equal(array, arrays[name]) for name, array in result.weights.items())


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    path, task = write(model, tmp_path / "m.onnx"), labelled(model, classes=5)
    with pytest.raises(AdapterError, match="A label is 5, but output 'y' has 5 classes"):
        run(path, ArrayTask(task.inputs, np.full(64, 5)))
    with pytest.raises(AdapterError, match="no option 'device'"):
        run(path, task, options={"device": "cpu"})
    with pytest.raises(AdapterError, match="Unknown optimizer 'lion'; there are: sgd, adam"):
        run(path, task, replace(BUDGET, optimizer="lion"))
    arrays = initializer_arrays(load_model(path))
    spoilt = {name: np.full_like(array, np.nan) for name, array in arrays.items() if array.ndim == 2}
    with pytest.raises(AdapterError, match="not finite before the first training step"):
        run(write(with_arrays(model, spoilt), tmp_path / "spoilt.onnx"), task)


def test_other_threads_than_those_it_runs_with_are_told() -> None:
    first = runtime.start(1)
    assert first == [] or "keeps those" in first[0]
    (running,) = runtime._started
    assert runtime.start(running) == []
    assert "keeps those" in runtime.start(7)[0]


@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_without_jax_it_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from pathlib import Path; from evonnx.adapter import RetrainRequest, TrainingBudget\n"
        "from evonnx.errors import AdapterError; from evonnx_jax import JaxAdapter\n"
        "try:\n    JaxAdapter().retrain(RetrainRequest(Path('m'), {}, None, TrainingBudget(), 0))\n"
        "except AdapterError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'evonnx[jax]'" in done.stdout


def test_neither_framework_is_loaded_by_the_other() -> None:
    code = (
        "import sys, evonnx_jax.retraining; assert 'torch' not in sys.modules\n"
        "import evonnx_training.settings, evonnx_training.requests, evonnx_training.watching"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_digits_come_out_as_with_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    digits = Path(__file__).resolve().parent.parent / "samples" / "digits" / "lenet5.onnx"
    rows = {}
    for adapter in ("evonnx_jax:JaxAdapter", "evonnx_torch:TorchAdapter"):
        options = EvolveOptions(
            threads=1,
            pressure=Pressure(keep=0.6),
            selection=Selection(screen=4),
            retraining=Retraining(adapter=adapter, recovery_epochs=2),
        )
        run = evolve(digits, None, tmp_path / adapter[:10], options, generations=3)
        rows[adapter] = run.record["generations"][-1]
    jax_row, torch_row = rows.values()
    assert jax_row["synapses"] == pytest.approx(torch_row["synapses"], rel=0.1)
    # 360 images: two standard errors of a difference between scores of 98%.
    assert jax_row["score"] == pytest.approx(torch_row["score"], abs=0.02)
