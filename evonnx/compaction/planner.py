"""From a model file with zeros in it to a removal plan: pure analysis, nothing is changed.

1. forward: which channels are always zero; additions of zero are bypassed, and what nobody reads then goes.
2. backward: which classes still influence an output.
3. what stays although it is dead: the last channel of an axis, equal counts, alignment.
4. cuts of constants, numbers that change with them, single dead inputs of matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from evonnx.compaction.changes import Changes
from evonnx.compaction.plan import (
    ActivationCut,
    AxisCut,
    Bypass,
    DroppedInput,
    GroupedCut,
    Indices,
    NodeAt,
    Padding,
    Plan,
    RelayoutFold,
    RemovedOutputs,
)
from evonnx.dependency.coupling import ClassIds, Coupling, EqualCount
from evonnx.dependency.observed import Edges, Observed, Reading, edges_of, readings_of
from evonnx.dependency.reach import Input, empty_inputs, find_bypasses, needed_nodes, weights_read
from evonnx.dependency.zeros import Flags, live_slices, zero_channels
from evonnx.network import Network, Weight
from evonnx.onnx_io import constant_tensor


def plan_compaction(network: Network, coupling: Coupling, align: int = 1) -> Plan:
    """Plan the removal of everything that is provably dead in a model.

    Args:
        network: a model whose dead synapses are exactly zero.
        coupling: its coupling.
        align: keep extra dead channels so that every layer puts out a multiple of this many.
    """
    if align < 1:
        raise ValueError(f"align must be at least 1, not {align}")
    return _Planner(network, coupling, align).plan()


class _Planner:
    def __init__(self, network: Network, coupling: Coupling, align: int) -> None:
        self.network = network
        self.coupling = coupling
        self.align = align
        self.nodes = list(network.model.graph)
        self.at = {node: NodeAt(index, network.label(node)) for index, node in enumerate(self.nodes)}
        self.live = live_slices(network)
        self.zeros = zero_channels(network, coupling, self.live)
        self.all_bypasses = find_bypasses(network, self.zeros)
        self.readings = readings_of(network, coupling, self.zeros)
        self.dropped: set[Input] = set()
        self._start()

    def _start(self) -> None:
        """What is computed, and what is seen of it, before anything is kept for other reasons."""
        self._reach({})
        self.sources = weights_read(self.network, self.coupling, self.needed)
        self.edges = edges_of(self.network, self.coupling, self.live, self.zeros, self.sources)
        self.observed = Observed(self.coupling, self.edges, self.readings)
        self.extra: dict[str, Flags] = {}
        self.refusals: list[str] = []
        self.notes: list[str] = []

    def _reach(self, relabelled: Mapping[ir.Value, ir.Value]) -> None:
        """Which nodes still lead somewhere."""
        self.needed = needed_nodes(self.network.model.graph, self.all_bypasses, relabelled, self.dropped)
        self.bypasses = [
            Bypass(self.at[node], kept) for node, kept in self.all_bypasses if node in self.needed
        ]
        self.removed = [self.at[node] for node in self.nodes if node not in self.needed]
        self.gone = {self.nodes[one.index] for one in self.removed}
        graph = self.network.model.graph
        outputs = [value for node in self.nodes if node not in self.gone for value in node.outputs]
        names = {str(value.name) for value in outputs if constant_tensor(value) is None}
        names |= {str(value.name) for value in relabelled}
        self.computed = names | ({str(value.name) for value in graph.inputs} - set(graph.initializers))

    def plan(self) -> Plan:
        self._settle_all()
        kept = self.observed.kept
        relabels = Changes(self.network, self.coupling, self.at, self.gone).relabels(kept)
        if relabels:
            self._reach({one.node.outputs[one.output]: one.source for one in relabels})
        changes = Changes(self.network, self.coupling, self.at, self.gone)
        gathers = list(changes.gathers(kept, self.edges))
        cuts, grouped, folds = self._weight_cuts(kept, {one.weight: columns for one, columns, _ in gathers})
        cuts += self._vector_cuts(kept)
        attributes, constants = changes.rewrites(kept)
        scalings, changed = changes.means(kept)
        constants += changed
        activations = self._activation_cuts(kept)
        inserted = list(changes.selections(kept))
        for gather, columns, existing in gathers:
            if existing is None:
                inserted.append(gather)
                continue
            constants = changes.extend(constants, existing, gather.kept)
            source = self.nodes[gather.node.index].inputs[gather.slot]
            assert source is not None
            key = (str(source.name), gather.axis)
            activations = [cut for cut in activations if (cut.tensor, cut.axis) != key]
            activations.append(ActivationCut(*key, columns, self.coupling.axes[key].size))
            self.notes.append(
                f"the Gather before {gather.node.label} picks {gather.kept.size} instead of {gather.length}"
            )
        for fold in folds:
            self.notes.append(f"the relayout of {fold.tensor} is folded into the constant, to be cut")
        return Plan(
            cuts=tuple(cuts),
            grouped_cuts=tuple(grouped),
            folds=tuple(folds),
            activations=tuple(activations),
            attributes=tuple(attributes),
            constants=tuple(constants),
            gathers=tuple(inserted),
            relabellings=tuple(changes.relabelling(one, kept) for one in relabels),
            splits=tuple(changes.splits(kept)),
            dropped=tuple(
                DroppedInput(self.at[node], slot) for node, slot in sorted_inputs(self.dropped, self.at)
            ),
            scalings=tuple(scalings),
            bypasses=tuple(self.bypasses),
            removed_nodes=tuple(self.removed),
            removed_layers=tuple(name for name in self.network.weights if name not in self.edges),
            removals=tuple(self._removals(kept)),
            padding=tuple(self._padding()),
            refusals=tuple(self.refusals),
            notes=tuple(self.notes),
        )

    # ------------------------------------------------------------------------------- what stays although dead

    def _settle_all(self) -> None:
        """Settle; inputs of a Concat of which nothing is left are dropped if nothing else needs them."""
        self._settle_rows()
        self.dropped = self._empty_inputs()
        if self.dropped:
            self._start()
            self._settle()
            if self.dropped <= self._empty_inputs():
                return
            self.dropped = set()
            self._start()
        self._settle()

    def _empty_inputs(self) -> set[Input]:
        return empty_inputs(self.network, self.coupling, self.needed, self.observed.kept)

    def _settle_rows(self) -> None:
        while True:
            before = int(self.observed.kept.sum())
            for constraint in self.coupling.equal_counts:
                self._equalise(constraint)
            if int(self.observed.kept.sum()) == before:
                return

    def _settle(self) -> None:
        """Keep more until every axis has a channel, equal counts are equal and counts are aligned."""
        while True:
            before = int(self.observed.kept.sum())
            self._keep_last()
            self._settle_rows()
            for name, edge in self.edges.items():
                self._align(name, edge)
            if int(self.observed.kept.sum()) == before:
                return

    def _keep(self, classes: ClassIds, reason: str) -> None:
        kept = self.extra.setdefault(reason, np.zeros(self.coupling.n_classes, dtype=np.bool_))
        kept[classes] = True
        self.observed.keep(classes)

    def _keep_last(self) -> None:
        weights = [(name, edge.output) for name, edge in self.edges.items()]
        activations = [(name, ids) for (name, _), ids in self.coupling.axes.items() if self._lives(name)]
        for name, ids in (*weights, *activations):
            if ids.size and not self.observed.kept[ids].any():
                self._keep(ids[:1], "one channel must stay")
                self.refusals.append(
                    f"all {ids.size} channels of {name!r} are dead; one stays, or the path would be cut"
                )

    def _equalise(self, constraint: EqualCount) -> None:
        """Lines with a member that is kept are kept; their rows keep equally many, and at least one."""
        rows = constraint.classes
        members = self.observed.kept[rows]
        for axis, line in enumerate(constraint.lines):
            if line is not None:
                others = tuple(other for other in range(rows.ndim) if other != axis)
                wanted = line[members.any(axis=others) & ~self.observed.kept[line]]
                if wanted.size:
                    self.observed.keep(wanted)
        stays = constraint.kept_rows(self.observed.kept)
        counts = np.count_nonzero(self.observed.kept[rows], axis=-1)
        most = max(1, int(counts[stays].max(initial=0))) if stays.any() else 0
        for place in zip(*np.nonzero(stays & (counts < most)), strict=True):
            row = rows[place]
            dead = row[~self.observed.kept[row]]
            once = dead[np.sort(np.unique(dead, return_index=True)[1])]
            missing = most - int(np.count_nonzero(self.observed.kept[row]))
            if missing > 0:
                self._keep(once[: -(-missing * once.size // dead.size)], constraint.reason)

    def _align(self, name: str, edge: Edges) -> None:
        kept = self.observed.kept[edge.output]
        count = int(np.count_nonzero(kept))
        wanted = min(-(-count // self.align) * self.align, edge.output.size)
        if count < wanted:
            self._keep(edge.output[~kept][: wanted - count], f"channel counts are multiples of {self.align}")

    def _removals(self, kept: Flags) -> Iterator[RemovedOutputs]:
        """By which argument each output goes: backward if it goes without a look at zero values."""
        blind = edges_of(self.network, self.coupling, self.live, {}, self.sources)
        blindly = [Reading(link.source, link.target) for link in self.coupling.links]
        unread = ~Observed(self.coupling, blind, blindly).kept
        for name, edge in self.edges.items():
            gone = ~kept[edge.output]
            if gone.any():
                backward = unread[edge.output]
                yield RemovedOutputs(name, np.flatnonzero(gone & backward), np.flatnonzero(gone & ~backward))

    def _padding(self) -> Iterator[Padding]:
        """Dead outputs that stay, by weight and reason."""
        held = self.coupling.pinned()
        for name, edge in self.edges.items():
            for reason, classes in self.extra.items():
                found = np.flatnonzero(classes[edge.output])
                if found.size:
                    yield Padding(name, found, reason)
            silent = held[edge.output] & ~self.live[name].any(axis=1)
            if not silent.any():
                continue
            for pin in self.coupling.pins:
                found = np.flatnonzero(silent & np.isin(edge.output, pin.classes))
                if found.size:
                    yield Padding(name, found, f"{pin.reason} ({pin.node_label})")

    def _lives(self, tensor: str) -> bool:
        """Whether an activation is still computed."""
        return tensor in self.computed

    # ------------------------------------------------------------------------------------------------- cuts

    def _weight_cuts(
        self, kept: Flags, columns: dict[str, Indices]
    ) -> tuple[list[AxisCut], list[GroupedCut], list[RelayoutFold]]:
        cuts: list[AxisCut] = []
        grouped: list[GroupedCut] = []
        folds: list[RelayoutFold] = []
        for name, edge in self.edges.items():
            weight = edge.weight
            outputs, inputs = kept[edge.output], kept[edge.input]
            if name in columns:
                inputs = np.isin(np.arange(weight.inputs_per_group), columns[name])[None]
            if outputs.all() and inputs.all():
                continue
            if weight.uses[0].relayouts:
                folds.append(RelayoutFold(name, weight.operand_shape))
            if weight.groups == 1:
                cuts += _cut(name, weight.output_axis, outputs)
                cuts += _cut(name, weight.input_axis, inputs[0])
            elif weight.inputs_per_group == 1 and weight.output_axis == 0:
                cuts += _cut(name, 0, outputs)
            else:
                grouped.append(_grouped_cut(name, weight, outputs, inputs))
        return cuts, grouped, folds

    def _vector_cuts(self, kept: Flags) -> list[AxisCut]:
        cuts: list[AxisCut] = []
        for name, axis in dict.fromkeys((vector.name, vector.axis) for vector in self.coupling.vectors):
            cuts += _cut(name, axis, kept[self.coupling.axes[name, axis]])
        alive = [node for node in self.nodes if node not in self.gone]
        read = {str(value.name) for node in alive for value in node.inputs if value is not None}
        return [cut for cut in cuts if cut.tensor in read]

    def _activation_cuts(self, kept: Flags) -> list[ActivationCut]:
        found = []
        for (name, axis), classes in self.coupling.axes.items():
            stays = kept[classes]
            if self._lives(name) and not stays.all():
                found.append(ActivationCut(name, axis, np.flatnonzero(stays), stays.size))
        for (name, axes), classes in self.coupling.grids.items():
            stays = kept[classes]
            if self._lives(name) and not stays.all():
                found.append(ActivationCut(name, axes, _rectangle(stays), stays.size))
        return found


def sorted_inputs(inputs: Iterable[Input], at: Mapping[ir.Node, NodeAt]) -> list[Input]:
    """In graph order."""
    return sorted(inputs, key=lambda one: (at[one[0]].index, one[1]))


def _rectangle(stays: Flags) -> Indices:
    """Flat positions of what stays of a grid, in the shape that is left."""
    outer = tuple(
        int(np.count_nonzero(stays.any(axis=tuple(other for other in range(stays.ndim) if other != axis))))
        for axis in range(stays.ndim - 1)
    )
    return np.flatnonzero(stays).reshape((*outer, -1))


def _cut(name: str, axis: int, stays: Flags) -> list[AxisCut]:
    return [] if stays.all() else [AxisCut(name, axis, np.flatnonzero(stays), stays.size)]


def _grouped_cut(name: str, weight: Weight, outputs: Flags, inputs: Flags) -> GroupedCut:
    return GroupedCut(
        name,
        weight.groups,
        np.flatnonzero(outputs),
        tuple(np.flatnonzero(row) for row in inputs),
        weight.outputs,
        weight.inputs_per_group,
        transposed=weight.output_axis == 1,
    )
