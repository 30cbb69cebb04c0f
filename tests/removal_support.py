"""Shared by the tests of coupling, liveness, masking and compaction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from graph_builder import Builder

from evonnx.compaction import Compacted, Plan, apply_plan, plan_compaction
from evonnx.dependency import Coupling, analyse
from evonnx.masking import apply_masks
from evonnx.masks import Mask, live_masks
from evonnx.network import Array, Network, network_of
from evonnx.onnx_io import to_bytes

RUNS_IN = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
KINDS = ("channel", "filter", "kernel", "synapse", "layer")


def network(
    proto: onnx.ModelProto, source: str = "test.onnx", shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Network:
    return network_of(ir.from_proto(proto), source, shapes)


def built(builder: Builder) -> Network:
    return network(builder.model())


def reread(model: ir.Model, like: Network) -> Network:
    """As written to a file and read back: nothing of the first network is left."""
    return network(onnx.load_from_string(to_bytes(model)), like.source, like.input_shapes)


def random_masks(
    net: Network, coupling: Coupling, kind: str, rng: np.random.Generator, share: float = 0.6
) -> dict[str, Mask]:
    """Masks as an offspring of that granularity might have them; `share` of the clusters live."""
    masks = live_masks(net)
    alive = (rng.random(coupling.n_classes) < share) | coupling.pinned()
    for name, weight in net.weights.items():
        shape = (weight.outputs, weight.inputs_per_group, weight.taps)
        if kind == "channel":
            classes = coupling.weights[name]
            columns = np.repeat(alive[classes.input], weight.outputs // weight.groups, axis=0)
            keep = (alive[classes.output][:, None] & columns)[:, :, None]
        elif kind == "layer":
            keep = np.full((1, 1, 1), rng.random() < 0.8)
        else:
            drawn = {"filter": (shape[0], 1, 1), "kernel": (*shape[:2], 1), "synapse": shape}[kind]
            keep = rng.random(drawn) < share
        masks[name] = masks[name] & weight.from_canonical(np.broadcast_to(keep, shape).copy())
    return masks


def run(model: ir.Model, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name, optimisations off."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def without_running_sums(model: ir.Model) -> ir.Model:
    """LRN over windows of one channel written out, element by element: x / (bias + alpha * x * x) ** beta.

    onnxruntime sums windows by adding the next channel and taking away the last, so that the rounding of a
    large channel stays in those after it, which the operator's definition does not have.
    """
    proto = ir.to_proto(model)
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(proto.graph.node):
        settings = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type != "LRN" or settings["size"] != 1:
            nodes.append(node)
            continue
        source, made = node.input[0], [f"lrn_written_out_{number}_{step}" for step in range(7)]
        factors = (settings.get("alpha", 1e-4), settings.get("bias", 1.0), settings.get("beta", 0.75))
        for name, factor in zip(made, factors, strict=False):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(factor), name))
        alpha, bias, beta, square, scaled, norm, power = made
        nodes += [
            onnx.helper.make_node("Mul", [source, source], [square]),
            onnx.helper.make_node("Mul", [square, alpha], [scaled]),
            onnx.helper.make_node("Add", [scaled, bias], [norm]),
            onnx.helper.make_node("Pow", [norm, beta], [power]),
            onnx.helper.make_node("Div", [source, power], list(node.output)),
        ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return ir.from_proto(proto)


def feed_of(net: Network, rng: np.random.Generator, integers: bool = False) -> dict[str, Array]:
    """Random inputs of the network's input shapes."""
    feed = {}
    for value in net.model.graph.inputs:
        if value.is_initializer() or value.dtype is None:
            continue
        shape, dtype = net.input_shapes[str(value.name)], value.dtype.numpy()
        drawn = rng.integers(-3, 4, size=shape) if integers else rng.normal(size=shape)
        feed[str(value.name)] = np.asarray(drawn).astype(dtype)
    return feed


def compact(
    net: Network, coupling: Coupling, masks: Mapping[str, Mask], align: int = 1
) -> tuple[Network, Plan, Compacted]:
    """(masked network read back from bytes, plan, compact model)."""
    masked = reread(apply_masks(net, coupling, masks), net)
    plan = plan_compaction(masked, analyse(masked), align)
    return masked, plan, apply_plan(masked, plan)


def assert_same(
    masked: Network,
    compacted: Compacted,
    rng: np.random.Generator,
    *,
    exact: bool = False,
    floor: float = 0.0,
) -> None:
    """Equal outputs in onnxruntime; the compact model passes the checker; names and declarations are kept.

    `floor` is the absolute difference allowed: a Sigmoid rounds at 1e-7 however small its result.
    """
    made = onnx.load_from_string(to_bytes(compacted.model))
    onnx.checker.check_model(made, full_check=True)
    given = onnx.load_from_string(to_bytes(masked.model))
    assert [value.name for value in made.graph.output] == [value.name for value in given.graph.output]
    assert list(made.graph.output) == list(given.graph.output)
    constants = {tensor.name for proto in (given, made) for tensor in proto.graph.initializer}
    assert [v for v in made.graph.input if v.name not in constants] == [
        v for v in given.graph.input if v.name not in constants
    ]
    assert {n.name for n in given.graph.node} >= {
        n.name
        for n in made.graph.node
        if not any(mark in n.name for mark in ("_inputs", "_compact", "_relabelled"))
    }
    feed = feed_of(masked, rng, integers=exact)
    want, got = run(masked.model, feed), run(compacted.model, feed)
    for name, array in want.items():
        assert array.shape == got[name].shape
        if exact or array.dtype.kind not in "f":
            np.testing.assert_array_equal(array, got[name])
            continue
        scale = float(np.abs(array.astype(np.float64)).max(initial=0.0))
        tolerance = 4e-3 if array.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(
            got[name].astype(np.float64), array.astype(np.float64), rtol=0, atol=tolerance * scale + floor
        )


def assert_lengths(net: Network, coupling: Coupling) -> None:
    """Every followed axis is as long as the tensor's shape says."""
    for (name, axis), ids in coupling.axes.items():
        assert net.shapes.get(name, {axis: ids.size})[axis] == ids.size, (name, axis, ids.size)
    for (name, axes), ids in coupling.grids.items():
        shape = net.shapes.get(name)
        assert shape is None or tuple(shape[axis] for axis in axes) == ids.shape, (name, axes, ids.shape)
