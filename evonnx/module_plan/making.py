"""From an ancestor and an offspring to the plan for the ancestor's module: pure analysis.

1. every axis of every constant gets its channel classes from the coupling;
2. a class stays where the offspring's lineage keeps one of its indices in any tensor;
3. classes stay too where the offspring's graph was changed in a way that no module's code follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from evonnx.compaction import Lineage, kept_by_axis, plan_compaction, read_lineage
from evonnx.compaction import apply_plan as apply_removal
from evonnx.dependency import analyse
from evonnx.dependency.coupling import NOT_ZEROED, Coupling
from evonnx.errors import ModelError
from evonnx.module_plan.layout import lay_out
from evonnx.module_plan.plan import ClassIds, Count, Flags, InputPlan, ModulePlan, TensorPlan
from evonnx.module_plan.sketch import is_floating, sketch
from evonnx.network import Network, Weight, network_of
from evonnx.onnx_io import constant_tensor, initializer_arrays

_GROUP_ATTRIBUTE = "group"
"""Modules of grouped convolutions are given their number of groups."""


def make_plan(ancestor: Network, offspring: Network) -> ModulePlan:
    """Say what became of each of an ancestor's constants.

    Args:
        ancestor: as it was exported from the module.
        offspring: a compact descendant, with its lineage; or a masked one of the ancestor's shapes, whose
            dead channels are found here.

    Raises:
        ModelError: the offspring does not descend from the ancestor, or has weights that are quantised.
    """
    if not read_lineage(offspring.model):
        removal = apply_removal(offspring, plan_compaction(offspring, analyse(offspring)))
        offspring = network_of(removal.model, offspring.source, offspring.input_shapes)
    coupling = analyse(ancestor)
    tensors = {one.name: one for one in _tensors(ancestor, coupling)}
    _require_descent(ancestor, offspring)
    flags, kept_whole = _flags(coupling, tensors, ancestor, offspring)
    plan = ModulePlan(
        ancestor=ancestor.source,
        offspring=offspring.source,
        tensors=tensors,
        flags=flags,
        counts=tuple(_counts(coupling, flags)),
        inputs=tuple(_inputs(ancestor)),
        kept_whole=tuple(kept_whole),
    )
    return replace(plan, tensors=_masked(plan, ancestor, offspring))


def _tensors(network: Network, coupling: Coupling) -> Iterator[TensorPlan]:
    """Floating-point constants with their classes; nothing is known of masks yet."""
    kept_as_is = {vector.name for vector in coupling.vectors if vector.role in NOT_ZEROED}
    for name, array in initializer_arrays(network.model).items():
        weight = network.weights.get(name)
        if weight is not None and weight.quantization is not None:
            raise ModelError(
                f"{network.source} is quantised ({name!r}): its module is not. Make a plan from the model in "
                "floating point."
            )
        if not is_floating(array.dtype) or not array.ndim:
            continue
        yield TensorPlan(
            name=name,
            shape=array.shape,
            dtype=str(array.dtype),
            sketch=sketch(array),
            axes=_vector_axes(coupling, name) if weight is None else _weight_axes(coupling, weight),
            bias=None if weight is None else _bias(weight),
            zeroed=name not in kept_as_is,
            relayouts=() if weight is None else weight.uses[0].relayouts,
        )


def _vector_axes(coupling: Coupling, name: str) -> dict[int, ClassIds]:
    return {axis: ids for (tensor, axis), ids in coupling.axes.items() if tensor == name}


def _operand_axes(coupling: Coupling, weight: Weight) -> dict[int, ClassIds]:
    """Classes by axis of the operand; the axis within groups as (groups, n)."""
    ids = coupling.weights[weight.name]
    if weight.groups == 1:
        return {weight.output_axis: ids.output, weight.input_axis: ids.input[0]}
    if weight.output_axis == 0:
        return {0: ids.output, 1: ids.input}
    return {0: ids.input.reshape(-1), 1: ids.output.reshape(weight.groups, -1)}


def _weight_axes(coupling: Coupling, weight: Weight) -> dict[int, ClassIds]:
    """Classes by axis of the stored tensor; none behind a Reshape, which `_flags` keeps whole."""
    steps = weight.uses[0].relayouts
    if any(step.kind == "reshape" for step in steps):
        return {}
    source = np.arange(len(weight.shape))
    for step in steps:
        source = source[list(step.argument)]
    return {int(source[axis]): ids for axis, ids in _operand_axes(coupling, weight).items()}


def _bias(weight: Weight) -> str | None:
    node = weight.uses[0].node
    value = (
        node.inputs[2] if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.inputs) > 2 else None
    )
    return None if value is None or constant_tensor(value) is None else value.name


def _require_descent(ancestor: Network, offspring: Network) -> None:
    if read_lineage(ancestor.model):
        raise ModelError(
            f"{ancestor.source} has been cut itself, so no module has its shapes. Give the model that was "
            "exported from the module; offspring of offspring know it too."
        )
    lineage = read_lineage(offspring.model)
    known = initializer_arrays(ancestor.model)
    lost = [name for name, _ in lineage if name not in known]
    strange = [name for name in offspring.weights if name not in ancestor.weights]
    for name in (*lost, *strange):
        raise ModelError(
            f"{offspring.source} does not descend from {ancestor.source}, which has no weight {name!r}. Give "
            "the model that the evolution began with."
        )


# ------------------------------------------------------------------------------------------------ what stays


def _flags(
    coupling: Coupling, tensors: dict[str, TensorPlan], ancestor: Network, offspring: Network
) -> tuple[Flags, list[str]]:
    """Classes that stay, and what stays of them although the offspring is without it."""
    lineage, present = read_lineage(offspring.model), set(initializer_arrays(offspring.model))
    flags = coupling.pinned()
    for name, tensor in tensors.items():
        if name in present:
            weight = ancestor.weights.get(name)
            axes = tensor.axes if weight is None else _operand_axes(coupling, weight)
            _keep_lineage(flags, name, axes, lineage)
    kept_whole = _keep_last(flags, tensors)
    while True:
        before = int(flags.sum())
        _keep_lines(flags, coupling)
        for reason, classes in _not_followed(coupling, tensors, ancestor, flags):
            kept_whole.append(reason)
            flags[classes] = True
        if int(flags.sum()) == before:
            return flags, list(dict.fromkeys(kept_whole))


def _keep_lineage(flags: Flags, name: str, axes: Mapping[int, ClassIds], lineage: Lineage) -> None:
    kept = kept_by_axis(lineage, name)
    for axis, ids in axes.items():
        flat = ids.reshape(-1)
        indices = kept.get(axis)
        if indices is None and ids.ndim == 2 and 0 in kept:  # with one input each, groups go with their rows
            groups = np.unique(kept[0] // (axes[0].size // ids.shape[0]))
            indices = np.arange(flat.size).reshape(ids.shape)[groups[groups < ids.shape[0]]].reshape(-1)
        indices = np.arange(flat.size) if indices is None else indices
        if indices.size and indices[-1] >= flat.size:
            raise ModelError(
                f"The lineage of {name!r} names index {indices[-1]} of {flat.size}: the offspring is of "
                "another ancestor. Give the model that the evolution began with."
            )
        flags[flat[indices]] = True


def _keep_lines(flags: Flags, coupling: Coupling) -> None:
    """Heads and groups are in no tensor: they stay with any of their members."""
    for equal in coupling.equal_counts:
        members = flags[equal.classes]
        for axis, line in enumerate(equal.lines):
            if line is not None:
                others = tuple(other for other in range(members.ndim) if other != axis)
                flags[line[members.any(axis=others)]] = True


def _keep_last(flags: Flags, tensors: dict[str, TensorPlan]) -> list[str]:
    """A layer that is gone from the offspring's graph stays in the module's, as thin as it can be."""
    reasons = []
    for name, tensor in tensors.items():
        for ids in tensor.axes.values():
            if ids.size and not flags[ids].any():
                flags[ids.reshape(-1)[:1]] = True
                reasons.append(
                    f"{name}: the layer is gone; one channel of zeros stays, as code still calls it"
                )
    return reasons


def _not_followed(
    coupling: Coupling, tensors: dict[str, TensorPlan], ancestor: Network, flags: Flags
) -> Iterator[tuple[str, ClassIds]]:
    """(reason, classes to keep) for all that a module's code would not do alike."""
    for name in ancestor.weights:
        ids = coupling.weights[name]
        everything = np.concatenate([ids.output, ids.input.reshape(-1)])
        tensor = tensors.get(name)
        if (tensor is None or not tensor.axes) and not flags[everything].all():
            yield f"{name}: it is reshaped before it is used", everything
        elif tensor is not None and not _fits_groups(tensor, flags):
            yield f"{name}: its groups would become unequal", everything
    integers = {name for name in initializer_arrays(ancestor.model) if name not in tensors}
    for (name, _), classes in coupling.axes.items():
        if name in integers and not flags[classes].all():
            yield f"{name}: a constant of whole numbers, which no parameter is", classes
    for relabel in coupling.relabels:
        source = coupling.axes[str(relabel.source.name), relabel.source_axis]
        value = coupling.axes[str(relabel.node.outputs[relabel.output].name), relabel.axis]
        if not (flags[source].all() and flags[value].all()):
            yield (
                f"{relabel.node_label}: channels change places by a fixed pattern",
                np.union1d(source, value),
            )
    for change in coupling.corrections:
        if not flags[change.classes].all():
            yield f"{change.node_label}: a mean over channels would be over fewer", change.classes
    picked = [(one.node_label, one.classes) for one in coupling.selections]
    picked += [(one.node_label, one.classes) for one in coupling.indices]
    for label, classes in picked:
        if not flags[classes].all():
            yield f"{label}: channels are picked by number", classes
    for part in coupling.parts:
        most = max(int(np.count_nonzero(flags[members])) for members in part.classes)
        for members in part.classes:
            missing = most - int(np.count_nonzero(flags[members]))
            if missing:
                yield f"{part.node_label}: parts stay equal", members[~flags[members]][:missing]
    for equal in coupling.equal_counts:
        rows = flags[equal.classes][equal.kept_rows(flags)]
        if len(set(np.count_nonzero(rows, axis=-1).tolist())) > 1:
            lines = [line.reshape(-1) for line in equal.lines if line is not None]
            yield f"{equal.node_label}: {equal.reason}", np.concatenate([equal.classes.reshape(-1), *lines])


