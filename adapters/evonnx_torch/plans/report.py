"""What applying a plan did, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Resized:
    """A parameter or buffer that got smaller."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Applied:
    """A module as a plan left it."""

    how: str
    """"shrink" or "mask"."""
    parameters_before: int
    parameters_after: int
    """Numbers stored in parameters; buffers do not count."""
    masked: int
    """Numbers of parameters that are zero by a mask, before anything was cut."""
    resized: tuple[Resized, ...]
    attributes: tuple[tuple[str, int, int], ...]
    """(name, before, after) of numbers that the module's code reads and that count channels."""
    folded: tuple[tuple[str, str], ...]
    """(layer, normalisation) that the ancestor stores as one."""
    kept_whole: tuple[str, ...]
    """What the compact model is without and the module keeps, filled with zeros, with the reason."""
    compared: tuple[str, ...]
    """What the result was held against, in words; empty where there was nothing to prove."""
    worst: float | None
    """Largest difference relative to the largest number of a tensor; None: nothing was compared."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.how}: {self.parameters_before:,} -> {self.parameters_after:,} parameters",
            *(f"{one.name}: {list(one.before)} -> {list(one.after)}" for one in self.resized),
            *(f"{name} = {after} (was {before})" for name, before, after in self.attributes),
            *(f"kept whole: {reason}" for reason in self.kept_whole),
            *(f"equal to {one}" for one in self.compared),
        ]
        return "\n".join(lines if self.worst is None else [*lines, f"worst difference {self.worst:.1e}"])
