"""What alignment was asked for and what a sample reached, group by group of coupled channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evonnx.dependency.coupling import Coupling
from evonnx.dependency.groups import channel_groups
from evonnx.masks import Mask


@dataclass(frozen=True)
class Relaxed:
    """A group of coupled channels whose counts are not all multiples of what was asked for."""

    weight: str
    """The first weight that puts out an uneven number of its channels."""
    channels: int
    """How many it puts out."""
    of: int
    """How many the parent's did."""
    reason: str


@dataclass(frozen=True)
class Alignment:
    """Requested and achieved, in physical channels along weights' output axes."""

    requested: int
    groups: int
    """Groups of coupled channels of which some can be removed."""
    aligned: int
    """Those whose weights all put out a multiple, or as many as the parent's."""
    relaxed: tuple[Relaxed, ...] = ()
    """The others."""
    uneven: tuple[str, ...] = ()
    """Equal-count constraints that do not hold, so that dead channels stay as padding: one sentence each."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {
            "requested": self.requested,
            "groups": self.groups,
            "aligned": self.aligned,
            "relaxed": [asdict(one) for one in self.relaxed],
            "uneven": list(self.uneven),
        }

    def __str__(self) -> str:
        """One line."""
        if self.requested == 1:
            return "; ".join(("channels not aligned", *self.uneven))
        reasons = Counter(one.reason for one in self.relaxed)
        listed = "; ".join(f"{number} relaxed: {reason}" for reason, number in reasons.most_common(3))
        others = len(reasons) - 3
        return "; ".join(
            part
            for part in (
                f"{self.aligned} of {self.groups} channel groups at multiples of {self.requested}",
                listed,
                f"{others} more reasons" if others > 0 else "",
                *self.uneven,
            )
            if part
        )


def assess(
    coupling: Coupling, available: Mask, alive: Mask, requested: int, reasons: Mapping[int, str]
) -> Alignment:
    """Look at what lives.

    Args:
        coupling: of the network.
        available: shape (n_classes,): what the parent has.
        alive: shape (n_classes,): what the sample has.
        requested: the multiple asked for.
        reasons: why numbers are what they are, by class.
    """
    pinned = coupling.pinned()
    group_of = np.full(coupling.n_classes, -1, dtype=np.int64)
    groups = channel_groups(coupling)
    for number, classes in enumerate(groups):
        if (available & ~pinned)[classes].any():
            group_of[classes] = number
    relaxed: dict[int, Relaxed] = {}
    for name, weight in coupling.weights.items():
        number = int(group_of[weight.output[0]]) if weight.output.size else -1
        if number < 0 or number in relaxed:
            continue
        lives = alive[weight.output]
        count, before = int(np.count_nonzero(lives)), int(np.count_nonzero(available[weight.output]))
        if count % requested and count != before:
            known = [reasons[one] for one in np.unique(weight.output).tolist() if one in reasons]
            reason = known[0] if known else "what it is coupled to left it so"
            relaxed[number] = Relaxed(name, count, before, reason)
    considered = len(np.unique(group_of[group_of >= 0]))
    return Alignment(
        requested,
        considered,
        considered - len(relaxed),
        tuple(relaxed.values()),
        _uneven(coupling, available, alive, reasons),
    )


def _uneven(coupling: Coupling, available: Mask, alive: Mask, reasons: Mapping[int, str]) -> tuple[str, ...]:
    found = []
    for constraint in coupling.equal_counts:
        if not (available & ~alive)[constraint.classes].any():
            continue  # nothing of this sample's doing
        rows = alive[constraint.classes].sum(axis=-1)[constraint.kept_rows(alive)]
        if rows.size and rows.min() != rows.max():
            known = {reasons[one] for one in np.unique(constraint.classes).tolist() if one in reasons}
            why = f" ({sorted(known)[0]})" if known else ""
            found.append(
                f"{constraint.node_label}: {constraint.reason}, but {rows.min()} to {rows.max()} live{why}"
            )
    return tuple(found)
