"""What the dependency analysis finds: a channel class for every index of every channel-carrying axis.

Channels are followed by index, not by axis. Two indices (of any tensors, any axes) that must live or die
together share a *class*, a dense integer 0 .. n_classes - 1. A class is the design's `channel` cluster:
producing filters, per-channel parameters and consuming slices of all coupled layers.

A *wire* is finer: indices that carry one value or are combined element by element. Wires of one class differ
only across depthwise convolutions, which read one wire and write another. Liveness runs on wires (a depthwise
filter that died ends the signal), removal on classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

ClassIds = NDArray[np.int64]
Place = int | tuple[int, ...]
"""One axis of a tensor, or several over which channels lie together (heads and what is in them)."""

NOT_ZEROED = frozenset({"variance", "divisor", "exponent", "quantizer"})
"""Roles of channel vectors that keep their values when their channel dies: zero would make NaN or
infinity."""


@dataclass(frozen=True)
class WeightClasses:
    """Classes (or wires) of one prunable weight in its canonical view (O, I, K)."""

    output: ClassIds
    """Shape (O,): the class each output channel produces."""
    input: ClassIds
    """Shape (groups, I): the class each group's input reads. After a Flatten one class stands at many
    inputs."""


@dataclass(frozen=True)
class ChannelVector:
    """A per-channel parameter that belongs to classes and dies with them.

    Bias, norm scale, shift, mean, variance, PRelu slope, an added or multiplied constant.
    """

    name: str
    """Tensor name of the initializer (or Constant)."""
    axis: int
    role: str
    """"bias", "scale", "shift", "mean", "variance", "slope", "addend", "factor", "divisor", "exponent"
    or "quantizer" (scale or zero point)."""
    node_label: str
    layer: str | None = None
    """The weight whose output alone it shapes, before that meets anything else; None after a merge."""


@dataclass(frozen=True)
class Pin:
    """Classes that cannot be removed, and why."""

    classes: ClassIds
    node_label: str
    reason: str


@dataclass(frozen=True)
class EqualCount:
    """Every row of `classes` that is kept must keep equally many members (groups of a convolution, heads of
    an attention), so that the tensor stays rectangular."""

    classes: ClassIds
    """Shape (..., M): rows along the last axis."""
    node_label: str
    reason: str
    lines: tuple[ClassIds | None, ...] = ()
    """Per axis before the last: the class of each line (a group, a head), which can only go with all its
    members; None where lines cannot go. A row is kept where all its lines are."""

    def kept_rows(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Shape of `classes` without its last axis: True where no line of the row goes.

        Args:
            kept: shape (n_classes,).
        """
        rows = np.ones(self.classes.shape[:-1], dtype=np.bool_)
        for axis, line in enumerate(self.lines):
            if line is not None:
                others = [1] * rows.ndim
                others[axis] = line.size
                rows = rows & kept[line].reshape(others)
        return rows


@dataclass(frozen=True)
class CountRewrite:
    """A number stored in the graph that counts channels: a Reshape target's entry, a Split size, a group
    attribute.

    When channels go it becomes the number of kept members of `classes`; of classes in rows, those of any row
    that is kept (see `EqualCount`).
    """

    node: ir.Node
    node_label: str
    slot: int | str
    """Input index of the constant, or the attribute's name."""
    position: int | None
    """Index in the constant (flattened) or list attribute; None for a scalar attribute."""
    classes: ClassIds
    """Shape (n,), or (..., n)."""
    axis: ClassIds | None = None
    """Classes of the whole axis where the number counts from its end: it changes when any of them goes."""

    def changes(self, kept: NDArray[np.bool_]) -> bool:
        """Whether the number must be written anew."""
        return not (kept[self.classes].all() and (self.axis is None or kept[self.axis].all()))

    def count(self, kept: NDArray[np.bool_]) -> int:
        """The number for the classes that are kept, shape (n_classes,)."""
        return int(np.count_nonzero(kept[self.classes], axis=-1).max(initial=0))


@dataclass(frozen=True)
class Parts:
    """A Split into parts whose sizes are not written down: they become explicit where parts shrink unevenly.

    Attributes are as of `CountRewrite`.
    """

    node: ir.Node
    node_label: str
    classes: tuple[ClassIds, ...]
    """Per output."""


@dataclass(frozen=True)
class Relabel:
    """A chain of Reshapes, Transposes and the like that only reorders channels (a channel shuffle): its
    result is `source` taken at `indices` along one axis. Where channels go, a Gather takes its place."""

    node: ir.Node
    """The last of the chain."""
    node_label: str
    output: int
    axis: int
    """Of the result."""
    source: ir.Value
    source_axis: int
    indices: NDArray[np.int64]
    """Shape (length of the result's axis,): positions in the source's axis."""


@dataclass(frozen=True)
class Selection:
    """An operand that is not followed itself is combined channel by channel with one that is: where channels
    go, a Gather picks the others from it."""

    node: ir.Node
    node_label: str
    slot: int
    axis: int
    classes: ClassIds


@dataclass(frozen=True)
class Correction:
    """A mean over channels: where channels that are zero go, it is multiplied by kept / all."""

    node: ir.Node
    node_label: str
    classes: ClassIds


