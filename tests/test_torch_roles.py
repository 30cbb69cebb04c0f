"""Which constants of a graph the torch adapter trains, and how gradients reach them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from torch_support import ArrayTask, module_of

torch = pytest.importorskip("torch")

from evonnx.adapter import RetrainRequest, TrainingBudget  # noqa: E402
from evonnx.task import Loss  # noqa: E402
from evonnx_torch import TorchAdapter  # noqa: E402


def ids_input(b: Builder) -> str:
    """An integer input [2, 3]."""
    b.inputs.append(onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [2, 3]))
    return "ids"


def embedded(b: Builder) -> str:
    table = b.constant(b.values(9, 4), "trained.table")
    return b.node("Gather", table, b.node("Unsqueeze", ids_input(b), b.ints(-1)))


def positions(b: Builder) -> str:
    """A table looked up at positions counted from the input's length is a prior, not a weight."""
    length = b.node("Gather", b.node("Shape", "x"), b.constant(np.array(0)))
    counted = b.node("Range", b.constant(np.array(0)), length, b.constant(np.array(1)))
    return b.node("Add", "x", b.node("Gather", b.constant(b.values(9, 4), "table"), counted))


def rotary(b: Builder) -> str:
    """Frequencies times positions give angles."""
    wide = b.node("Unsqueeze", b.node("Cast", ids_input(b), to=onnx.TensorProto.FLOAT), b.ints(1))
    angles = b.node("MatMul", b.constant(b.values(1, 4, 1), "frequencies"), wide)
    scaled = b.node("Mul", angles, b.constant(b.values(4, 1), "more"))
    return b.node("Cos", scaled)


def per_channel(b: Builder) -> str:
    y = b.node("Mul", b.node("Tanh", "x"), b.constant(b.values(4), "trained.scale"))
    return b.node("Add", y, b.constant(b.values(1, 4), "trained.shift"))


def strides(b: Builder) -> str:
    """Whole numbers that differ: strides of a detector's scales."""
    return b.node("Mul", b.node("Tanh", "x"), b.constant(np.array([8, 8, 16, 32], np.float32), "strides"))


def first_scale(b: Builder) -> str:
    """Ones all alike: a scale as it starts out."""
    return b.node("Mul", b.node("Tanh", "x"), b.constant(np.ones(4, np.float32), "trained.ones"))


def contracted(b: Builder) -> str:
    return b.node("Einsum", "x", b.constant(b.values(4, 5), "trained.w"), equation="ij,jk->ik")


def fake_quantised(b: Builder) -> str:
    """A float weight quantised in the graph, as quantisation-aware training leaves it."""
    scale, zero = b.constant(np.float32(0.25), "scale"), b.constant(np.int8(0), "zero")
    q = b.node("QuantizeLinear", b.constant(b.values(4, 5), "trained.w"), scale, zero)
    return b.node("MatMul", "x", b.node("DequantizeLinear", q, scale, zero))


@pytest.mark.parametrize(
    "make",
    [embedded, positions, rotary, per_channel, strides, first_scale, contracted, fake_quantised],
    ids=lambda make: make.__name__,
)
def test_trained_is_what_acts_on_activations(make: Callable[[Builder], str]) -> None:
    b = Builder([3, 4])
    y = make(b)
    b.output(y, [None] * {"rotary": 3, "embedded": 4}.get(make.__name__, 2), "y")
    module = module_of(b.model())
    named = [tensor.name for tensor in b.initializers if tensor.name.startswith("trained.")]
    assert sorted(module.weights) == sorted(named)
    feed = {"x": torch.randn(3, 4)}
    if len(b.inputs) > 1:
        feed["ids"] = torch.tensor([[1, 2, 3], [1, 5, 8]])
    module.train()
    y = module(feed)["y"]
    if named:
        (y * torch.randn(y.shape)).sum().backward()
    for name in named:
        assert torch.isfinite(module.weights[name].grad).all()
        assert module.weights[name].grad.any()


def test_a_quantised_weight_has_the_gradient_of_its_value_inside_the_range() -> None:
    b = Builder([3, 2])
    weight = np.array([[0.3, 40.0], [-0.9, 0.1]], np.float32)  # 40 is beyond 127 * 0.25
    scale, zero = b.constant(np.float32(0.25)), b.constant(np.int8(0))
    q = b.node("QuantizeLinear", b.constant(weight, "w"), scale, zero)
    b.output(b.node("MatMul", "x", b.node("DequantizeLinear", q, scale, zero)), [3, 2], "y")
    module = module_of(b.model())
    x = torch.randn(3, 2)
    module({"x": x})["y"].sum().backward()
    inside = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert torch.allclose(module.weights["w"].grad, x.sum(0)[:, None] * inside, atol=1e-6)


def test_weights_stored_as_integers_stay_and_the_user_is_told(tmp_path: Path) -> None:
    b = Builder([2, 4])
    w = b.constant(b.rng.integers(-9, 9, (4, 3)).astype(np.int8), "w")
    b.output(b.node("MatMul", "x", b.node("DequantizeLinear", w, b.constant(np.float32(0.1)))), [2, 3], "y")
    path = tmp_path / "m.onnx"
    onnx.save(b.model(), path)
    task = ArrayTask({"x": np.ones((4, 4), np.float32)}, None, Loss("distillation"))
    budget = TrainingBudget(epochs=1, threads=1)
    result = TorchAdapter().retrain(RetrainRequest(path, {}, task, budget, 0, ancestor=path))
    assert not result.weights
    assert any("DequantizeLinear" in note for note in result.notes)
