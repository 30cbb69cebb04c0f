"""Which channels of which activations are exactly zero for every input: the "forward" argument, on a file's
values.

Finite inputs are assumed: zero times infinity is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import (
    Activation,
    AllOf,
    AnyOf,
    Constant,
    Contraction,
    Coupling,
    Flow,
    Joined,
    Taken,
    Zeros,
)
from evonnx.network import Network

Flags = NDArray[np.bool_]


def live_slices(network: Network) -> dict[str, Flags]:
    """Per prunable weight, shape (O, I): True where a kernel (or single weight) is not all zero."""
    return {name: np.any(network.canonical(name) != 0, axis=2) for name in network.weights}


def zero_channels(
    network: Network, coupling: Coupling, live: Mapping[str, Flags]
) -> dict[tuple[str, int], Flags]:
    """Per followed axis of an activation, shape (length,): True where the channel is certainly zero.

    Args:
        network: the file.
        coupling: its coupling.
        live: `live_slices` of the network.
    """
    evaluator = _Evaluator(network, live)
    for step in coupling.flows:
        found = evaluator.evaluate(step.flow)
        if found is None:
            continue
        key = (step.name, step.axis)
        flags = np.broadcast_to(found, coupling.axes[key].shape)
        evaluator.known[key] = evaluator.known[key] | flags if key in evaluator.known else flags
    return evaluator.known


class _Evaluator:
    def __init__(self, network: Network, live: Mapping[str, Flags]) -> None:
        self.network = network
        self.live = live
        self.known: dict[tuple[str, int], Flags] = {}
        self._constants: dict[tuple[str, int | None], Flags] = {}

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
                return None if flags is None else np.asarray(flags[indices])
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
        if key not in self._constants:
            array = self.network.array(term.name) != 0
            others = tuple(axis for axis in range(array.ndim) if axis != term.axis)
            self._constants[key] = np.asarray(~np.any(array, axis=None if term.axis is None else others))
        return self._constants[key]

    def _contraction(self, term: Contraction) -> Flags | None:
        weight, live = self.network.weights[term.weight], self.live[term.weight]
        source = self.evaluate(term.source)
        if source is not None and source.any():
            columns = source.reshape(weight.groups, weight.inputs_per_group)
            live = live & ~np.repeat(columns, weight.outputs // weight.groups, axis=0)
        silent: Flags = ~np.any(live, axis=1)
        bias = None if term.bias is None else self.evaluate(term.bias)
        return silent if bias is None else silent & bias


def _all(flags: list[Flags]) -> Flags | None:
    return None if not flags else np.asarray(np.logical_and.reduce(np.broadcast_arrays(*flags)))


def _any(flags: list[Flags]) -> Flags | None:
    return None if not flags else np.asarray(np.logical_or.reduce(np.broadcast_arrays(*flags)))
