"""What changes in the graph beside the weights when channels go: numbers, indices, and a few operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np
import onnx_ir as ir

from evonnx.compaction.plan import (
    AttributeChange,
    ConstantChange,
    Indices,
    InputGather,
    NodeAt,
    Relabelling,
    Scaling,
    SplitSizes,
)
from evonnx.dependency.coupling import Coupling, Relabel
from evonnx.dependency.observed import Edges
from evonnx.dependency.zeros import Flags
from evonnx.network import Array, Network
from evonnx.onnx_io import constant_tensor

_GATHER_SHARE = 0.25
"""A Gather is put before a matrix only where at least this share of its columns goes ..."""
_GATHER_BYTES = 160
"""... and more bytes are saved than it takes: 8 per index and about this many for the node."""


class Changes:
    """Changes that follow from which classes are kept; nothing is decided here.

    Args:
        network: the model.
        coupling: its coupling.
        at: every node's place.
        gone: nodes that are removed.
    """

    def __init__(
        self, network: Network, coupling: Coupling, at: Mapping[ir.Node, NodeAt], gone: Set[ir.Node]
    ) -> None:
        self.network, self.coupling, self.at, self.gone = network, coupling, at, gone

    def rewrites(self, kept: Flags) -> tuple[list[AttributeChange], list[ConstantChange]]:
        """Numbers that count channels, indices into them, and numbers that stay as they were."""
        attributes: dict[tuple[ir.Node, str], list[int] | int] = {}
        constants: dict[tuple[ir.Node, int], Array] = {
            (one.node, one.slot): one.value.copy()
            for one in self.coupling.frozen
            if one.node not in self.gone and not kept[one.classes].all()
        }
        for rewrite in self.coupling.counts:
            if rewrite.node in self.gone or not rewrite.changes(kept):
                continue
            count = rewrite.count(kept)
            if isinstance(rewrite.slot, str):
                key = (rewrite.node, rewrite.slot)
                if rewrite.position is None:
                    attributes[key] = count
                    continue
                numbers = attributes.get(key, list(rewrite.node.attributes.get_ints(rewrite.slot, ())))
                assert isinstance(numbers, list)
                numbers[rewrite.position] = count
                attributes[key] = numbers
            else:
                array = constants.get((rewrite.node, rewrite.slot))
                array = self._operand(rewrite.node, rewrite.slot).copy() if array is None else array
                array.reshape(-1)[rewrite.position] = count
                constants[rewrite.node, rewrite.slot] = array
        for index in self.coupling.indices:
            stays = kept[index.classes]
            if index.node in self.gone or stays.all():
                continue
            old = self._operand(index.node, index.slot)
            positions = old.astype(np.int64)
            positions = np.where(positions < 0, positions + stays.size, positions)
            left = positions[stays[positions]] if old.ndim == 1 else positions
            renumbered = (np.cumsum(stays) - 1)[left]
            constants[index.node, index.slot] = renumbered.astype(old.dtype)
        return (
            [
                AttributeChange(self.at[node], name, value if isinstance(value, int) else tuple(value))
                for (node, name), value in attributes.items()
            ],
            [
                ConstantChange(self.at[node], slot, str(_input(node, slot).name), array)
                for (node, slot), array in constants.items()
            ],
        )

    def _operand(self, node: ir.Node, slot: int) -> Array:
        return self.network.array(str(_input(node, slot).name))

    # ------------------------------------------------------------------- operators that take other channels

    def relabels(self, kept: Flags) -> list[Relabel]:
        """Relabellings of which channels go."""
        found = []
        for one in self.coupling.relabels:
            source = kept[self.coupling.axes[str(one.source.name), one.source_axis]]
            value = kept[self.coupling.axes[str(one.node.outputs[one.output].name), one.axis]]
            if one.node not in self.gone and not (source.all() and value.all()):
                found.append(one)
        return found

    def relabelling(self, one: Relabel, kept: Flags) -> Relabelling:
        """A relabelling as a Gather from its source."""
        source = kept[self.coupling.axes[str(one.source.name), one.source_axis]]
        value = kept[self.coupling.axes[str(one.node.outputs[one.output].name), one.axis]]
        indices = (np.cumsum(source) - 1)[one.indices[value]]
        return Relabelling(self.at[one.node], one.output, str(one.source.name), one.source_axis, indices)

    def selections(self, kept: Flags) -> Iterator[InputGather]:
        """Gathers on operands that are not followed."""
        for one in self.coupling.selections:
            stays = kept[one.classes]
            if one.node not in self.gone and not stays.all():
                name = str(_input(one.node, one.slot).name)
                yield InputGather(
                    self.at[one.node], one.slot, name, one.axis, np.flatnonzero(stays), stays.size
                )

    def splits(self, kept: Flags) -> Iterator[SplitSizes]:
        """Splits whose parts are equal no more."""
        for one in self.coupling.parts:
            sizes = tuple(int(np.count_nonzero(kept[part])) for part in one.classes)
            if one.node not in self.gone and len(set(sizes)) > 1:
                yield SplitSizes(self.at[one.node], sizes)

    def means(self, kept: Flags) -> tuple[list[Scaling], list[ConstantChange]]:
        """Means over fewer channels; a factor that stands behind one already is changed instead."""
        scalings: list[Scaling] = []
        changes: list[ConstantChange] = []
        for one in self.coupling.corrections:
            share = float(np.mean(kept[one.classes]))
            if one.node in self.gone or share == 1:
                continue
            uses = list(one.node.outputs[0].uses())
            reader = uses[0].node if len(uses) == 1 else None
            if reader is not None and reader.op_type == "Mul":
                slot = 1 - uses[0].idx
                tensor = constant_tensor(reader.inputs[slot])
                if tensor is not None and tensor.size == 1:
                    old = tensor.numpy()
                    new = np.asarray(old * np.asarray(share, dtype=old.dtype))
                    changes.append(ConstantChange(self.at[reader], slot, str(_input(reader, slot).name), new))
                    continue
            scalings.append(Scaling(self.at[one.node], share))
        return scalings, changes

    # --------------------------------------------------------------------------------- single dead inputs

    def gathers(
        self, kept: Flags, edges: Mapping[str, Edges]
    ) -> Iterator[tuple[InputGather, Indices, ir.Node | None]]:
        """(gather, kept columns in the weight's old numbering, the Gather that is there already)."""
        reads = {read.weight: read for read in self.coupling.reads if read.node not in self.gone}
        for name, edge in edges.items():
            weight, read = edge.weight, reads.get(name)
            if weight.is_convolution or weight.taps != 1 or len(weight.uses) != 1 or read is None:
                continue
            stays = kept[edge.input[0]]
            used = stays & edge.live[kept[edge.output]].any(axis=0)
            length, left = int(np.count_nonzero(stays)), int(np.count_nonzero(used))
            slot = 1 - weight.uses[0].input_index
            source = read.node.inputs[slot]
            if source is None or read.source is None or not 0 < left <= (1 - _GATHER_SHARE) * length:
                continue
            existing = self._gather_before(source, read.axis)
            column_bytes = int(np.count_nonzero(kept[edge.output])) * self.network.array(name).itemsize
            saved = (length - left) * column_bytes
            if existing is None and saved <= 8 * left + _GATHER_BYTES:
                continue
            columns = np.flatnonzero(used)
            positions = (np.cumsum(stays) - 1)[columns]
            gather = InputGather(self.at[read.node], slot, name, read.axis, positions, length)
            yield gather, columns, existing

    def _gather_before(self, value: ir.Value, axis: int) -> ir.Node | None:
        """A Gather by constant indices along this axis that feeds nothing else."""
        node = value.producer()
        if node is None or node.op_type != "Gather" or len(value.uses()) != 1 or value.is_graph_output():
            return None
        ours = any(index.node is node for index in self.coupling.indices)
        rank = len(self.network.shapes.get(str(value.name), ()))
        return node if ours and node.attributes.get_int("axis", 0) in (axis, axis - rank) else None

    def extend(
        self, constants: list[ConstantChange], node: ir.Node, positions: Indices
    ) -> list[ConstantChange]:
        """Let an existing Gather pick `positions` of what it picks after the other changes."""
        at = self.at[node]
        current = next((change.value for change in constants if change.node == at and change.slot == 1), None)
        array = self._operand(node, 1) if current is None else current
        others = [change for change in constants if change.node != at or change.slot != 1]
        return [*others, ConstantChange(at, 1, str(_input(node, 1).name), array[positions])]


def _input(node: ir.Node, slot: int) -> ir.Value:
    value = node.inputs[slot]
    assert value is not None
    return value
