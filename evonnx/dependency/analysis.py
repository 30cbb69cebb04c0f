"""The coupling of a network: one forward walk in topological order, then dense numbers for what the rules
said.

The walk refuses by default: an operator without a rule pins every channel that reaches it, graph outputs pin,
and so does any reader of a weight or channel vector that no rule spoke for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from evonnx.dependency.coupling import ChannelVector, ClassIds, Coupling, EqualCount, Pin, WeightClasses
from evonnx.dependency.grids import Component
from evonnx.dependency.ids import IdArray
from evonnx.dependency.rules import rules_by_operator
from evonnx.dependency.scope import Scope, WeightIds, captured_values
from evonnx.dependency.sizes import ARITHMETIC, evaluate
from evonnx.dependency.zeros import Evaluator, zeroable
from evonnx.network import Network, Weight

_MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a rule runs into where a node is not as the standard has it: inputs that are missing, attributes of
other types, shapes that do not fit."""


def analyse(network: Network) -> Coupling:
    """Follow every channel through the graph.

    Only shapes and integer constants matter, not the weights' values: an offspring of unchanged shapes has
    the coupling of its parent.

    Raises:
        PluginError: the dependency rules cannot be loaded.
        ModelError: the graph's channel numbers contradict each other.
    """
    scope = Scope(network)
    for node in network.model.graph:
        _visit(node, scope)
    _close_graph(scope)
    return _pin_what_stays(network, _finish(scope))


def _pin_what_stays(network: Network, coupling: Coupling) -> Coupling:
    """Channels that something else than a weight reads for good can only go if they are zero then."""
    lasting = [link for link in coupling.links if link.target is None]
    if not lasting:
        return coupling
    evaluator = Evaluator(network, {}, zeroable(network, coupling))
    pins = []
    for link in lasting:
        flags = None if link.zero is None else evaluator.evaluate(link.zero)
        stays = (
            link.source if flags is None else link.source[~np.broadcast_to(flags.ravel(), link.source.shape)]
        )
        if stays.size:
            reason = f"{link.reason}, and they are not zero when removed"
            pins.append(Pin(np.unique(stays), link.node_label, reason))
    return replace(coupling, pins=(*coupling.pins, *pins))


def _visit(node: ir.Node, scope: Scope) -> None:
    if node.op_type == "Constant" and not node.inputs:
        return
    domain = "" if node.domain == "ai.onnx" else node.domain
    rule = rules_by_operator().get(node.op_type if not domain else f"{domain}::{node.op_type}")
    for value in captured_values(node):
        scope.pin_value(value, node, f"a subgraph of {node.op_type} reads {value.name!r}")
    if _visit_sizes(node, scope, frozenset() if rule is None else rule.size_slots):
        return
    if rule is None:
        shown = node.op_type if not domain else f"{domain}.{node.op_type}"
        scope.pin_inputs(node, f"operator {shown} is not understood")
        return
    if not getattr(rule, "follows_grids", False):
        for operand in node.inputs:
            for grid in scope.grids(operand):
                scope.pin(grid.everything(), node, f"{node.op_type} of channels in rows (heads, groups)")
    try:
        rule.visit(node, scope)
    except _MISFITS as error:
        scope.pin_node(node, f"{node.op_type} could not be followed ({type(error).__name__}: {error})")


def _visit_sizes(node: ir.Node, scope: Scope, accepted: frozenset[int]) -> bool:
    """Arithmetic on shapes; whether that was all there was to the node."""
    computed = [value is not None and value.name in scope.sizes for value in node.inputs]
    if not any(computed):
        return False
    operands = [scope.sizes_at(value) for value in node.inputs]
    entries = evaluate(node, operands)
    if entries is not None and entries.ndim <= 1 and node.outputs[0].name is not None:
        scope.sizes[node.outputs[0].name] = entries
        if node.op_type in ARITHMETIC:
            for operand in operands:
                for entry in () if operand is None else operand.ravel():
                    scope.need_number(entry, None)
        return True
    for slot, value in enumerate(node.inputs):
        if computed[slot] and slot not in accepted and not scope.freeze(node, slot):
            scope.pin_value(value, node, f"{node.op_type} computes with their number")
    return False


