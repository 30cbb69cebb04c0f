"""How much of a model can be removed, and the record of it that must not get worse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TypedDict

import numpy as np

from evonnx.dependency import Coupling
from evonnx.network import Network

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "zoo.json"


class Shares(TypedDict):
    """What is recorded of one exported architecture."""

    synapses: float
    """Share of the synapses whose producing or consuming channel is not pinned."""
    macs: float | None
    """Of the multiply-accumulates, likewise; None where some layer's shapes are not known."""
    unprunable: list[str]
    """Constants that look like weights and are left alone, as "operator: reason", sorted."""


def removable_shares(network: Network, coupling: Coupling) -> Shares:
    """Shares of the ancestor, rounded down to four digits so that a record is never above what was found."""
    free = ~coupling.pinned()
    # Synapses, and multiply-accumulates; NaN once some layer's are not known.
    counted, removable = np.zeros(2), np.zeros(2)
    for name, weight in network.weights.items():
        classes = coupling.weights[name]
        live = np.count_nonzero(network.canonical(name), axis=2)
        columns = np.repeat(free[classes.input], weight.outputs // weight.groups, axis=0)
        can_go = int(live[free[classes.output][:, None] | columns].sum())
        price = np.asarray([1.0, np.nan if weight.macs_per_tap is None else weight.macs_per_tap])
        counted += price * int(live.sum())
        removable += price * can_go
    synapses, macs = (float(share) for share in removable / counted)
    left = sorted(f"{one.node_label}: {one.reason}" for one in network.unprunable)
    return Shares(synapses=_down(synapses), macs=None if math.isnan(macs) else _down(macs), unprunable=left)


def golden() -> dict[str, Shares]:
    """The record, by "<architecture>-<exporter>"."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))["shares"]


def record(found: dict[str, Shares], core: str) -> None:
    """Replace the record; `core` says which state of evonnx it was taken with."""
    document = {"core": core, "shares": dict(sorted(found.items()))}
    GOLDEN.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _down(share: float) -> float:
    return math.floor(share * 1e4) / 1e4
