"""A descendant in its ancestor's shapes: the ancestor's graph, with the descendant's weights where its
lineage says that they stand, and zeros where it has none.

Algebra, per floating-point constant of the ancestor (`compaction.places` gives the positions p):
    weight                              zeros, then whole[p] = the descendant's
    per-channel vector that dies        zeros, then whole[p] = the descendant's
    variance, divisor, exponent         the ancestor's, then whole[p] = the descendant's (zero is not finite)
    any other constant                  the descendant's if it has it, else the ancestor's
So a branch that died is back in the graph as a branch of zeros, which adds nothing. Integers (target shapes,
indices) are the ancestor's, as its shapes are.

Refused, with the reason, is whatever does not descend from the ancestor, or whose lineage does not explain
its shapes; and quantised weights, because a number's meaning hangs on a scale that every parent has of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.compaction import Lineage, kept_by_axis, places, read_lineage
from evonnx.dependency import Coupling
from evonnx.dependency.coupling import NOT_ZEROED
from evonnx.dependency.liveness import close
from evonnx.masks import live_masks
from evonnx.network import Array, Network, network_of
from evonnx.onnx_io import constant_values, initializer_arrays, set_array

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Refusal:
    """Why a model cannot be lifted."""

    reason: str
    """One sentence."""


@dataclass(frozen=True)
class Lifted:
    """A descendant in its ancestor's shapes."""

    network: Network
    """The ancestor's graph with the descendant's weights: the same function."""
    alive: Mapping[str, Flags]
    """By name of each floating-point constant, in its stored shape: where something of the descendant
    lives. Of a weight, where it is not zero; of a vector, the channels that live."""


def lift(ancestor: Network, coupling: Coupling, descendant: Network) -> Lifted | Refusal:
    """Lay a descendant out in its ancestor's shapes.

    Args:
        ancestor: what both descend from; it may have a lineage of its own.
        coupling: the ancestor's.
        descendant: compact, with the lineage that `compaction` wrote into it.
    """
    if refusal := _refusal(ancestor, descendant):
        return refusal
    lineage = _relative(read_lineage(ancestor.model), read_lineage(descendant.model))
    if isinstance(lineage, Refusal):
        return lineage
    laid_out = _lay_out(ancestor, coupling, descendant, lineage)
    if isinstance(laid_out, Refusal):
        return laid_out
    model = ancestor.model.clone()
    for name, (whole, _) in laid_out.items():
        set_array(model, name, whole)
    network = network_of(model, descendant.source, ancestor.input_shapes)
    return Lifted(network, _alive(network, coupling, {name: there for name, (_, there) in laid_out.items()}))


def _refusal(ancestor: Network, descendant: Network) -> Refusal | None:
    known = initializer_arrays(ancestor.model)
    strange = [name for name, _ in read_lineage(descendant.model) if name not in known]
    strange += [name for name in descendant.weights if name not in ancestor.weights]
    if strange:
        return Refusal(f"it does not descend from the ancestor, which has no weight {strange[0]!r}")
    for network in (ancestor, descendant):
        for name, weight in network.weights.items():
            if weight.quantization is not None:
                return Refusal(f"{name!r} is quantised, and every parent has a scale of its own")
    return None


def _relative(before: Lineage, after: Lineage) -> dict[tuple[str, int], NDArray[np.int64]] | Refusal:
    """Lineage against a model that has been cut itself: positions in what it kept."""
    found = {}
    for key, kept in after.items():
        base = before.get(key)
        if base is None:
            found[key] = np.asarray(kept)
            continue
        positions = np.searchsorted(base, kept)
        if positions.size and (positions[-1] >= base.size or not np.array_equal(base[positions], kept)):
            return Refusal(f"it has indices of {key[0]!r} that the ancestor has lost")
        found[key] = positions.astype(np.int64)
    return found


def _lay_out(
    ancestor: Network, coupling: Coupling, descendant: Network, lineage: Lineage
) -> dict[str, tuple[Array, Flags]] | Refusal:
    """(numbers, where the descendant has some) by name, for floating-point constants."""
    vectors = {vector.name for vector in coupling.vectors}
    zeroed = {vector.name for vector in coupling.vectors if vector.role not in NOT_ZEROED}
    given = initializer_arrays(descendant.model)
    found: dict[str, tuple[Array, Flags]] = {}
    for name, _, tensor in constant_values(ancestor.model):
        if not tensor.dtype.is_floating_point():
            continue
        weight, before = ancestor.weights.get(name), tensor.numpy()
        dies = weight is not None or name in zeroed
        whole = np.zeros_like(before) if dies else np.array(before)
        there = np.zeros(before.shape, dtype=np.bool_)
        if name in given:
            kept = kept_by_axis(lineage, name)
            steps, groups = ((), 1) if weight is None else (weight.uses[0].relayouts, weight.groups)
            at = places(before.shape, steps, groups, kept)
            if at is not None and at.shape == given[name].shape and before.dtype == given[name].dtype:
                whole.reshape(-1)[at] = given[name]
                there.reshape(-1)[at] = True
            elif dies or name in vectors:
                shape = list(given[name].shape)
                return Refusal(f"its lineage does not explain the shape {shape} of {name!r}")
        found[name] = (whole, there)
    return found


def _alive(network: Network, coupling: Coupling, there: Mapping[str, Flags]) -> dict[str, Flags]:
    """What lives of each constant: padding that an alignment kept is there, and dead."""
    masks = live_masks(network)
    alive = {name: masks.get(name, flags).copy() for name, flags in there.items()}
    for vector, dead in close(network, coupling, masks).vectors_dead:
        if vector.name in alive and vector.name not in masks:
            place = [1] * alive[vector.name].ndim
            place[vector.axis] = dead.size
            alive[vector.name] &= ~dead.reshape(place)
    return alive