def _close_graph(scope: Scope) -> None:
    """Borders: outputs, weights out of reach, constants with readers that nobody spoke for."""
    network = scope.network
    for output in network.model.graph.outputs:
        producer = output.producer()
        label = scope.label(producer) if producer is not None else str(output.name)
        scope.pin_value(output, label, f"graph output {output.name!r} keeps its shape")
    for weight in network.weights.values():
        use = weight.uses[0]
        if weight.name not in scope.weight_ids:
            outputs = scope.fresh(weight.outputs)
            inputs = scope.fresh(weight.groups * weight.inputs_per_group)
            for ids in (outputs, inputs):
                scope.pin(ids, use.node_label, f"this {use.op_type} is not followed")
            scope.weight_ids[weight.name] = WeightIds(outputs, inputs.reshape(weight.groups, -1))
        _weight_axes(weight, scope)
    for node in network.model.graph:
        for made in node.outputs:
            if not made.uses():
                scope.grids(made)
    _hold_lines(scope)
    _settle_numbers(scope)
    for vector in {vector.name: vector for vector in scope.vectors}.values():
        value = _constant(network.model, vector.name)
        claims = scope.claims.get(vector.name, set())
        readers = [use.node for use in value.uses() if (use.node, use.idx) not in claims]
        if readers or value.is_graph_output():
            where = readers[0] if readers else vector.node_label
            scope.pin_value(value, where, f"{vector.name!r} is also read here, or is a graph output")


def _hold_lines(scope: Scope) -> None:
    """Lines of what was only relabelled stay while one of their members does: nothing else keeps them."""
    views = [view for grids in scope.grids_of.values() for view in grids if view.view is not None]
    known = {id(equal) for equal in scope.equal_counts}
    for equal in {id(equal): equal for view in views for equal in view.pending}.values():
        if id(equal) in known:
            continue
        for axis, line in enumerate(equal.lines):
            if line is not None:
                spot = [-1 if axis == other else 1 for other in range(equal.ids.ndim)]
                lines = np.broadcast_to(line.reshape(spot), equal.ids.shape)
                scope.read_by(lines, equal.ids, equal.node, "groups of channels that are only reordered")


def _keeps_rows_equal(view: Component, registered: set[int]) -> bool:
    """Whether something computed with these channels later, as another view shows them: then this one is
    followed as well, and its declared shape with it."""
    return bool(view.pending) and all(id(equal) in registered for equal in view.pending)


def _settle_numbers(scope: Scope) -> None:
    """Entries of computed shapes are rewritten where they are written down, if all readers agree."""
    for origin, wanted in scope.wanted_numbers.items():
        counted = [ids for ids in wanted if ids is not None]
        if not counted:
            continue
        if len(counted) < len(wanted) or not all(scope.same(counted[0], ids) for ids in counted[1:]):
            for ids in counted:
                scope.pin(ids, origin.node, "their number is computed once for several uses that differ")
            continue
        scope.count(origin.node, origin.slot, origin.position, counted[0])


def _constant(model: ir.Model, name: str) -> ir.Value:
    value = model.graph.initializers.get(name)
    if value is not None:
        return value
    return next(node.outputs[0] for node in model.graph if node.outputs and node.outputs[0].name == name)


def _weight_axes(weight: Weight, scope: Scope) -> None:
    """A weight's stored axes, where they carry channels one by one."""
    if weight.uses[0].relayouts or (weight.groups > 1 and weight.uses[0].op_type == "ConvTranspose"):
        return
    ids = scope.weight_ids[weight.name]
    scope.axes[weight.name, weight.output_axis] = ids.output
    if weight.groups == 1:
        scope.axes[weight.name, weight.input_axis] = ids.input[0]


