"""One joint network of several parents: the union of what lives in them, in one graph.

Every parent is lifted into the ancestor's shapes (`lifting`), so that synapse i is the same one in all of
them whatever their own shapes are. A synapse lives in the joint network if it lives in any parent. Which
value it has is the *rule*, for weights, biases and norm statistics alike:

    dominant    that of the first parent (the fittest) in which it lives
    mean        the mean of those parents in which it lives

What lives in no parent is zero (variances: the ancestor's). The joint network is then cut to size by removal
like any masked model, and the same cuts are made in each parent, whose genomes are thereby in one shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import analyse
from evonnx.mating.lifting import Flags, Lifted
from evonnx.network import Array, Network, network_of
from evonnx.onnx_io import set_array

Rule = Literal["dominant", "mean"]
RULE: Rule = "mean"
"""What a run uses; docs/choices.md says why."""


@dataclass(frozen=True)
class Joint:
    """A joint network, and each parent in its graph."""

    network: Network
    parents: tuple[Network, ...]
    """In the order given: the joint network's graph and shapes, zeros where a parent has nothing."""


def join(ancestor: Network, parents: Sequence[Lifted], rule: Rule = RULE) -> Joint:
    """Make one network of several.

    Args:
        ancestor: the one that the parents were lifted to.
        parents: at least one, the fittest first.
        rule: which value a synapse inherits.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}; there are {', '.join(get_args(Rule))}")
    model = ancestor.model.clone()
    for name in parents[0].alive:
        values = [one.network.array(name) for one in parents]
        alive = [one.alive[name] for one in parents]
        set_array(model, name, (_dominant if rule == "dominant" else _mean)(values, alive))
    whole = network_of(model, "the joint network", ancestor.input_shapes)
    plan = plan_compaction(whole, analyse(whole))
    shapes = ancestor.input_shapes
    cut, *lines = (
        network_of(apply_plan(one, plan).model, one.source, shapes)
        for one in (whole, *(parent.network for parent in parents))
    )
    return Joint(cut, tuple(lines))


def _dominant(values: Sequence[Array], alive: Sequence[Flags]) -> Array:
    """The first living one; where none lives, the first."""
    found = values[0]
    taken = alive[0]
    for value, lives in zip(values[1:], alive[1:], strict=True):
        found = np.where(lives & ~taken, value, found)
        taken = taken | lives
    return found


def _mean(values: Sequence[Array], alive: Sequence[Flags]) -> Array:
    """The mean of the living ones; where none lives, the first."""
    count = np.sum(np.stack(alive), axis=0)
    total = sum(
        np.where(lives, value.astype(np.float64), 0) for value, lives in zip(values, alive, strict=True)
    )
    return np.where(count > 0, total / np.maximum(count, 1), values[0]).astype(values[0].dtype)
