"""Every operator form the torch adapter claims, one node at a time, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from torch_cases import CASES, NO_KEYS, Case, case, ints, model_of, normal
from torch_support import reference

torch = pytest.importorskip("torch")

from evonnx.errors import AdapterError  # noqa: E402
from evonnx.onnx_io.versions import newest_supported  # noqa: E402
from evonnx_torch.module import OnnxModule  # noqa: E402


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.label)
def test_operator_agrees_with_onnxruntime(one: Case) -> None:
    model = model_of(one)
    if model.opset_import[0].version > newest_supported()[0]:
        pytest.skip("this onnxruntime does not load the opset")
    feed = {f"x{i}": array for i, array in enumerate(one.data)}
    want = reference(model, feed)
    if one.note == NO_KEYS and want["y0"][..., 0, :].any():
        pytest.skip("this onnxruntime gives a query that may see no key the mean of all values, not zero")
    module = OnnxModule(ir.from_proto(model))
    for training in (False, True):
        if training and one.op in ("Dropout", "BatchNormalization"):
            continue
        module.train(training)
        with torch.no_grad():
            got = module(module.tensors(feed))
        for name, array in want.items():
            mine = got[name].numpy()
            assert mine.shape == array.shape
            np.testing.assert_allclose(mine, array, rtol=1e-4, atol=1e-5)


STEPPED = {
    *("ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual"),
    *("IsInf", "IsNaN", "Less", "LessOrEqual", "Round", "Shape", "Sign", "Size"),
}
SMOOTH = [
    one
    for one in CASES
    if one.data and one.data[0].dtype == np.float32 and one.op not in STEPPED and one.data[0].size
]


@pytest.mark.parametrize("one", SMOOTH, ids=lambda one: one.label)
def test_gradients_pass_through_every_differentiable_operator(one: Case) -> None:
    module = OnnxModule(ir.from_proto(model_of(one)))
    module.train()
    feed = module.tensors({f"x{i}": array for i, array in enumerate(one.data)})
    feed["x0"].requires_grad_()
    outputs = [y for y in module(feed).values() if y.is_floating_point()]
    torch.manual_seed(0)
    sum((y * torch.randn(y.shape)).sum() for y in outputs).backward()
    gradient = feed["x0"].grad
    assert torch.isfinite(gradient).all()
    assert gradient.any() or not sum(y.numel() for y in outputs)


@pytest.mark.parametrize(
    "one",
    [
        case("Sqrt", np.zeros((2, 3), np.float32)),
        case("Pow", np.zeros((2, 3), np.float32), np.float32(0.5)),
        case("ReduceL2", np.zeros((2, 3), np.float32), axes=[1]),
        case("LpNormalization", np.zeros((2, 3), np.float32)),
    ],
    ids=lambda one: one.op,
)
def test_a_dead_channel_has_a_finite_gradient(one: Case) -> None:
    module = OnnxModule(ir.from_proto(model_of(one)))
    module.train()
    x = torch.zeros(2, 3, requires_grad=True)
    next(iter(module({"x0": x}).values())).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (case("Hardmax", normal(2, 3)), "operator Hardmax"),
        (
            case(
                "LSTM",
                normal(5, 2, 3),
                normal(1, 16, 3),
                normal(1, 16, 4),
                None,
                ints(3, 5).astype(np.int32),
                hidden_size=4,
            ),
            "sequence_lens",
        ),
        (
            case(
                "LSTM",
                normal(5, 2, 3),
                normal(1, 16, 3),
                normal(1, 16, 4),
                None,
                None,
                normal(1, 3, 4),
                hidden_size=4,
            ),
            "initial state",
        ),
        (
            case(
                "GRU",
                normal(5, 2, 3),
                normal(1, 12, 2),
                normal(1, 12, 4),
                hidden_size=4,
                linear_before_reset=1,
            ),
            "fit together",
        ),
        (case("Reshape", (normal(6), ints(2, 3))), "depends on the data"),
        (
            case("MaxPool", normal(1, 1, 5, 5), kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2], outputs=2),
            "Indices",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else v.op,
)
def test_what_cannot_be_run_is_refused_with_the_node(one: Case, reason: str) -> None:
    def run() -> None:
        module = OnnxModule(ir.from_proto(model_of(one)))
        module(module.tensors({f"x{i}": array for i, array in enumerate(one.data)}))

    with pytest.raises(AdapterError, match=reason) as caught:
        run()
    assert "the_node" in str(caught.value)
