"""Whose offspring each row of run.json is, and who else was raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Raised:
    """An offspring that was retrained, whether it lives or not."""

    name: str
    """Such as "3, offspring 2"."""
    generation: int
    kept: str | None
    """Its folder; None where it was not kept."""
    score_validation: float
    synapses: int
    bytes: int
    latency_share: float
    """Of the ancestor's time."""
    on_front: bool
    """Nobody beats it in score, synapses and time at once, as the run found."""

    @property
    def is_sibling(self) -> bool:
        """It lives beside the fittest of its generation."""
        return self.kept is not None and "/" in self.kept


def parents_of_rows(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Labels of each row's parents; whoever names none descends from the row before."""
    found: list[tuple[str, ...]] = []
    known: dict[str, str] = {}
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        if label.startswith("best"):
            found.append((str(row["generation"]),))
            continue
        given = (row.get("mating") or {}).get("parents") or row.get("parents", ())
        named = tuple(dict.fromkeys(known[str(one)] for one in given if str(one) in known))
        found.append(named or (labels[number - 1],) * bool(number))
        known |= {label: label, f"gen-{int(row['generation']):02d}": label}
        known |= {str(one["kept"]): str(one["kept"]) for one in row.get("raised", ()) if one["kept"]} | known
    return found


def raised(document: Mapping[str, Any]) -> Iterator[Raised]:
    """Every offspring that a row tells of; those on the front by their names."""
    front = (document.get("pareto") or {}).get("front", ())
    on_front = {str(one["name"]) for one in front}
    for row in document["generations"]:
        for one in row.get("raised", ()):
            name = f"{row['generation']}, {one['name']}"
            yield Raised(
                name=name,
                generation=int(row["generation"]),
                kept=None if one["kept"] is None else str(one["kept"]),
                score_validation=float(one["score_validation"]),
                synapses=int(one["synapses"]),
                bytes=int(one["bytes"]),
                latency_share=float(one["latency_share"]),
                on_front=name in on_front,
            )
