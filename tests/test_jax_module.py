"""The JAX function of a graph computes what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import GRAPHS
from torch_support import feed_for, float32_copy, reference

jax = pytest.importorskip("jax")

from evonnx_jax.module import OnnxFunction  # noqa: E402
from evonnx_jax.ops import Context  # noqa: E402

OTHERS = {
    *("col2im_integers", "cropped_and_resized", "grid_sampled", "lstm", "pool_with_indices"),
    "regions_aligned",
}
"""Graphs with operators that this adapter refuses."""
QUICK = ("lenet_reshape", "conv_transpose", "activations", "control_flow", "resize_add", "layer_norm")
"""Tracing and compiling take longer than running: these by default, all where slow tests run."""


HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""What is run once need not run fast."""


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict:
    function = OnnxFunction(ir.from_proto(model))
    variables = function.variables({})
    call = jax.jit(lambda v, x: function(v, x, function.graph.outputs, Context())[0], compiler_options=HASTY)
    return call(variables, function.inputs(feed))


def check(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    want = reference(float32_copy(model), feed)
    got = run(model, feed)
    assert set(got) == set(want)
    for name, array in want.items():
        assert got[name].shape == array.shape, name
        assert np.abs(np.asarray(got[name]) - array).max() <= 1e-4 * np.abs(array).max() + 1e-6, name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(set(GRAPHS) - OTHERS)
    ],
)
def test_agrees_with_onnxruntime_on_named_graphs(name: str) -> None:
    model = GRAPHS[name]()
    check(model, feed_for(model, np.random.default_rng(0)))
