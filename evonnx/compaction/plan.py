"""What removal will do, as data: which indices of which constants go, which numbers change, what is bypassed.

A plan names nodes by their position in the graph it was made for, and by label for readers. `describe` prints
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.dependency.coupling import Place
from evonnx.network import Array

Indices = NDArray[np.int64]
Lineage = Mapping[tuple[str, int], Indices]
"""(initializer name, axis of its operand) -> the ancestor's indices that are left, ascending. Axes that were
never cut are missing. For a grouped convolution the axis that runs within groups (inputs of Conv, outputs of
ConvTranspose) counts the channels of all groups one after another."""


@dataclass(frozen=True)
class NodeAt:
    """A node of the graph that a plan was made for."""

    index: int
    """Position in the graph."""
    label: str


@dataclass(frozen=True)
class AxisCut:
    """Indices of one axis of a constant stay, the rest go."""

    tensor: str
    axis: int
    kept: Indices
    length: int
    """Before the cut."""


@dataclass(frozen=True)
class GroupedCut:
    """A grouped convolution's weight: outputs stay by their own index, inputs group by group."""

    tensor: str
    groups: int
    kept_outputs: Indices
    """Out of O; equally many per group."""
    kept_inputs: tuple[Indices, ...]
    """Per group, out of I; equally many each, none for a group that goes."""
    outputs: int
    inputs_per_group: int
    transposed: bool
    """Whether it is stored as ConvTranspose does: (groups * I, O / groups, k...) in place of (O, I, k...)."""

    def apply(self, stored: Array) -> Array:
        """What is left of the stored weight."""
        per_group = self.outputs // self.groups
        group_of = self.kept_outputs // per_group
        parts = []
        for group in np.unique(group_of):
            outputs, inputs = self.kept_outputs[group_of == group], self.kept_inputs[group]
            if self.transposed:
                rows = stored[inputs + group * self.inputs_per_group]
                parts.append(rows[:, outputs - group * per_group])
            else:
                parts.append(stored[outputs][:, inputs])
        return np.concatenate(parts)

    def inputs_of_all_groups(self) -> Indices:
        """Inputs that stay, those of all groups counted one after another."""
        starts = np.arange(self.groups) * self.inputs_per_group
        return np.concatenate([row + start for row, start in zip(self.kept_inputs, starts, strict=True)])


@dataclass(frozen=True)
class RelayoutFold:
    """A weight that is cut behind a Reshape or Transpose: the relayout is applied to the constant for
    good."""

    tensor: str
    shape: tuple[int, ...]
    """As the nodes that read it see it; cuts of this tensor count in this shape."""


@dataclass(frozen=True)
class ActivationCut:
    """An activation that gets shorter: indices of the longer one that are left."""

    tensor: str
    axis: Place
    """One axis; or several over which channels lie together."""
    kept: Indices
    """Shape (n,); of several axes: what is left of them, as flat positions over them."""
    length: int


@dataclass(frozen=True)
class AttributeChange:
    """A node attribute that counts channels gets a new value."""

    node: NodeAt
    attribute: str
    value: int | tuple[int, ...]


@dataclass(frozen=True)
class ConstantChange:
    """A constant that counts or numbers channels changes for one node."""

    node: NodeAt
    slot: int
    tensor: str
    value: Array


@dataclass(frozen=True)
class InputGather:
    """Single dead inputs of a matrix whose channels live: a Gather picks the others."""

    node: NodeAt
    """The Gemm or MatMul."""
    slot: int
    """Its activation input."""
    weight: str
    """Tensor that it is done for."""
    axis: int
    """Axis of the activation."""
    kept: Indices
    """Positions in the activation as it stands after all cuts."""
    length: int


@dataclass(frozen=True)
class Relabelling:
    """A chain of relabellings (a channel shuffle) that no longer divides evenly: a Gather takes its place."""

    node: NodeAt
    """The last of the chain."""
    output: int
    source: str
    axis: int
    indices: Indices
    """Positions in the source as it stands after all cuts."""


@dataclass(frozen=True)
class SplitSizes:
    """A Split into parts that are equal no more: their sizes are written down."""

    node: NodeAt
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class DroppedInput:
    """An input of a Concat of which no channel is left."""

    node: NodeAt
    slot: int


@dataclass(frozen=True)
class Scaling:
    """A mean over fewer channels: its result is multiplied by kept / all."""

    node: NodeAt
    factor: float


@dataclass(frozen=True)
class Bypass:
    """An addition of exactly zero: its other operand takes its place."""

    node: NodeAt
    keep: int
    """Input index of what stays."""


