"""Constants behind DequantizeLinear: what they stand for, how zero is stored, what is refused, masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from quantized import quantized

from evonnx.dependency import analyse
from evonnx.masking import apply_masks
from evonnx.masks import live_masks
from evonnx.network import Network, network_of
from evonnx.onnx_io import stored_parameters
from evonnx.resources import count

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
