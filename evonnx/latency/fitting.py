"""From times to costs: arithmetic only.

A layer's time at widths (inputs i, outputs o, slices p) is fitted as fixed + a i + b o + c p with no negative
part, on times relative to what was measured, so that narrow layers count as much as wide ones. Layers that
compute alike (operator, kernel, positions, kind of grouping) are fitted together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from evonnx.environment.widths import LayerCost, Widths
from evonnx.network import Weight

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Timing:
    """How long one layer took at some widths."""

    weight: str
    left: Widths
    milliseconds: float


def nonnegative(features: NDArray[np.float64], times: Vector) -> Vector:
    """Least squares on relative errors without negative coefficients: the best of all sets of features.

    Args:
        features: shape (n, m), m small; not negative.
        times: shape (n,), positive.

    Returns:
        Shape (m,).
    """
    scaled = features / times[:, None]
    best, least = np.zeros(features.shape[1]), np.inf
    for size in range(1, features.shape[1] + 1):
        for chosen in combinations(range(features.shape[1]), size):
            found, *_ = np.linalg.lstsq(scaled[:, chosen], np.ones(len(times)), rcond=None)
            miss = float(np.sum((scaled[:, chosen] @ found - 1) ** 2))
            # A set with more features must be better by more than rounding.
            if (found >= 0).all() and miss < least * (1 - 1e-9):
                best, least = np.zeros(features.shape[1]), miss
                best[list(chosen)] = found
    return best


def signature(weight: Weight) -> Hashable:
    """Layers with the same signature compute alike."""
    use = weight.uses[0]
    strides = use.node.attributes.get_ints("strides", None) if use.node.attributes else None
    kind = "dense" if weight.groups == 1 else "depthwise" if weight.inputs_per_group == 1 else weight.groups
    return (use.op_type, len(weight.uses), weight.taps, weight.macs_per_tap, kind, tuple(strides or ()))


def fit_layers(timings: Sequence[Timing], weights: Mapping[str, Weight]) -> dict[str, LayerCost]:
    """Costs of every weight in milliseconds; nothing for weights that were never timed apart."""
    together: dict[Hashable, list[Timing]] = {}
    for one in timings:
        if one.milliseconds > 0:
            together.setdefault(signature(weights[one.weight]), []).append(one)
    fitted = {}
    for key, alike in together.items():
        features = np.array([[1.0, one.left.inputs, one.left.outputs, one.left.slices] for one in alike])
        fitted[key] = LayerCost(
            *nonnegative(features, np.array([one.milliseconds for one in alike])).tolist()
        )
    return {name: fitted.get(signature(weight), LayerCost()) for name, weight in weights.items()}


def fit_rest(
    layers: Mapping[str, LayerCost],
    rests: Sequence[float],
    widths: Sequence[Mapping[str, Widths]],
    weights: Mapping[str, Weight],
) -> tuple[float, dict[str, LayerCost]]:
    """Share what is no layer's time (pooling, additions, copies) between a constant and the layers' outputs.

    Args:
        layers: costs so far.
        rests: milliseconds per probe, shape (n,).
        widths: per probe.
        weights: by name.

    Returns:
        The constant, and the layers with their outputs' part of it.
    """
    positions = {name: weight.macs_per_tap or 1.0 for name, weight in weights.items()}
    elements = [sum(left.outputs * positions[name] for name, left in one.items()) for one in widths]
    times = np.array(rests)
    if not (times > 0).all():
        return 0.0, dict(layers)
    constant, each = nonnegative(np.array([[1.0, count] for count in elements]), times).tolist()
    return constant, {
        name: replace(cost, per_output=cost.per_output + each * positions[name])
        for name, cost in layers.items()
    }