def _fits_groups(tensor: TensorPlan, flags: Flags) -> bool:
    """Whether groups that stay have equally many rows and columns each,."""
    if tensor.groups == 1:
        return True
    rows = np.count_nonzero(flags[tensor.axes[0]].reshape(tensor.groups, -1), axis=1)
    columns = np.count_nonzero(flags[tensor.axes[1]], axis=1)
    stay = rows > 0
    return bool(np.array_equal(stay, columns > 0)) and len(set(rows[stay])) == 1 == len(set(columns[stay]))


# --------------------------------------------------------------------------------------------- counts, masks


def _counts(coupling: Coupling, flags: Flags) -> Iterator[Count]:
    everything = np.ones_like(flags)
    for one in coupling.counts:
        if one.changes(flags) and one.slot != _GROUP_ATTRIBUTE:
            entry = "" if one.position is None else f", entry {one.position}"
            where = f"input {one.slot}" if isinstance(one.slot, int) else one.slot
            classes = [one.classes.reshape(-1), *([] if one.axis is None else [one.axis])]
            classes += _members(coupling, np.concatenate(classes))
            yield Count(
                node=one.node_label,
                what=f"{where}{entry}",
                old=one.count(everything),
                new=one.count(flags),
                classes=np.unique(np.concatenate(classes)),
            )
    for frozen in coupling.frozen:
        if not flags[frozen.classes].all():
            count, left = frozen.classes.size, int(np.count_nonzero(flags[frozen.classes]))
            yield Count(
                frozen.node_label, "a computation with a width", count, left, frozen.classes.reshape(-1)
            )


