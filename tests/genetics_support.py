"""Networks and checks that the tests of genetics share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from graph_builder import Builder
from graphs import GRAPHS

from evonnx.dependency import Coupling, analyse
from evonnx.network import Network, network_of

PLAIN = (
    "lenet",
    "residual_folded",
    "depthwise",
    "grouped",
    "concat_fire",
    "conv_transpose",
    "two_outputs",
    "fp16",
)


@functools.cache
def named(name: str) -> tuple[Network, Coupling]:
    """A graph of tests/graphs.py, read and analysed."""
    network = network_of(ir.serde.deserialize_model(GRAPHS[name]()), f"{name}.onnx")
    return network, analyse(network)


def mlp(*weights: np.ndarray) -> tuple[Network, Coupling]:
    """Gemms of the given (O, I) weights, one after another."""
    builder = Builder([1, weights[0].shape[1]], dtype=weights[0].dtype)
    value = "x"
    for index, weight in enumerate(weights):
        value = builder.node("Gemm", value, builder.constant(weight, f"w{index}"), transB=1)
        if index < len(weights) - 1:
            value = builder.node("Relu", value)
    builder.output(value, [1, weights[-1].shape[0]], "y")
    network = network_of(ir.serde.deserialize_model(builder.model()), "mlp.onnx")
    return network, analyse(network)


def convolutions(*weights: np.ndarray) -> tuple[Network, Coupling]:
    """Convolutions of the given (O, I, k, k) weights, one after another."""
    builder = Builder([1, weights[0].shape[1], 6, 6])
    value = "x"
    for index, weight in enumerate(weights):
        name = builder.constant(weight, f"w{index}")
        outputs, inputs, size, _ = weight.shape
        pads = [(size - 1) // 2] * 2 + [size // 2] * 2
        value = builder.conv(value, inputs, outputs, size, weight=name, bias=False, pads=pads)
    builder.output(value, [1, weights[-1].shape[0], 6, 6], "y")
    network = network_of(ir.serde.deserialize_model(builder.model()), "convolutions.onnx")
    return network, analyse(network)


def dense(sizes: Sequence[int], seed: int = 0) -> tuple[Network, Coupling]:
    """An MLP with normally distributed weights."""
    rng = np.random.default_rng(seed)
    return mlp(*(rng.normal(size=(o, i)).astype(np.float32) for i, o in itertools.pairwise(sizes)))


def live(network: Network, name: str) -> np.ndarray:
    """Canonical mask of what lives in the file."""
    return np.asarray(network.canonical(name)) != 0
