"""The adapters that come with evonnx, held to the contract that everybody's are (the command adapter has its
own file), and the contract's own power: adapters that cheat must fail it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graph_builder import Builder

from evonnx.adapter import Progress, RetrainRequest, RetrainResult, TrainingBudget, check_result
from evonnx.errors import AdapterError
from evonnx.onnx_io import initializer_arrays, load_model
from evonnx.task import Loss
from evonnx.testing import AdapterContract, TinyTask, ToyAdapter, tiny_classifier
from evonnx.testing.models import save


class TestToyAdapter(AdapterContract):
    @pytest.fixture
    def adapter(self):
        return ToyAdapter()


class TestTorchAdapter(AdapterContract):
    @pytest.fixture
    def adapter(self):
        pytest.importorskip("torch")
        from evonnx_torch import TorchAdapter

        return TorchAdapter()


class TestJaxAdapter(AdapterContract):
    @pytest.fixture
    def adapter(self, compiled_once):
        pytest.importorskip("optax")
        from evonnx_jax import JaxAdapter

        return JaxAdapter()


class Cheat(ToyAdapter):
    """A toy adapter whose result is tampered with."""

    def __init__(self, tamper: Callable[[RetrainRequest, RetrainResult], RetrainResult]) -> None:
        self.tamper = tamper

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        return self.tamper(request, super().retrain(request))


def _changed(name, array):
    return lambda request, result: RetrainResult({**result.weights, name: array}, result.history)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_changed("nobody", np.zeros(3, np.float32)), "which the model does not have"),
        (_changed("fc2.bias", np.zeros(4, np.float32)), r"float32\[4\]"),
        (_changed("fc2.bias", np.zeros(3, np.float64)), r"float64\[3\]"),
        (_changed("fc2.bias", np.full(3, np.nan, np.float32)), "NaN or infinite"),
        (_changed("fc2.weight", np.ones((3, 12), np.float32)), "must stay dead"),
    ],
    ids=["unknown", "shape", "dtype", "nan", "dead"],
)
def test_a_broken_result_is_an_error(tmp_path, tamper, message):
    path = save(tiny_classifier(), tmp_path / "model.onnx")
    arrays = initializer_arrays(load_model(path))
    masks = {"fc2.weight": np.arange(36).reshape(3, 12) % 2 == 0}
    request = RetrainRequest(path, masks, TinyTask(), TrainingBudget(), seed=0)
    check_result(arrays, masks, ToyAdapter().retrain(request), "toy")
    with pytest.raises(AdapterError, match=message):
        check_result(arrays, masks, Cheat(tamper).retrain(request), "cheat")


def _forgetful(request, result):
    return RetrainResult(result.weights, ())


def _noisy(request, result):
    noise = np.random.default_rng().normal(0, 1e-3, 3).astype(np.float32)
    return RetrainResult({**result.weights, "fc2.bias": noise}, result.history)


def _eager(request, result):
    return RetrainResult({"fc2.bias": np.ones(3, np.float32)}, result.history)


def _vandal(request, result):
    request.model.write_bytes(b"gone")
    return result


def _idle(request, result):
    return RetrainResult({}, result.history)


@pytest.mark.parametrize(
    ("tamper", "test"),
    [
        (_forgetful, "test_returns_what_the_contract_asks_for"),
        (_idle, "test_returns_what_the_contract_asks_for"),
        (_noisy, "test_equal_seeds_give_equal_weights"),
        (_eager, "test_no_epochs_change_nothing"),
        (_vandal, "test_leaves_the_file_alone"),
    ],
)
def test_the_contract_catches(tmp_path, tamper, test):
    suite = AdapterContract()
    rng = np.random.default_rng(7)
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in tiny_classifier().graph.initializer}
    masks = {"fc2.weight": rng.random(arrays["fc2.weight"].shape) < 0.5}
    proto = tiny_classifier()
    for one in proto.graph.initializer:
        if one.name in masks:
            one.CopyFrom(onnx.numpy_helper.from_array(arrays[one.name] * masks[one.name], one.name))
    folder = tmp_path / "given"
    folder.mkdir()
    model = save(proto, folder / "model.onnx")

    def request_for(epochs=1, seed=0, **changes):
        fields = {"model": model, "masks": masks, "task": TinyTask(), "budget": TrainingBudget(epochs=epochs)}
        return RetrainRequest(**{**fields, "seed": seed, **changes})

    extra = {
        "test_returns_what_the_contract_asks_for": {"model": model, "masks": masks},
        "test_no_epochs_change_nothing": {"model": model},
        "test_leaves_the_file_alone": {"model": model},
    }.get(test, {})
    getattr(suite, test)(adapter=ToyAdapter(), request_for=request_for, **extra)
    with pytest.raises((AssertionError, OSError)):
        getattr(suite, test)(adapter=Cheat(tamper), request_for=request_for, **extra)


def _softmax_after_matmul():
    b = Builder(["N", 1, 8, 8])
    y = b.node("MatMul", b.node("Flatten", "x"), b.constant(b.values(64, 3)))
    b.output(b.node("Softmax", b.node("Add", y, b.constant(b.values(3))), axis=1), ["N", 3], "y")
    return b.model()


class _Renamed(TinyTask):
    """The same data under another input and output name."""

    def __init__(self, kind: str) -> None:
        super().__init__(loss=Loss(kind, None))

    def batches(self, split, batch_size, rng=None):
        for batch in super().batches(split, batch_size, rng):
            yield type(batch)({"x": batch.inputs["images"]}, batch.targets, batch.size)


@pytest.mark.parametrize("kind", ["cross_entropy", "distillation"])
def test_toy_adapter_knows_probabilities(tmp_path, kind):
    path = save(_softmax_after_matmul(), tmp_path / "model.onnx")
    news: list[Progress] = []
    result = ToyAdapter().retrain(
        RetrainRequest(path, {}, _Renamed(kind), TrainingBudget(epochs=4), 0, path, news.append)
    )
    losses = [record.loss for record in result.history]
    if kind == "distillation":  # it is its own teacher: nothing to learn
        assert losses[-1] == pytest.approx(losses[0], rel=0.05)
    else:
        assert losses[-1] < 0.8 * losses[0]


def _sigmoid_after_gemm():
    b = Builder(["N", 1, 8, 8])
    b.output(b.node("Sigmoid", b.gemm(b.node("Flatten", "x"), 64, 3)), ["N", 3], "y")
    return b.model()


def _no_layer():
    b = Builder(["N", 1, 8, 8])
    b.output(b.node("Identity", b.node("Identity", "x")), ["N", 1, 8, 8], "y")
    return b.model()


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (_sigmoid_after_gemm, "cross_entropy", "comes from Sigmoid"),
        (_no_layer, "cross_entropy", "comes from no Gemm or MatMul"),
        (_softmax_after_matmul, "distillation", "names none"),
        (_softmax_after_matmul, "mse", "no loss 'mse'"),
    ],
)
def test_toy_adapter_refuses_what_it_cannot_train(tmp_path, build, kind, message):
    path = save(build(), tmp_path / "model.onnx")
    with pytest.raises(AdapterError, match=message):
        ToyAdapter().retrain(RetrainRequest(path, {}, _Renamed(kind), TrainingBudget(), 0))
