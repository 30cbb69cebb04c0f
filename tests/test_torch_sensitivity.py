"""Gradients that the torch adapter measures, against closed forms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from onnx import numpy_helper
from torch_support import BUDGET, ArrayTask, reference, write

pytest.importorskip("torch")

from evonnx.adapter import RetrainRequest
from evonnx.errors import AdapterError
from evonnx.task import Loss
from evonnx_torch import TorchAdapter


def array_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    [array] = [numpy_helper.to_array(one) for one in model.graph.initializer if one.name == name]
    return array


def matrices(model: onnx.ModelProto) -> list[str]:
    return [one.name for one in model.graph.initializer if len(one.dims) == 2]


def measured(folder, model, task, name, budget=BUDGET):
    masks = {name: np.ones(array_of(model, name).shape, dtype=np.bool_)}
    request = RetrainRequest(
        model=write(model, folder / "model.onnx"), masks=masks, task=task, budget=budget, seed=0
    )
    return TorchAdapter().sensitivities(request)[name]


def test_sensitivities_are_the_fisher_information_times_squared_weights(tmp_path):
    """A linear softmax classifier has it in closed form: w^2 E[x^2 p (1 - p)] / T^2, over the batch size."""
    rng = np.random.default_rng(3)
    b = Builder(["N", 6])
    b.output(b.gemm("x", 6, 4), ["N", 4], "y")
    model = b.model()
    images = rng.normal(size=(4096, 6)).astype(np.float32)
    task = ArrayTask({"x": images}, rng.integers(0, 4, 4096))
    [name] = matrices(model)
    weight = array_of(model, name)
    logits = reference(model, {"x": images})["y"] / 4.0
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    fisher = np.einsum("ni,nj->ij", images**2, p * (1 - p)) / len(images) / 4.0**2
    squares = weight**2 if weight.shape == fisher.shape else weight.T**2
    found = measured(tmp_path, model, task, name)
    found = found if weight.shape == fisher.shape else found.T
    np.testing.assert_allclose(found / (squares * fisher / 32), 1, atol=0.8)
    assert np.mean(found / (squares * fisher / 32)) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("ending", ["Sigmoid", "Identity"])
def test_sensitivities_follow_the_kind_of_output(ending, tmp_path):
    """A weight that no answer depends on has none; the others have."""
    b = Builder(["N", 6])
    hidden = b.node("Relu", b.gemm("x", 6, 5))
    b.output(b.node(ending, b.gemm(hidden, 5, 2)), ["N", 2], "y")
    model = b.model()
    names = matrices(model)
    arrays = {one.name: numpy_helper.to_array(one).copy() for one in model.graph.initializer}
    columns = arrays[names[1]]
    dead = columns[0] if columns.shape[0] == 5 else columns[:, 0]
    dead[...] = 0  # what the first hidden unit says is not listened to
    for one in model.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(arrays[one.name], one.name))
    images = np.random.default_rng(0).normal(size=(256, 6)).astype(np.float32)
    task = ArrayTask({"x": images}, None, Loss("distillation"))
    first = measured(tmp_path, model, task, names[0])
    first = first if first.shape[0] == 5 else first.T
    assert not first[0].any()
    assert (first[1:] > 0).mean() > 0.9


def test_a_task_without_examples_is_an_error(tmp_path):
    b = Builder(["N", 6])
    b.output(b.gemm("x", 6, 4), ["N", 4], "y")
    model = b.model()
    task = ArrayTask({"x": np.zeros((0, 6), np.float32)}, None, Loss("distillation"))
    with pytest.raises(AdapterError, match="no training examples"):
        measured(tmp_path, model, task, matrices(model)[0])