def _members(coupling: Coupling, classes: ClassIds) -> list[ClassIds]:
    """What lies on heads and groups that are among some classes."""
    return [
        equal.classes.reshape(-1)
        for equal in coupling.equal_counts
        if any(line is not None and np.isin(line, classes).any() for line in equal.lines)
    ]


def _inputs(network: Network) -> Iterator[InputPlan]:
    initializers = network.model.graph.initializers
    for value in network.model.graph.inputs:
        if value.name not in initializers and value.dtype is not None:
            name = str(value.name)
            yield InputPlan(name, str(value.dtype.numpy()), tuple(network.input_shapes.get(name, ())))


def _masked(plan: ModulePlan, ancestor: Network, offspring: Network) -> dict[str, TensorPlan]:
    """Tensors with their masks: dead is what the offspring lacks, or has as zero where its ancestor did not.

    Only weights and per-channel vectors die; a constant that the offspring has no use for is left alone.
    """
    laid_out = lay_out(plan, offspring)
    found = {}
    for name, tensor in plan.tensors.items():
        values, there = laid_out[name]
        belongs = name in ancestor.weights or bool(tensor.axes)
        live = there & ((values != 0) | (ancestor.array(name) == 0))
        whole = not tensor.zeroed or not belongs or live.all()
        found[name] = tensor if whole else replace(tensor, mask=live)
    return found
