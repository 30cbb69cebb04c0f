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

from evonnx.network import Array

Indices = NDArray[np.int64]
Lineage = Mapping[tuple[str, int], Indices]
"""(initializer name, axis of its operand) -> the ancestor's indices that are left, ascending. Axes that were
never cut are missing. For a grouped convolution axis 1 counts the inputs of all groups one after another."""


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
    """A grouped convolution's weight, (O, I, k...): outputs stay by their own index, inputs group by
    group."""

    tensor: str
    groups: int
    kept_outputs: Indices
    """Out of O; equally many per group."""
    kept_inputs: tuple[Indices, ...]
    """Per group, out of I; equally many each."""
    outputs: int
    inputs_per_group: int


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
    axis: int
    kept: Indices
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
    axis: int
    """Axis of the activation."""
    kept: Indices
    """Positions in the activation as it stands after all cuts."""
    length: int


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
                f"{c.kept_inputs[0].size} of {c.inputs_per_group} inputs each stay"
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
    kept: Lineage = field(default_factory=dict)
    """(activation name, axis) -> indices of the masked model's activation that are left; axes not named are
    whole. What a proof compares: `masked[name].take(kept[name, axis], axis)` with `compact[name]`."""
