"""A plan for a module: per tensor of the ancestor its masks, kept indices and what they hang together with.

Indices that must live or die together share a *class* (`dependency.coupling`), whatever tensors they belong
to. What is kept of an axis is what is kept of its classes, so whoever applies a plan may keep more than it
says, class by class, and every tensor still fits every other: what is kept in addition holds zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evonnx.module_plan.sketch import Sketch
from evonnx.network import Relayout

ClassIds = NDArray[np.int64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TensorPlan:
    """One floating-point constant of the ancestor."""

    name: str
    shape: tuple[int, ...]
    """As the ancestor stores it."""
    dtype: str
    """As numpy names it."""
    sketch: Sketch
    """Of the ancestor's numbers, by which a module's parameter is recognised."""
    axes: Mapping[int, ClassIds] = field(default_factory=dict)
    """By axis of the stored tensor, the class per index; axes not named are whole. Of a grouped convolution
    axis 1 has shape (groups, n): it runs within each group."""
    mask: Flags | None = None
    """In the stored shape; False where the offspring has zero or nothing. None: all lives."""
    bias: str | None = None
    """The bias that the same node adds, if it is a constant."""
    zeroed: bool = True
    """Whether what dies becomes zero; variances and divisors keep their numbers."""
    relayouts: tuple[Relayout, ...] = ()
    """From the stored tensor to the operand, in which lineage counts."""

    @property
    def groups(self) -> int:
        """Of a grouped convolution; 1 for all else."""
        return next((ids.shape[0] for ids in self.axes.values() if ids.ndim == 2), 1)

    def kept(self, flags: Flags) -> dict[int, Indices]:
        """Indices that stay per axis, for axes that get shorter.

        Of the axis within groups, the channels of all groups are counted one after another.

        Args:
            flags: shape (n_classes,), True where a class stays.
        """
        return {axis: np.flatnonzero(flags[ids]) for axis, ids in self.axes.items() if not flags[ids].all()}


@dataclass(frozen=True)
class Count:
    """A number in the graph that counts channels and changes: a module may have it written down, too."""

    node: str
    what: str
    """In words: "input 1, entry 2"."""
    old: int
    new: int
    classes: ClassIds
    """Shape (n,): keeping these whole leaves the number as it was."""


@dataclass(frozen=True)
class InputPlan:
    """An input of the ancestor with the shape that it was analysed with."""

    name: str
    dtype: str
    """As numpy names it."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModulePlan:
    """Everything that is needed to mask or shrink the module that an ancestor was exported from."""

    ancestor: str
    """Name of its file, for messages."""
    offspring: str
    """Likewise."""
    tensors: Mapping[str, TensorPlan]
    """By name, in graph order."""
    flags: Flags
    """Shape (n_classes,): the classes that stay."""
    counts: tuple[Count, ...] = ()
    inputs: tuple[InputPlan, ...] = ()
    kept_whole: tuple[str, ...] = ()
    """What the offspring removed and a module keeps, filled with zeros, one sentence each with the reason."""

    def affected(self, name: str) -> bool:
        """Whether anything of a tensor goes or is masked."""
        tensor = self.tensors[name]
        return tensor.mask is not None or bool(tensor.kept(self.flags))