@dataclass(frozen=True)
class RemovedOutputs:
    """Output channels of one weight that go, by the argument that makes it exact."""

    tensor: str
    unread: Indices
    """Backward: every use ends in zeroed weights or in channels that go too."""
    silent: Indices
    """Forward: some use is left, but what it reads is zero for every input."""


@dataclass(frozen=True)
class Padding:
    """Channels that are dead and stay, with the reason."""

    tensor: str
    indices: Indices
    """Output channels of this weight."""
    reason: str


@dataclass(frozen=True)
class Plan:
    """Everything that one compaction changes. Empty for a model in which nothing is dead."""

    cuts: tuple[AxisCut, ...] = ()
    grouped_cuts: tuple[GroupedCut, ...] = ()
    folds: tuple[RelayoutFold, ...] = ()
    activations: tuple[ActivationCut, ...] = ()
    attributes: tuple[AttributeChange, ...] = ()
    constants: tuple[ConstantChange, ...] = ()
    gathers: tuple[InputGather, ...] = ()
    relabellings: tuple[Relabelling, ...] = ()
    splits: tuple[SplitSizes, ...] = ()
    dropped: tuple[DroppedInput, ...] = ()
    scalings: tuple[Scaling, ...] = ()
    bypasses: tuple[Bypass, ...] = ()
    removed_nodes: tuple[NodeAt, ...] = ()
    removed_layers: tuple[str, ...] = ()
    """Prunable weights that go entirely."""
    removals: tuple[RemovedOutputs, ...] = ()
    padding: tuple[Padding, ...] = ()
    refusals: tuple[str, ...] = ()
    """What should have gone and cannot, one sentence each."""
    notes: tuple[str, ...] = ()

    def is_empty(self) -> bool:
        """Whether applying it changes nothing."""
        return not (
            self.cuts
            or self.grouped_cuts
            or self.folds
            or self.attributes
            or self.constants
            or self.gathers
            or self.bypasses
            or self.relabellings
            or self.splits
            or self.dropped
            or self.scalings
            or self.removed_nodes
        )

    def describe(self) -> str:
        """The plan in words, one line per change."""
        lines = [
            *(f"bypass {one.node.label}: input {one.keep} takes its place" for one in self.bypasses),
            *(f"remove layer {name}" for name in self.removed_layers),
            *(f"remove node {node.label}" for node in self.removed_nodes),
            *(f"fold the relayout of {fold.tensor} into it: {list(fold.shape)}" for fold in self.folds),
            *(f"cut {c.tensor} axis {c.axis}: {c.kept.size} of {c.length} stay" for c in self.cuts),
            *(
                f"cut {c.tensor} in {c.groups} groups: {c.kept_outputs.size} of {c.outputs} outputs, "
                f"{max(one.size for one in c.kept_inputs)} of {c.inputs_per_group} inputs each stay"
                for c in self.grouped_cuts
            ),
            *(
                f"set {change.attribute} of {change.node.label} to {change.value}"
                for change in self.attributes
            ),
            *(
                f"set input {change.slot} of {change.node.label} ({change.tensor}) to "
                f"{np.array2string(change.value.ravel(), threshold=8)}"
                for change in self.constants
            ),
            *(
                f"gather {one.kept.size} of {one.length} inputs of {one.node.label} ({one.weight})"
                for one in self.gathers
            ),
            *(
                f"gather {one.indices.size} channels of {one.source} in place of {one.node.label}"
                for one in self.relabellings
            ),
            *(f"set the sizes of {one.node.label} to {list(one.sizes)}" for one in self.splits),
            *(f"drop input {one.slot} of {one.node.label}" for one in self.dropped),
            *(f"multiply the mean of {one.node.label} by {one.factor:.4g}" for one in self.scalings),
            *(
                f"of {one.tensor} {one.unread.size} channels are not read, {one.silent.size} are always zero"
                for one in self.removals
            ),
            *(f"keep {pad.indices.size} dead channels of {pad.tensor}: {pad.reason}" for pad in self.padding),
            *(f"refused: {refusal}" for refusal in self.refusals),
            *self.notes,
        ]
        return "\n".join(lines) if lines else "nothing to remove"


@dataclass(frozen=True)
class Compacted:
    """A compact model and how it relates to the masked one and to the ancestor."""

    model: ir.Model
    lineage: Lineage
    """Against the ancestor: composed over all generations."""
    plan: Plan = field(default_factory=Plan)
    kept: Mapping[tuple[str, Place], Indices] = field(default_factory=dict)
    """(activation name, axis or axes) -> indices of the masked model's activation that are left; axes not
    named are whole. What a proof compares: `masked[name].take(kept[name, axis], axis)` with
    `compact[name]`; over several axes the same, with these axes as one."""
