"""What the coupling says of a graph, asked of the graph itself by finite differences.

All prunable weights are set to zero and a free summand is put behind each node that reads one, so that every
layer stands alone: what one output channel of a layer does to the rest of the graph is what operators without
weights do with it. An index that reacts to a channel lives and dies with it; others are independent of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from removal_support import feed_of

from evonnx.dependency import Coupling
from evonnx.dependency.coupling import Place
from evonnx.network import Array, Network
from evonnx.onnx_io import to_bytes

Key = tuple[str, Place]


@dataclass(frozen=True)
class Reaction:
    """What reacts to one output channel of one layer."""

    layer: str
    channel: int
    """Class of the channel."""
    followed: dict[Key, Array]
    """Per followed axis (or axes) of an activation, flags in the shape of its classes."""
    outputs: bool
    """Whether a graph output reacts."""


def reactions(net: Network, coupling: Coupling, seed: int = 0) -> Iterator[Reaction]:
    """Perturb every output channel of every layer, one by one."""
    rng = np.random.default_rng(seed)
    layers, session, names = _alone(net)
    feed = feed_of(net, rng)
    for _, _, summand, shape in layers:
        feed[summand] = rng.normal(size=shape).astype(np.float32)
    before = dict(zip(names, session.run(names, feed), strict=True))
    graph_outputs = {str(value.name) for value in net.model.graph.outputs}
    for layer, axis, summand, shape in layers:
        classes = coupling.weights[layer].output
        for index in range(shape[axis]):
            moved = feed[summand].copy()
            spot: list[object] = [slice(None)] * len(shape)
            spot[axis] = index
            moved[tuple(spot)] += rng.normal(size=moved[tuple(spot)].shape).astype(np.float32) * 3
            after = dict(zip(names, session.run(names, {**feed, summand: moved}), strict=True))
            changed = {name: _differ(before[name], after[name]) for name in names}
            yield Reaction(
                layer,
                int(classes[index]),
                _followed(coupling, changed),
                any(changed[name].any() for name in graph_outputs),
            )


def _differ(one: Array, other: Array) -> Array:
    """Flags, rounding apart: running sums (LRN) carry it from channel to channel."""
    if one.dtype.kind != "f":
        return np.asarray(one != other)
    scale = max(float(np.abs(array).max(initial=0)) for array in (one, other))
    return np.asarray(np.abs(one - other) > 1e-5 * scale)


def _followed(coupling: Coupling, changed: dict[str, Array]) -> dict[Key, Array]:
    found: dict[Key, Array] = {}
    for (name, axis), _ in coupling.axes.items():
        if name in changed:
            rest = tuple(other for other in range(changed[name].ndim) if other != axis)
            found[name, axis] = changed[name].any(axis=rest)
    for (name, axes), _ in coupling.grids.items():
        if name in changed:
            rest = tuple(other for other in range(changed[name].ndim) if other not in axes)
            flags = changed[name].any(axis=rest)
            # What is left are the axes in ascending order; the classes have an order of their own.
            found[name, axes] = flags.transpose(np.argsort(np.argsort(axes)))
    return found


def _alone(
    net: Network,
) -> tuple[list[tuple[str, int, str, tuple[int, ...]]], ort.InferenceSession, list[str]]:
    """(layers as (weight, output axis, summand, shape), the session, activations by name)."""
    proto = onnx.load_from_string(to_bytes(net.model))
    layers = []
    for weight in net.weights.values():
        for use in weight.uses:
            name = str(use.node.outputs[0].name)
            layers.append((weight.name, use.node.op_type, use.input_index, name))
    constants = {t.name: t for t in proto.graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in proto.graph.node if n.op_type == "Constant"}
    for name in net.weights:
        array = numpy_helper.to_array(constants[name])
        constants[name].CopyFrom(numpy_helper.from_array(np.zeros_like(array), constants[name].name))
    found = []
    for number, (weight, kind, slot, name) in enumerate(layers):
        shape = tuple(int(dim) for dim in net.shapes[name])
        axis = 1 if kind.startswith("Conv") else len(shape) - (1 if slot == 1 else 2)
        summand = f"summand{number}"
        node = next(one for one in proto.graph.node if name in one.output)
        node.output[list(node.output).index(name)] = f"{name}_alone"
        place = list(proto.graph.node).index(node) + 1
        proto.graph.node.insert(place, helper.make_node("Add", [f"{name}_alone", summand], [name]))
        proto.graph.input.append(helper.make_tensor_value_info(summand, onnx.TensorProto.FLOAT, shape))
        found.append((weight, axis, summand, shape))
    given = {value.name for value in proto.graph.output}
    made = [name for node in proto.graph.node for name in node.output if name and name not in given]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return found, session, names


def separate(net: Network, coupling: Coupling, rounds: int = 16) -> list[int]:
    """Classes that are not pinned and that the graph itself gives no reason to hold together.

    Held together is what reacts to one channel, and what reads and writes a group's only input. Classes that
    products sum over are left out: no single channel shows which factors meet. A reaction may be hidden (by a
    closed ReLU), so there are several rounds.
    """
    union: dict[object, object] = {}

    def root(one: object) -> object:
        while union.setdefault(one, one) != one:
            one = union[one]
        return one

    def unite(members: list[object]) -> None:
        for other in members[1:]:
            union[root(other)] = root(members[0])

    for name, weight in net.weights.items():
        if weight.groups > 1 and weight.inputs_per_group == 1:
            each = weight.outputs // weight.groups
            source = next(read for read in coupling.reads if read.weight == name)
            for group in range(weight.groups):
                outputs: list[object] = [("out", name, group * each + one) for one in range(each)]
                unite([((source.source, source.axis), group), *outputs])
    found: list[int] = []
    for number in range(rounds):
        seen: Counter[str] = Counter()
        for one in reactions(net, coupling, number):
            index = seen[one.layer] % coupling.weights[one.layer].output.size
            seen[one.layer] += 1
            members: list[object] = [("out", one.layer, index)]
            for key, flags in one.followed.items():
                ids = classes_at(coupling, key)
                members += [(key, int(at)) for at in np.flatnonzero(flags) if ids.flat[at] == one.channel]
            unite(members)
        found = _torn(coupling, root)
        if not found:
            break
    return found


def _torn(coupling: Coupling, root: Callable[[object], object]) -> list[int]:
    """Classes, not pinned and not summed over by products, with outputs of layers in several sets."""
    roots: dict[int, set[object]] = {}
    for name, ids in coupling.weights.items():
        for index, one in enumerate(ids.output):
            roots.setdefault(int(one), set()).add(root(("out", name, index)))
    apart = coupling.pinned()
    for link in coupling.links:
        apart[link.source] = True
    return [one for one, found in roots.items() if len(found) > 1 and not apart[one]]


def classes_at(coupling: Coupling, key: Key) -> Array:
    """Classes along a followed axis, or over several."""
    name, place = key
    return coupling.axes[name, place] if isinstance(place, int) else coupling.grids[name, place]