def _finish(scope: Scope) -> Coupling:
    everything = np.arange(len(scope.classes), dtype=np.int64)
    _, class_of = np.unique(scope.classes.find(everything.copy()), return_inverse=True)
    _, wire_of = np.unique(scope.wires.find(everything.copy()), return_inverse=True)
    n_classes = int(class_of.max()) + 1 if class_of.size else 0
    wire_class = np.zeros(int(wire_of.max()) + 1 if wire_of.size else 0, dtype=np.int64)
    wire_class[wire_of] = class_of

    def classes(ids: IdArray) -> ClassIds:
        return np.asarray(class_of[ids], dtype=np.int64)

    def wires(ids: IdArray) -> ClassIds:
        return np.asarray(wire_of[ids], dtype=np.int64)

    unique = dict.fromkeys(scope.vectors)
    registered = {id(equal) for equal in scope.equal_counts}
    return Coupling(
        n_classes=n_classes,
        axes={key: classes(ids) for key, ids in scope.axes.items()},
        weights={name: WeightClasses(classes(w.output), classes(w.input)) for name, w in _ordered(scope)},
        vectors=tuple(ChannelVector(v.name, v.axis, v.role, v.node_label, v.layer) for v in unique),
        pins=_pins(scope, class_of),
        grids={
            (name, grid.axes): classes(grid.ids)
            for name, grids in scope.grids_of.items()
            for grid in grids
            if grid.view is None or (len(grid.axes) > 1 and _keeps_rows_equal(grid, registered))
        },
        equal_counts=tuple(
            EqualCount(
                classes(equal.ids),
                scope.label(equal.node),
                equal.reason,
                tuple(None if line is None else classes(line) for line in equal.lines),
            )
            for equal in scope.equal_counts
        ),
        links=tuple(
            replace(
                link,
                source=classes(link.source),
                target=None if link.target is None else classes(link.target),
            )
            for link in scope.links
        ),
        link_wires=tuple(
            (wires(link.source), None if link.target is None else wires(link.target)) for link in scope.links
        ),
        fed=wires(np.concatenate([*scope.fed, np.zeros(0, dtype=np.int64)])),
        given=wires(np.concatenate([*scope.given, np.zeros(0, dtype=np.int64)])),
        wire_class=wire_class,
        weight_wires={name: WeightClasses(wires(w.output), wires(w.input)) for name, w in _ordered(scope)},
        vector_wires=tuple(wires(scope.axes[v.name, v.axis]) for v in unique),
        counts=tuple(
            replace(
                rewrite,
                classes=classes(rewrite.classes),
                axis=None if rewrite.axis is None else classes(rewrite.axis),
            )
            for rewrite in scope.counts
        ),
        indices=tuple(replace(rewrite, classes=classes(rewrite.classes)) for rewrite in scope.indices),
        parts=tuple(
            replace(part, classes=tuple(classes(ids) for ids in part.classes)) for part in scope.parts
        ),
        relabels=tuple(scope.relabels),
        selections=tuple(replace(one, classes=classes(one.classes)) for one in scope.selections),
        corrections=tuple(replace(one, classes=classes(one.classes)) for one in scope.corrections),
        frozen=tuple(replace(one, classes=classes(one.classes)) for one in scope.frozen),
        merges=tuple(scope.merges),
        flows=tuple(scope.flows),
        reads=tuple(scope.reads),
    )


def _ordered(scope: Scope) -> list[tuple[str, WeightIds]]:
    return [(name, scope.weight_ids[name]) for name in scope.network.weights]


def _pins(scope: Scope, class_of: ClassIds) -> tuple[Pin, ...]:
    """One pin per node and reason."""
    gathered: dict[tuple[str, str], list[IdArray]] = {}
    for ids, label, reason in scope.pins:
        gathered.setdefault((label, reason), []).append(ids)
    return tuple(
        Pin(np.unique(class_of[np.concatenate(parts)]), label, reason)
        for (label, reason), parts in gathered.items()
    )
