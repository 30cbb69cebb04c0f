"""Every operator form that the JAX adapter claims, one node at a time, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from torch_cases import CASES, Case, case, model_of, normal
from torch_support import reference

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from evonnx.errors import AdapterError  # noqa: E402
from evonnx.onnx_io.versions import newest_supported  # noqa: E402
from evonnx_jax.module import OnnxFunction  # noqa: E402
from evonnx_jax.ops import Context  # noqa: E402
from evonnx_jax.program import SUPPORTED  # noqa: E402

OTHERS = {
    *("Attention", "Col2Im", "GRU", "GridSample", "LSTM", "MaxUnpool", "RNN"),
    *("RoiAlign", "RotaryEmbedding"),
}
"""Operators that the torch adapter runs and this one refuses."""
REFUSED = ("cubic", "tf_crop_and_resize", "keep_aspect_ratio_policy")
"""Forms of Resize."""
STEPPED = {
    *("ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual"),
    *("IsInf", "IsNaN", "Less", "LessOrEqual", "Round", "Shape", "Sign", "Size"),
}


HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""What is run once need not run fast."""


def is_covered(one: Case) -> bool:
    texts = (str(value) for value in (*one.attributes, *one.attributes.values()))
    asks_places = one.op == "MaxPool" and one.outputs > 1
    is_integer_data = one.op == "DequantizeLinear" and bool(one.data)
    return one.op in SUPPORTED and not asks_places and not is_integer_data and not set(REFUSED) & set(texts)


def run(one: Case, training: bool = False):
    """Outputs by name, and the gradient of a weighted sum of them with respect to the first input."""
    function = OnnxFunction(ir.from_proto(model_of(one)))
    feed = {f"x{i}": array for i, array in enumerate(one.data)}
    smooth = bool(one.data) and one.data[0].dtype == np.float32 and one.op not in STEPPED

    def weighted(first, rest):
        inputs = rest if first is None else {"x0": first, **rest}
        context = Context(training, frozen=True, key=jax.random.PRNGKey(0))
        outputs, _ = function(function.variables({}), inputs, function.graph.outputs, context)
        total = jnp.zeros(())
        for y in outputs.values():
            if jnp.issubdtype(y.dtype, jnp.floating):
                total = total + (y * np.random.default_rng(0).normal(size=y.shape).astype(np.float32)).sum()
        return total, outputs

    if not smooth:
        return jax.jit(lambda rest: weighted(None, rest)[1], compiler_options=HASTY)(feed), None
    first = feed.pop("x0")
    gradient, outputs = jax.jit(jax.grad(weighted, has_aux=True), compiler_options=HASTY)(first, feed)
    return outputs, gradient


def test_what_is_refused_is_known() -> None:
    assert {one.op for one in CASES} - SUPPORTED == OTHERS


@pytest.mark.parametrize("one", [one for one in CASES if is_covered(one)], ids=lambda one: one.label)
def test_operator_agrees_with_onnxruntime_and_passes_gradients(one: Case) -> None:
    model = model_of(one)
    if model.opset_import[0].version > newest_supported()[0]:
        pytest.skip("this onnxruntime does not load the opset")
    want = reference(model, {f"x{i}": array for i, array in enumerate(one.data)})
    got, gradient = run(one)
    for name, array in want.items():
        mine = np.asarray(got[name])
        assert mine.shape == array.shape
        np.testing.assert_allclose(mine, array, rtol=1e-4, atol=1e-5)
    if gradient is not None and gradient.size:
        assert np.isfinite(gradient).all()
        assert np.any(np.asarray(gradient) != 0) or not sum(array.size for array in want.values())


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
    _, gradient = run(one)
    assert np.isfinite(gradient).all()


def test_dropout_draws_in_training_alone() -> None:
    one = case("Dropout", np.ones((40, 50), np.float32), opset=8, ratio=0.25)
    kept = np.asarray(run(one)[0]["y0"])
    assert (kept == 1).all()
    drawn = np.asarray(run(one, training=True)[0]["y0"])
    assert set(np.unique(drawn)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (drawn == 0).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (case("Hardmax", normal(2, 3)), "operator Hardmax"),
        (case("Reshape", (normal(6), np.array([2, 3]))), "depends on the data"),
        (case("NonZero", normal(2, 3)), "only run on constants"),
        (case("MaxPool", normal(1, 1, 4, 4), kernel_shape=[2, 2], outputs=2), "optional output"),
        (case("Resize", normal(1, 1, 4, 4), None, np.ones(4, np.float32) * 2, mode="cubic"), "cubic"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.op,
)
def test_what_cannot_be_run_is_refused_with_the_node_and_what_to_do(one: Case, reason: str) -> None:
    with pytest.raises(AdapterError, match=reason) as caught:
        run(one)
    assert "the_node" in str(caught.value)
    assert "--adapter" in str(caught.value)
