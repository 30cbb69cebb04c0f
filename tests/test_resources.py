"""Counts of synapses, kernels, filters, parameters, MACs and bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from hypothesis import given
from hypothesis import strategies as st
from strategies import small_models

from evonnx.dependency import analyse
from evonnx.masks import live_masks
from evonnx.network import Network, load_network, network_of
from evonnx.onnx_io import files as onnx_io
from evonnx.resources import LayerResources, Resources, count, count_masks, ratios


def network(name: str) -> Network:
    return network_of(ir.from_proto(GRAPHS[name]()), name)


def test_lenet_by_hand(graph_file):
    path = graph_file("lenet")
    assert count(load_network(path)) == Resources(
        synapses=100 + 216 + 540 + 50,
        kernels=4 + 24,
        filters=4 + 6 + 10 + 5,
        parameters=100 + 4 + 216 + 6 + 540 + 10 + 50 + 5,
        macs=100 * 144 + 216 * 36 + 540 + 50,
        bytes=path.stat().st_size,
        layers=(
            LayerResources("conv1.weight", "Conv", 100, 4, 4, 4, 14400),
            LayerResources("conv2.weight", "Conv", 216, 24, 6, 6, 7776),
            LayerResources("gemm1.weight", "Gemm", 540, 0, 10, 10, 540),
            LayerResources("gemm2.weight", "Gemm", 50, 0, 5, 5, 50),
        ),
    )


def test_zeros_are_dead_synapses_and_stored_parameters():
    found = network("lenet")
    array = found.array("conv2.weight").copy()
    array[0] = 0
    array[1, 2] = 0
    array[2, 3, 1, 1] = -0.0
    model = found.model.clone()
    onnx_io.set_array(model, "conv2.weight", array)
    before, after = count(found), count(network_of(model, "zeros"))
    assert before.synapses - after.synapses == 36 + 9 + 1
    assert before.kernels - after.kernels == 4 + 1
    assert before.filters - after.filters == 1
    assert (after.parameters, after.macs) == (before.parameters, before.macs)


@pytest.mark.parametrize(
    "name", ["conv_transpose", "grouped", "relayouts", "matmul_batched", "shared_weights"]
)
def test_layers_count_in_the_canonical_view(name):
    found = network(name)
    for layer, weight in zip(count(found).layers, found.weights.values(), strict=True):
        dense = weight.outputs * weight.inputs_per_group * weight.taps
        assert layer.synapses == dense
        assert layer.kernels == (weight.outputs * weight.inputs_per_group if weight.is_convolution else 0)
        assert layer.filters == weight.outputs
        assert layer.macs == round(dense * weight.macs_per_tap)


@given(small_models(), st.integers(0, 2**16))
def test_masked_counts_are_those_of_the_masked_model(model, seed):
    found = network_of(ir.from_proto(model), "random")
    rng = np.random.default_rng(seed)
    masks = {name: mask & (rng.random(mask.shape) < 0.4) for name, mask in live_masks(found).items()}
    masked = found.model.clone()
    for name, mask in masks.items():
        onnx_io.set_array(masked, name, np.where(mask, found.array(name), found.array(name).dtype.type(0)))
    as_if, really = count_masks(found, masks), count(network_of(masked, "masked"))
    assert dataclasses.replace(as_if, bytes=0) == dataclasses.replace(really, bytes=0)


def test_with_coupling_a_filter_that_nobody_reads_is_dead():
    found = network("lenet")
    model = found.model.clone()
    array = found.array("conv2.weight").copy()
    array[:, 1] = 0
    onnx_io.set_array(model, "conv2.weight", array)
    masked = network_of(model, "masked")
    plain, closed = count(masked), count(masked, analyse(masked))
    assert plain.filters - closed.filters == 1
    assert plain.synapses - closed.synapses == 25
    assert plain.kernels - closed.kernels == 1


def test_ratios_say_how_many_times_smaller():
    ancestor = count(network("lenet"))
    smaller = dataclasses.replace(ancestor, synapses=ancestor.synapses // 2, kernels=0, macs=None)
    found = ratios(ancestor, smaller)
    assert found.synapses == pytest.approx(2.0)
    assert (found.kernels, found.macs, found.parameters) == (None, None, 1.0)


def test_unknown_shapes_leave_macs_unknown_and_the_rest_counted():
    b = Builder(["N", 6])
    hidden = b.node("Relu", b.matmul("x", 6, 5))
    chosen = b.node("Compress", hidden, b.node("Greater", "z", b.constant(np.float32(0))), axis=0)
    b.inputs.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N"]))
    b.output(b.matmul(chosen, 5, 3), ["M", 3], "y")
    found = count(network_of(ir.from_proto(b.model()), "chosen"))
    assert found.macs is None
    assert [layer.macs for layer in found.layers] == [30, None]
    assert found.synapses == 45


def test_bytes_of_a_model_in_memory_and_with_external_data(graph_file, tmp_path, monkeypatch):
    path = graph_file("lenet")
    model = onnx_io.load_model(path)
    assert count(network_of(model, "memory")).bytes == len(onnx_io.to_bytes(model))
    monkeypatch.setattr(onnx_io, "_EXTERNAL_FROM_BYTES", 1000)
    (tmp_path / "big").mkdir()
    big = tmp_path / "big" / "big.onnx"
    onnx_io.save_model(model, big)
    assert count(load_network(big)).bytes == sum(p.stat().st_size for p in big.parent.iterdir())
