"""Carrying out a plan: clone, slice, rewrite, drop what nobody reads. Mechanical; every decision is in the
plan."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.compaction.lineage import compose_lineage, read_lineage, write_lineage
from evonnx.compaction.plan import Compacted, ConstantChange, Indices, InputGather, Plan
from evonnx.network import Array, Network
from evonnx.onnx_io import constant_tensor, constant_values, set_array


def apply_plan(network: Network, plan: Plan) -> Compacted:
    """The compact model that a plan describes.

    Names, inputs, outputs, dynamic axes, opset and metadata stay; node names too. Declared shapes of what was
    cut follow; an initializer that nobody reads any more is dropped (with its entry among the graph inputs,
    if it has one).

    Args:
        network: the network that the plan was made for.
        plan: from `plan_compaction`.

    Raises:
        ModelError: the model's own lineage entry is damaged or does not fit it.
    """
    model = network.model.clone()
    graph = model.graph
    nodes = list(graph)
    read_before = _read_names(graph)
    _fold(network, model, nodes, plan)
    _cut(network, model, plan)
    for change in plan.attributes:
        value = change.value
        attribute = (
            ir.AttrInt64(change.attribute, value)
            if isinstance(value, int)
            else ir.AttrInt64s(change.attribute, value)
        )
        nodes[change.node.index].attributes[change.attribute] = attribute
    names = _Names(graph)
    _change_constants(model, nodes, plan.constants, names)
    for gather in plan.gathers:
        _insert_gather(model, nodes[gather.node.index], gather, names)
    _relabel(model, nodes, plan, names)
    for split in plan.splits:
        _write_sizes(model, nodes[split.node.index], split.sizes, names)
    for scaling in plan.scalings:
        _scale(model, nodes[scaling.node.index], scaling.factor, names)
    _bypass(graph, nodes, plan)
    _drop_inputs(nodes, plan)
    graph.remove([nodes[one.index] for one in plan.removed_nodes], safe=True)
    _set_shapes(graph, plan)
    _drop_unread(graph, read_before)
    lineage = _lineage(network, model, plan)
    write_lineage(model, lineage)
    kept = {(cut.tensor, cut.axis): cut.kept for cut in plan.activations}
    return Compacted(model, lineage, plan, kept)


def _fold(network: Network, model: ir.Model, nodes: list[ir.Node], plan: Plan) -> None:
    """Apply relayouts of cut weights to the constants themselves."""
    positions = {node: index for index, node in enumerate(network.model.graph)}
    constants = {name: value for name, value, _ in constant_values(model)}
    for fold in plan.folds:
        array = network.array(fold.tensor)
        for step in network.weights[fold.tensor].uses[0].relayouts:
            array = array.reshape(step.argument) if step.kind == "reshape" else array.transpose(step.argument)
        set_array(model, fold.tensor, np.ascontiguousarray(array))
        for use in network.weights[fold.tensor].uses:
            node = nodes[positions[use.node]]
            between = node.inputs[use.input_index]
            node.replace_input_with(use.input_index, constants[fold.tensor])
            while between is not None and not between.uses() and (relayout := between.producer()) is not None:
                between = relayout.inputs[0] if relayout.inputs else None
                graph_node = relayout
                model.graph.remove(graph_node, safe=True)


def _cut(network: Network, model: ir.Model, plan: Plan) -> None:
    arrays: dict[str, Array] = {}
    constants = {name: tensor for name, _, tensor in constant_values(model)}
    for cut in plan.cuts:
        array = arrays.get(cut.tensor)
        array = constants[cut.tensor].numpy() if array is None else array
        arrays[cut.tensor] = np.take(array, cut.kept, axis=cut.axis)
    for grouped in plan.grouped_cuts:
        arrays[grouped.tensor] = grouped.apply(constants[grouped.tensor].numpy())
    for name, array in arrays.items():
        set_array(model, name, np.ascontiguousarray(array))


def _change_constants(
    model: ir.Model, nodes: list[ir.Node], changes: tuple[ConstantChange, ...], names: _Names
) -> None:
    """In place where every reader of the constant gets the same new value, else in a constant of their
    own."""
    by_tensor: dict[str, list[ConstantChange]] = {}
    for change in changes:
        by_tensor.setdefault(change.tensor, []).append(change)
    for name, wanted in by_tensor.items():
        value = nodes[wanted[0].node.index].inputs[wanted[0].slot]
        assert value is not None
        stored = constant_tensor(value) is not None
        readers = {(use.node, use.idx) for use in value.uses()}
        ours = {(nodes[change.node.index], change.slot) for change in wanted}
        alike = all(np.array_equal(change.value, wanted[0].value) for change in wanted)
        if stored and alike and readers == ours and not value.is_graph_output():
            set_array(model, name, wanted[0].value)
            continue
        for number, change in enumerate(wanted, start=1):
            node = nodes[change.node.index]
            made = _new_constant(model, names.free(f"{name}_compact{number}"), change.value)
            node.replace_input_with(change.slot, made)


def _new_constant(model: ir.Model, name: str, array: Array) -> ir.Value:
    """A new initializer; before IR version 4 every initializer is a graph input too."""
    tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    if model.ir_version < 4:
        model.graph.inputs.append(value)
    return value


def _insert_gather(model: ir.Model, node: ir.Node, gather: InputGather, names: _Names) -> None:
    graph = model.graph
    source = node.inputs[gather.slot]
    assert source is not None
    stem = names.free(f"{gather.weight}_inputs", "_indices")
    indices = _new_constant(model, f"{stem}_indices", gather.kept)
    made = ir.Node(
        "", "Gather", [source, indices], [ir.AttrInt64("axis", gather.axis)], num_outputs=1, name=stem
    )
    value = made.outputs[0]
    value.name = stem
    if source.dtype is not None:
        value.dtype = source.dtype
    if source.shape is not None:
        shape = list(source.shape)
        shape[gather.axis] = gather.kept.size
        value.shape = ir.Shape(shape)
    graph.insert_before(node, made)
    node.replace_input_with(gather.slot, value)


def _relabel(model: ir.Model, nodes: list[ir.Node], plan: Plan, names: _Names) -> None:
    """Gathers in place of chains of relabellings; their results keep their names."""
    graph = model.graph
    values = {str(value.name): value for value in graph.inputs}
    values |= {str(value.name): value for node in nodes for value in node.outputs}
    for one in plan.relabellings:
        old, source = nodes[one.node.index].outputs[one.output], values[one.source]
        name = str(old.name)
        stem = names.free(f"{name}_relabelled", "_indices")
        indices = _new_constant(model, f"{stem}_indices", one.indices)
        made = ir.Node(
            "", "Gather", [source, indices], [ir.AttrInt64("axis", one.axis)], num_outputs=1, name=stem
        )
        value = made.outputs[0]
        value.type, value.shape = old.type, old.shape
        graph.insert_before(nodes[one.node.index], made)
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        old.name, value.name = stem, name
        values[name] = value


def _write_sizes(model: ir.Model, node: ir.Node, sizes: tuple[int, ...], names: _Names) -> None:
    """Sizes of a Split that had none: an attribute before opset 13, else an input."""
    node.attributes.pop("num_outputs", None)
    if model.opset_imports.get("", 1) < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    name = names.free(f"{node.outputs[0].name}_sizes_compact")
    node.resize_inputs(2)
    node.replace_input_with(1, _new_constant(model, name, np.asarray(sizes, dtype=np.int64)))


def _scale(model: ir.Model, node: ir.Node, factor: float, names: _Names) -> None:
    graph, value = model.graph, node.outputs[0]
    dtype = value.dtype or ir.DataType.FLOAT
    stem = names.free(f"{value.name}_scaled_compact", "_share")
    share = _new_constant(model, f"{stem}_share", np.asarray(factor, dtype=dtype.numpy()))
    readers = list(value.uses())
    made = ir.Node("", "Mul", [value, share], num_outputs=1, name=stem)
    result = made.outputs[0]
    result.name, result.type, result.shape = stem, value.type, value.shape
    graph.insert_after(node, made)
    for reader, slot in readers:
        reader.replace_input_with(slot, result)


def _drop_inputs(nodes: list[ir.Node], plan: Plan) -> None:
    by_node: dict[int, set[int]] = {}
    for one in plan.dropped:
        by_node.setdefault(one.node.index, set()).add(one.slot)
    for index, slots in by_node.items():
        node = nodes[index]
        left = [value for slot, value in enumerate(node.inputs) if slot not in slots]
        node.resize_inputs(len(left))
        for slot, value in enumerate(left):
            node.replace_input_with(slot, value)


def _bypass(graph: ir.Graph, nodes: list[ir.Node], plan: Plan) -> None:
    """Readers of the sum read its operand; a sum that is a graph output becomes an Identity, so that names
    stay."""
    for one in plan.bypasses:
        node = nodes[one.node.index]
        operand, result = node.inputs[one.keep], node.outputs[0]
        assert operand is not None
        if not result.is_graph_output():
            result.replace_all_uses_with(operand)
            graph.remove(node, safe=True)
            continue
        node.resize_inputs(1)
        node.replace_input_with(0, operand)
        node.op_type = "Identity"
        node.attributes.clear()


def _set_shapes(graph: ir.Graph, plan: Plan) -> None:
    """Declared shapes follow the cuts; only dimensions that are numbers change."""
    by_name: dict[str, list[tuple[int, int]]] = {}
    for cut in plan.activations:
        axes = (cut.axis,) if isinstance(cut.axis, int) else cut.axis
        by_name.setdefault(cut.tensor, []).extend(zip(axes, cut.kept.shape, strict=True))
    for node in graph:
        for value in node.outputs:
            if value.shape is None or value.name not in by_name:
                continue
            shape = list(value.shape)
            for axis, length in by_name[value.name]:
                if isinstance(shape[axis], int):
                    shape[axis] = length
            value.shape = ir.Shape(shape)


def _read_names(graph: ir.Graph) -> set[str]:
    """Names of initializers that something reads."""
    return {name for name, value in graph.initializers.items() if value.uses() or value.is_graph_output()}


def _drop_unread(graph: ir.Graph, read_before: set[str]) -> None:
    for name in list(graph.initializers):
        value = graph.initializers[name]
        if name in read_before and not value.uses() and not value.is_graph_output():
            if value.is_graph_input():
                graph.inputs.remove(value)
            del graph.initializers[name]


def _lineage(network: Network, model: ir.Model, plan: Plan) -> dict[tuple[str, int], Indices]:
    child: dict[tuple[str, int], Indices] = {(cut.tensor, cut.axis): cut.kept for cut in plan.cuts}
    for grouped in plan.grouped_cuts:
        child[grouped.tensor, int(grouped.transposed)] = grouped.kept_outputs
        child[grouped.tensor, int(not grouped.transposed)] = grouped.inputs_of_all_groups()
    present = {name for name, _, _ in constant_values(model)}
    parent = read_lineage(model)
    for cut in plan.cuts:
        weight = network.weights.get(cut.tensor)
        # Inputs of all groups are counted one after another; with one input each they go with their group.
        if cut.axis == 0 and weight is not None and weight.groups > 1 and (cut.tensor, 1) in parent:
            child[cut.tensor, 1] = np.unique(cut.kept // (weight.outputs // weight.groups))
    composed = compose_lineage(parent, child)
    return {key: kept for key, kept in composed.items() if key[0] in present}


class _Names:
    """Names that no node and no value of a graph has, for new ones."""

    def __init__(self, graph: ir.Graph) -> None:
        self.taken = set(graph.initializers) | {str(value.name) for value in graph.inputs}
        for node in graph:
            self.taken.update(str(value.name) for value in node.outputs)
            self.taken.add(str(node.name))

    def free(self, stem: str, beside: str = "") -> str:
        """`stem`, with a number if need be; the name followed by `beside` is free too. Both are taken now."""
        name, number = stem, 2
        while name in self.taken or name + beside in self.taken:
            name, number = f"{stem}{number}", number + 1
        self.taken |= {name, name + beside}
        return name
