"""What the dependency analysis finds: a channel class for every index of every channel-carrying axis.

Channels are followed by index, not by axis. Two indices (of any tensors, any axes) that must live or die together
share a *class*, a dense integer 0 .. n_classes - 1. A class is the design's `channel` cluster: producing filters,
per-channel parameters and consuming slices of all coupled layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ClassIds = NDArray[np.int64]


@dataclass(frozen=True)
class WeightClasses:
    """Classes of one prunable weight in its canonical view (O, I, K)."""

    output: ClassIds
    """Shape (O,): the class each output channel produces."""
    input: ClassIds
    """Shape (groups, I): the class each group's input reads. After a Flatten one class stands at many inputs."""


@dataclass(frozen=True)
class ChannelVector:
    """A per-channel parameter that belongs to classes and dies with them: bias, norm scale, shift, mean, variance,
    PRelu slope, an added or multiplied constant."""

    name: str
    """Tensor name of the initializer (or Constant)."""
    axis: int
    role: str
    """"bias", "scale", "shift", "mean", "variance", "slope", "addend" or "factor"."""
    node_label: str


@dataclass(frozen=True)
class Pin:
    """Classes that cannot be removed, and why."""

    classes: ClassIds
    node_label: str
    reason: str


@dataclass(frozen=True)
class EqualCount:
    """Each row of `classes` must keep equally many members (groups of a convolution, heads of an attention)."""

    classes: tuple[ClassIds, ...]
    node_label: str
    reason: str


@dataclass(frozen=True)
class Coupling:
    """Result of `dependency.analyse`."""

    n_classes: int
    axes: Mapping[tuple[str, int], ClassIds]
    """(tensor name, axis) -> class per index, for activations, weights' operands and per-channel vectors alike."""
    weights: Mapping[str, WeightClasses]
    vectors: tuple[ChannelVector, ...]
    pins: tuple[Pin, ...]
    equal_counts: tuple[EqualCount, ...]

    def pinned(self) -> NDArray[np.bool_]:
        """Shape (n_classes,): True where some pin names the class."""
        mask = np.zeros(self.n_classes, dtype=np.bool_)
        for pin in self.pins:
            mask[pin.classes] = True
        return mask
