"""Which channels of which activations are exactly zero for every input: the "forward" argument, on a file's
values.

Finite inputs are assumed: zero times infinity is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import (
    NOT_ZEROED,
    Activation,
    AllOf,
    AnyOf,
    Constant,
    Contraction,
    Coupling,
    Flow,
    Joined,
    Place,
    Taken,
    Zeros,
)
from evonnx.network import Network

Flags = NDArray[np.bool_]
Zeroed = Mapping[str, Sequence[tuple[int, Flags]]]
"""Per constant: (axis, True where it is to be zero)."""

_MANY_TAPS = 16
_BLOCK = 1 << 18
"""Flags looked at together."""


def zeroable(network: Network, coupling: Coupling) -> dict[tuple[str, Place], Flags]:
    """As `zero_channels`, were every weight and every channel vector that is ever zeroed all zero.

    What is not zero even then cannot be removed from where all channels are mixed.
    """
    none = {
        name: np.zeros((w.outputs, w.inputs_per_group), dtype=np.bool_) for name, w in network.weights.items()
    }
    evaluator = Evaluator(network, none)
    for vector in coupling.vectors:
        if vector.role not in NOT_ZEROED:
            length = network.array(vector.name).shape[vector.axis]
            evaluator.constants[vector.name, vector.axis] = np.ones(length, dtype=np.bool_)
    return _evaluated(coupling, evaluator)


def live_slices(network: Network) -> dict[str, Flags]:
    """Per prunable weight, shape (O, I): True where a kernel (or single weight) is not all zero."""
    live = {}
    for name, weight in network.weights.items():
        array = network.canonical(name)
        live[name] = array[:, :, 0] != 0 if weight.taps == 1 else some_tap(array != 0)
    return live


def some_tap(mask: Flags) -> Flags:
    """Which slices have a True: shape (O, I), an array of its own, from (O, I, K)."""
    if mask.shape[2] > _MANY_TAPS:
        return np.asarray(np.any(mask, axis=2))
    found: Flags = mask[:, :, 0].copy()
    for tap in range(1, mask.shape[2]):  # numpy is slow at reducing short axes
        np.logical_or(found, mask[:, :, tap], out=found)
    return found


def zero_channels(
    network: Network, coupling: Coupling, live: Mapping[str, Flags], zeroed: Zeroed | None = None
) -> dict[tuple[str, Place], Flags]:
    """Per followed axis of an activation, shape (length,): True where the channel is certainly zero.

    Args:
        network: the file.
        coupling: its coupling.
        live: `live_slices` of the network, or of masks.
        zeroed: what is zero of constants, besides their own zeros.
    """
    return _evaluated(coupling, Evaluator(network, live, zeroed=zeroed))


def _evaluated(coupling: Coupling, evaluator: Evaluator) -> dict[tuple[str, Place], Flags]:
    for step in coupling.flows:
        key = (step.name, step.axis)
        name, place = key
        ids = (
            coupling.axes.get((name, place)) if isinstance(place, int) else coupling.grids.get((name, place))
        )
        found = evaluator.evaluate(step.flow)
        if found is None or ids is None:
            continue
        flags = np.broadcast_to(found, ids.shape)
        evaluator.known[key] = evaluator.known[key] | flags if key in evaluator.known else flags
    return evaluator.known


class Evaluator:
    """Flow terms as flags, for a state of the weights."""

    def __init__(
        self,
        network: Network,
        live: Mapping[str, Flags],
        known: Mapping[tuple[str, Place], Flags] | None = None,
        zeroed: Zeroed | None = None,
    ) -> None:
        self.network = network
        self.zeroed: Zeroed = zeroed or {}
        self.live = live
        self.known: dict[tuple[str, Place], Flags] = dict(known or {})
        self.constants: dict[tuple[str, int | None], Flags] = {}

    def evaluate(self, flow: Flow) -> Flags | None:
        """Flags of a term; None where nothing is known."""
        match flow:
            case Activation(name, axis):
                return self.known.get((name, axis))
            case Constant():
                return self._constant(flow)
            case Zeros(length):
                return np.ones(length, dtype=np.bool_)
            case AllOf(terms):
                found = [self.evaluate(term) for term in terms]
                known = [flags for flags in found if flags is not None]
                return _all(known) if len(known) == len(found) else None
            case AnyOf(terms):
                return _any([flags for term in terms if (flags := self.evaluate(term)) is not None])
            case Taken(term, indices):
                flags = self.evaluate(term)
                return None if flags is None else np.asarray(flags.ravel()[indices])
            case Joined(terms):
                return np.concatenate([self._part(term, length) for term, length in terms])
            case Contraction():
                return self._contraction(flow)
        return None

    def _part(self, term: Flow | None, length: int) -> Flags:
        flags = None if term is None else self.evaluate(term)
        return np.zeros(length, dtype=np.bool_) if flags is None else flags

    def _constant(self, term: Constant) -> Flags:
        key = (term.name, term.axis)
        if key not in self.constants:
            array = self.network.live(term.name)
            for axis, gone in self.zeroed.get(term.name, ()):
                array = array & ~np.expand_dims(gone, [one for one in range(array.ndim) if one != axis])
            others = tuple(axis for axis in range(array.ndim) if axis != term.axis)
            self.constants[key] = np.asarray(~np.any(array, axis=None if term.axis is None else others))
        return self.constants[key]

    def _contraction(self, term: Contraction) -> Flags | None:
        weight, live = self.network.weights[term.weight], self.live[term.weight]
        source = self.evaluate(term.source)
        if source is None or not source.any():
            silent: Flags = ~np.any(live, axis=1)
        else:
            heard = ~source.reshape(weight.groups, weight.inputs_per_group)
            silent = ~_some_of_rows(live, heard)
        bias = None if term.bias is None else self.evaluate(term.bias)
        return silent if bias is None else silent & bias


def _some_of_rows(live: Flags, columns: Flags) -> Flags:
    """Rows of (O, I) with a True in the columns of their group, (groups, I); in blocks that fit a cache."""
    per_group = live.shape[0] // columns.shape[0]
    found = np.empty(live.shape[0], dtype=np.bool_)
    step = max(1, _BLOCK // max(1, live.shape[1]))
    for start in range(0, live.shape[0], step):
        rows = slice(start, min(start + step, live.shape[0]))
        own = columns if columns.shape[0] == 1 else columns[np.arange(rows.start, rows.stop) // per_group]
        found[rows] = (live[rows] & own).any(axis=1)
    return found


def _all(flags: list[Flags]) -> Flags | None:
    return None if not flags else np.asarray(np.logical_and.reduce(np.broadcast_arrays(*flags)))


def _any(flags: list[Flags]) -> Flags | None:
    return None if not flags else np.asarray(np.logical_or.reduce(np.broadcast_arrays(*flags)))
