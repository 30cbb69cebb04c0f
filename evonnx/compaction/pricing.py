"""What dead channels cost that stay as padding: a compact model stores them and multiplies with them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from evonnx.compaction.plan import Plan
from evonnx.dependency.coupling import Coupling
from evonnx.dependency.zeros import Flags
from evonnx.network import Network, Weight


@dataclass(frozen=True)
class PaddingPrice:
    """What the channels cost that stay for one reason. What lies between channels that stay for different
    reasons is in the price of each."""

    reason: str
    """Names of tensors and nodes left out, so that reasons alike are one."""
    channels: int
    """Outputs of weights, counted once per weight."""
    parameters: int
    """Weights of the compact model that produce or read them."""
    macs: int | None
    """Multiply-accumulates of those per example; None where some layer's shapes are not known."""


def price_padding(network: Network, coupling: Coupling, plan: Plan) -> tuple[PaddingPrice, ...]:
    """Price the dead channels that a plan keeps, by reason.

    Args:
        network: what the plan was made for.
        coupling: its coupling.
        plan: from `plan_compaction`.
    """
    found: dict[str, Flags] = {}
    channels: dict[str, int] = {}
    for pad in plan.padding:
        reason = re.sub(r" \([^()]*\)$", "", re.sub(r"'[^']*'", "'...'", pad.reason))
        padded = found.setdefault(reason, np.zeros(coupling.n_classes, dtype=np.bool_))
        padded[coupling.weights[pad.tensor].output[pad.indices]] = True
        channels[reason] = channels.get(reason, 0) + pad.indices.size
    left = {name: _kept(weight, plan) for name, weight in network.weights.items()}
    prices = []
    for reason, padded in found.items():
        parameters, macs = 0, 0.0
        for name, weight in network.weights.items():
            if name in plan.removed_layers:
                continue
            classes = coupling.weights[name]
            reads = np.repeat(padded[classes.input], weight.outputs // weight.groups, axis=0)
            stored = int(np.count_nonzero(left[name] & (padded[classes.output][:, None] | reads)))
            parameters += stored * weight.taps
            if stored:
                macs += (
                    stored * weight.taps * (np.nan if weight.macs_per_tap is None else weight.macs_per_tap)
                )
        prices.append(
            PaddingPrice(reason, channels[reason], parameters, None if np.isnan(macs) else round(macs))
        )
    return tuple(prices)


def _kept(weight: Weight, plan: Plan) -> Flags:
    """Slices of a weight that stay, shape (O, I)."""
    kept = np.ones((weight.outputs, weight.inputs_per_group), dtype=np.bool_)
    for cut in plan.cuts:
        if cut.tensor == weight.name:
            stays = np.zeros(cut.length, dtype=np.bool_)
            stays[cut.kept] = True
            kept &= stays[:, None] if cut.axis == weight.output_axis else stays
    for grouped in plan.grouped_cuts:
        if grouped.tensor == weight.name:
            rows = np.zeros(weight.outputs, dtype=np.bool_)
            rows[grouped.kept_outputs] = True
            columns = np.zeros((weight.groups, weight.inputs_per_group), dtype=np.bool_)
            for group, inputs in enumerate(grouped.kept_inputs):
                columns[group, inputs] = True
            kept &= rows[:, None] & np.repeat(columns, weight.outputs // weight.groups, axis=0)
    return kept
