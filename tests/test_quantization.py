"""Constants behind DequantizeLinear: what they stand for, how zero is stored, what is refused, masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from packaging.version import Version
from quantized import quantized

from evonnx.compaction import Compacted, apply_plan, plan_compaction
from evonnx.dependency import analyse
from evonnx.masking import apply_masks
from evonnx.masks import live_masks
from evonnx.network import Network, network_of
from evonnx.onnx_io import Detached, set_array, stored_parameters, to_bytes
from evonnx.proof import prove
from evonnx.proof.dequantizing import dequantized_copy, is_quantized
from evonnx.resources import count
from evonnx.sessions import make_session, run_session

KINDS = {  # weights' type, one scale per channel
    "int8 per channel": (np.int8, True),
    "int8 per tensor": (np.int8, False),
    "uint8 per channel": (np.uint8, True),
    "uint8 per tensor": (np.uint8, False),
}
NAMES = ("lenet", "residual_folded", "depthwise", "matmul_mlp", "gemm_trans_b")


def _network(name: str, kind: str) -> Network:
    dtype, per_channel = KINDS[kind]
    return network_of(ir.from_proto(quantized(GRAPHS[name](), dtype, per_channel)), name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_that_the_runtime_dequantises(name: str, kind: str) -> None:
    found, plain = _network(name, kind), network_of(ir.from_proto(GRAPHS[name]()), name)
    assert not found.unprunable
    assert set(found.weights) == {f"{name}_quantized" for name in plain.weights}
    for stored, weight in found.weights.items():
        original = stored.removesuffix("_quantized")
        quantization = weight.quantization
        assert quantization is not None
        assert found.array(stored).dtype == KINDS[kind][0]
        step = found.array(quantization.scale)
        assert (
            (step.size > 1) == (weight.scales_along == "outputs") == (KINDS[kind][1] and weight.outputs > 1)
        )
        values = found.values(stored)
        assert values.dtype == np.float32
        gap = np.abs(values - plain.values(original))
        assert np.all(gap <= 0.51 * quantization.spread(step, values.ndim))
        np.testing.assert_array_equal(weight.from_canonical(found.canonical(stored)), values)


def test_zero_is_stored_as_the_zero_point() -> None:
    found = _network("lenet", "uint8 per tensor")
    coupling = analyse(found)
    masks = {
        name: np.random.default_rng(0).random(mask.shape) < 0.5 for name, mask in live_masks(found).items()
    }
    masked = network_of(apply_masks(found, coupling, masks), "masked")
    for name, mask in live_masks(masked).items():
        zero = found.zero(name)
        assert zero.dtype == np.uint8
        assert zero.item() not in (0, 255)
        assert np.all(masked.array(name)[~mask] == zero)
        assert not np.any(mask & ~masks[name])
        np.testing.assert_array_equal(masked.canonical(name) != 0, masked.weights[name].to_canonical(mask))
    assert 0 < count(masked).synapses < count(found).synapses


def test_stored_integers_count_as_parameters() -> None:
    plain, found = GRAPHS["lenet"](), _network("lenet", "int8 per tensor")
    numbers = sum(int(np.prod(tensor.dims)) for tensor in plain.graph.initializer if tensor.data_type == 1)
    scales = sum(
        tensor.size
        for value in found.model.graph.initializers.values()
        if (tensor := value.const_value) is not None and tensor.dtype == ir.DataType.FLOAT
    )
    assert stored_parameters(found.model) == numbers + scales


def test_biases_are_dequantised_too() -> None:
    found = _network("lenet", "int8 per channel")
    bias = "conv1.bias_quantized"
    quantization = found.quantization(bias)
    assert quantization is not None
    assert quantization.axis == 0
    assert found.array(bias).dtype == np.int32
    np.testing.assert_allclose(
        found.values(bias), found.array(bias) * found.array(quantization.scale), rtol=1e-6
    )
    assert found.quantization("conv1.weight_scale") is None
    np.testing.assert_array_equal(found.values("conv1.weight_scale"), found.array("conv1.weight_scale"))


def _dequantized(make: Callable[[Builder, str], str]) -> Network:
    b = Builder([1, 3, 4, 4], opset=21, ir_version=10)
    stored = b.constant(b.rng.integers(-100, 100, size=(6, 3, 3, 3)).astype(np.int8), "stored")
    y = b.conv("x", 3, 6, weight=make(b, stored))
    b.output(b.conv(y, 6, 2, 1), [1, 2, 4, 4], "y")
    return network_of(ir.from_proto(b.model()), "refused")


def _scales(b: Builder, *shape: int) -> str:
    return b.constant(np.full(shape, 0.5, np.float32), b.fresh("scale"))


REFUSED: dict[str, tuple[Callable[[Builder, str], str], str]] = {
    "blocks": (
        lambda b, w: b.node("DequantizeLinear", w, _scales(b, 6, 3, 1, 3), axis=2, block_size=3),
        "quantised in blocks",
    ),
    "a relayout": (
        lambda b, w: b.node("Reshape", b.node("DequantizeLinear", w, _scales(b)), b.ints(6, 3, 3, 3)),
        "dequantised and then reshaped",
    ),
    "a scale computed at run time": (
        lambda b, w: b.node("DequantizeLinear", w, b.node("ReduceMean", "x", keepdims=0)),
        "scale or zero point is not a constant",
    ),
    "a plain cast": (lambda b, w: b.node("Cast", w, to=1), "stored as INT8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_ways_to_store_integers_are_refused(case: str) -> None:
    make, reason = REFUSED[case]
    found = _dequantized(make)
    assert list(found.weights) == ["conv2.weight"]
    assert [(item.name, reason in item.reason) for item in found.unprunable] == [("stored", True)]


def test_one_stored_weight_that_is_read_in_two_scales_is_left_alone() -> None:
    b = Builder([1, 4, 5, 5])
    stored = b.constant(b.rng.integers(-9, 9, size=(4, 4, 1, 1)).astype(np.int8), "stored")
    y = "x"
    for scale in (0.5, 0.25):
        weight = b.node("DequantizeLinear", stored, b.constant(np.float32(scale)))
        y = b.conv(y, 4, 4, 1, weight=weight)
    b.output(y, [1, 4, 5, 5], "y")
    found = network_of(ir.from_proto(b.model()), "two scales")
    assert not found.weights
    assert found.quantization("stored") is None


def test_a_weight_per_channel_can_be_cut_by_hand() -> None:
    """Scale and zero point follow their axis."""
    found = _network("matmul_mlp", "uint8 per channel")
    name, weight = next(iter(found.weights.items()))
    quantization = weight.quantization
    assert quantization is not None
    assert quantization.axis == weight.output_axis == 1
    kept = [0, 2, 3]
    cut = quantization.dequantize(
        found.array(name)[:, kept],
        found.array(quantization.scale)[kept],
        found.array(str(quantization.zero_point))[kept],
    )
    np.testing.assert_array_equal(cut, found.values(name)[:, kept])


def test_quantised_models_pass_the_checker() -> None:
    for kind in KINDS.values():
        onnx.checker.check_model(quantized(GRAPHS["residual_bn"](), *kind), full_check=True)


# ------------------------------------------------------------------------------------------ removal and proof


def _compacted(name: str, kind: str) -> tuple[Network, Compacted]:
    """A third of the free channels of a quantised graph dead, and gone."""
    found = _network(name, kind)
    coupling = analyse(found)
    dead = (np.random.default_rng(0).random(coupling.n_classes) < 0.35) & ~coupling.pinned()
    masks = {}
    for stored, weight in found.weights.items():
        mask = weight.to_canonical(found.live(stored)).copy()
        mask[dead[coupling.weights[stored].output]] = False
        masks[stored] = np.ascontiguousarray(weight.from_canonical(mask))
    masked = network_of(apply_masks(found, coupling, masks), name)
    return masked, apply_plan(masked, plan_compaction(masked, analyse(masked)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lenet", "residual_folded", "gemm_trans_b", "squeeze_excite"])
def test_quantised_channels_are_removed_and_proven(name: str, kind: str) -> None:
    masked, compacted = _compacted(name, kind)
    assert stored_parameters(compacted.model) < stored_parameters(masked.model)
    cut = {one.tensor for one in compacted.plan.cuts}
    assert any(name.endswith("weight_scale") for name in cut) == KINDS[kind][1]
    onnx.checker.check_model(onnx.load_from_string(to_bytes(compacted.model)), full_check=True)
    proof = prove(masked.model, compacted, threads=1)
    assert proof.passed, proof.reason
    assert "copy without quantisation" in proof.notes[0]
    if name != "gemm_trans_b" or Version(onnxruntime.__version__) >= Version("1.27"):
        assert (
            "differ by 0.0e+00" in proof.notes[-1]
        )  # older ones' transposed product of bytes is not that exact


@pytest.mark.parametrize("of", ["weight_scale", "weight_zero_point", "weight_quantized", "bias_quantized"])
def test_faults_in_quantised_cuts_are_caught(of: str) -> None:
    masked, compacted = _compacted("lenet", "uint8 per channel")
    plan = compacted.plan
    (cut,) = (cut for cut in plan.cuts if cut.tensor == f"gemm1.{of}")
    if of == "weight_zero_point":  # these are alike for symmetric weights: make one differ
        array = masked.array(cut.tensor).copy()
        array[cut.kept[0]] += 3
        set_array(masked.model, cut.tensor, array)
        assert prove(masked.model, apply_plan(masked, plan), threads=1).passed
    wrong = replace(cut, kept=np.roll(cut.kept, 1))
    planted = replace(plan, cuts=tuple(wrong if one is cut else one for one in plan.cuts))
    proof = prove(masked.model, apply_plan(masked, planted), threads=1)
    assert not proof.passed
    assert not proof.void


def test_the_copy_without_quantisation_computes_about_the_same() -> None:
    model = quantized(GRAPHS["residual_folded"](), np.uint8, True)
    copy = dequantized_copy(Detached(model)).proto
    assert is_quantized(model)
    assert not is_quantized(copy)
    assert {node.op_type for node in copy.graph.node}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
    names = [tensor.name for tensor in model.graph.initializer]
    assert [tensor.name for tensor in copy.graph.initializer][: len(names)] == names
    onnx.checker.check_model(copy, full_check=True)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    one, other = (
        run_session(make_session(m.SerializeToString(), threads=1), {"x": x})["y"] for m in (model, copy)
    )
    assert 0 < np.abs(one - other).max() < 0.05 * np.abs(one).max()


INTEGER_ARITHMETIC = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[1, 4] x) => (float[1, 4] y, uint8[1, 4] q) <float s = {0.5}, uint8 z = {7}> {
    a = QuantizeLinear(x, s, z) b = Reshape(a, shape) c = DequantizeLinear(b, s, z)
    q = QuantizeLinear(c, s, z) d = Add(a, a) e = Relu(c) f = QuantizeLinear(e, s, z)
    g = DequantizeLinear(f, s, z) y = Add(g, c) }"""


def test_integers_that_are_computed_with_stay() -> None:
    text = INTEGER_ARITHMETIC.replace("uint8 z = {7}", "uint8 z = {7}, int64[2] shape = {1, 4}")
    copy = dequantized_copy(Detached(onnx.parser.parse_model(text))).proto
    kinds = {node.output[0]: node.op_type for node in copy.graph.node}
    assert {name for name, kind in kinds.items() if kind == "Clip"} == {"q", "f"}
    assert kinds["g"] == "Identity"
    assert kinds["a"] == "QuantizeLinear"
    assert kinds["c"] == "DequantizeLinear"
    assert copy.graph.output[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