@dataclass(frozen=True)
class Frozen:
    """A computation with the number of channels that is no size: where it would change, the number that it
    was takes its place."""

    node: ir.Node
    node_label: str
    slot: int
    value: NDArray[np.generic]
    classes: ClassIds
    """Those counted."""


@dataclass(frozen=True)
class Link:
    """Channels read by something else than a weight: kept where the reader is kept, unless they are zero."""

    source: ClassIds
    """Shape (n,)."""
    target: ClassIds | None
    """Shape (n,): what reads each; None: something that always stays."""
    zero: Flow | None
    """When a source is certainly zero, and so may go whatever becomes of its reader: flags of shape (n,)."""
    node_label: str
    reason: str


@dataclass(frozen=True)
class IndexRewrite:
    """A constant of indices into a channel axis (Gather): kept ones are renumbered, removed ones dropped."""

    node: ir.Node
    node_label: str
    slot: int
    classes: ClassIds
    """Classes of the axis that the indices point into."""


@dataclass(frozen=True)
class Merge:
    """An element-wise addition whose `operand` is the private output of one layer: a residual branch's
    end."""

    node: ir.Node
    node_label: str
    operand: int
    layer: str


class Flow:
    """When a channel is certainly zero: an expression over tensors, evaluated on a file's own values.

    Every rule that knows how its operator treats zeros records one per output axis; no record means "not
    zero".
    """


@dataclass(frozen=True)
class Activation(Flow):
    """Zero where the activation's channel is."""

    name: str
    axis: Place


@dataclass(frozen=True)
class Constant(Flow):
    """Zero where the constant's slice along `axis` holds zeros only; `axis` None: the whole constant."""

    name: str
    axis: int | None


@dataclass(frozen=True)
class Zeros(Flow):
    """Always zero: what zero padding adds."""

    length: int


@dataclass(frozen=True)
class AllOf(Flow):
    """Zero where every term is: a sum."""

    terms: tuple[Flow, ...]


@dataclass(frozen=True)
class AnyOf(Flow):
    """Zero where some term is: a product."""

    terms: tuple[Flow, ...]


@dataclass(frozen=True)
class Taken(Flow):
    """Relabelled: index i of the result is index `indices[i]` of the term (Reshape, Slice, Gather), both
    flattened; the result has the shape of `indices`."""

    term: Flow
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Joined(Flow):
    """Terms one after another (Concat); None stands for `length` channels that are not known to be zero."""

    terms: tuple[tuple[Flow | None, int], ...]


@dataclass(frozen=True)
class Contraction(Flow):
    """Output o of a weight is zero where every live (o, i) slice reads a zero channel and the bias is
    zero."""

    weight: str
    source: Flow
    """Flags of the input channels in the order (groups, I), flattened."""
    bias: Flow | None


@dataclass(frozen=True)
class FlowStep:
    """The zero channels of one tensor axis, or of several that carry channels together."""

    name: str
    axis: Place
    flow: Flow


@dataclass(frozen=True)
class Read:
    """One node that reads a prunable weight: which activation axis it contracts."""

    weight: str
    node: ir.Node
    source: str | None
    """Name of the contracted activation; None where it is not followed."""
    axis: int


@dataclass(frozen=True)
class Coupling:
    """Result of `dependency.analyse`."""

    n_classes: int
    axes: Mapping[tuple[str, int], ClassIds]
    """(tensor name, axis) -> class per index, for activations, weights' operands and per-channel vectors
    alike."""
    weights: Mapping[str, WeightClasses]
    vectors: tuple[ChannelVector, ...]
    pins: tuple[Pin, ...]
    equal_counts: tuple[EqualCount, ...]
    wire_class: ClassIds = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Shape (n_wires,): the class each wire belongs to."""
    weight_wires: Mapping[str, WeightClasses] = field(default_factory=dict)
    """As `weights`, with wires."""
    vector_wires: tuple[ClassIds, ...] = ()
    """For each of `vectors`: wire per index along its axis."""
    grids: Mapping[tuple[str, tuple[int, ...]], ClassIds] = field(default_factory=dict)
    """(tensor name, axes) -> class per position, for activations whose channels lie over several axes; the
    axes are not among `axes`."""
    links: tuple[Link, ...] = ()
    link_wires: tuple[tuple[ClassIds, ClassIds | None], ...] = ()
    """For each of `links`: wires of its sources and targets."""
    given: ClassIds = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Wires of lines (heads, groups), which nothing puts out."""
    fed: ClassIds = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Wires that something else than a weight puts out (an embedding table)."""
    counts: tuple[CountRewrite, ...] = ()
    parts: tuple[Parts, ...] = ()
    relabels: tuple[Relabel, ...] = ()
    selections: tuple[Selection, ...] = ()
    corrections: tuple[Correction, ...] = ()
    frozen: tuple[Frozen, ...] = ()
    indices: tuple[IndexRewrite, ...] = ()
    merges: tuple[Merge, ...] = ()
    flows: tuple[FlowStep, ...] = ()
    """In topological order."""
    reads: tuple[Read, ...] = ()

    def pinned(self) -> NDArray[np.bool_]:
        """Shape (n_classes,): True where some pin names the class."""
        mask = np.zeros(self.n_classes, dtype=np.bool_)
        for pin in self.pins:
            mask[pin.classes] = True
        return mask
