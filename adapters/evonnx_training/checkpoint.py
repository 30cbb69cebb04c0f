"""Where a retraining stands, in a file: a killed one goes on from there to the same bits.

It is written after each epoch and, in long ones, every half a minute. The order of the data follows from seed
and epoch, so that a place within an epoch is a number of steps; what a rollback would put back goes with it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from safetensors import SafetensorError, safe_open

from evonnx.adapter import EpochRecord, RetrainRequest
from evonnx.durable import write_whole
from evonnx.errors import AdapterError
from evonnx.faults import Fault

_FORMAT = "3"
SECONDS = 30.0
"""Between two places within an epoch: what is lost is this, a step and the time of writing."""
BEFORE = "before/"
"""How the names begin of what a rollback puts back."""
Clock = Callable[[], float]
"""Seconds."""


class Kept(Protocol):
    """As much of a framework's tensor as is compared."""

    @property
    def shape(self) -> Any:
        """Its lengths."""
        ...

    @property
    def dtype(self) -> Any:
        """Its element type."""
        ...


T = TypeVar("T", bound=Kept)


@dataclass(frozen=True)
class Within:
    """How far an epoch has come that is not done."""

    steps: int = 0
    """Done."""
    total: float = 0.0
    """Sum of their losses."""
    last: float = math.nan
    """Loss of the last one."""
    bad: int = 0
    """How many in a row were far too large."""


@dataclass(frozen=True)
class Place:
    """Everything about a retraining that is not a tensor."""

    attempt: int
    """From 0."""
    epoch: int
    """Epochs done in this attempt; the next one may have begun."""
    retries: int
    """Rollbacks so far."""
    factor: float
    """On the learning rate."""
    updates: tuple[int, int]
    """Of the optimizer and of the average."""
    history: tuple[EpochRecord, ...]
    notes: tuple[str, ...]
    faults: tuple[Fault, ...] = ()
    within: Within | None = None
    """Of the next epoch; None: it has not begun."""


class Checkpoint(Generic[T]):
    """Keeps the last place and its tensors in one file. A framework says how its tensors become bytes.

    Args:
        path: where; None: nothing is kept.
        key: says what is being retrained and how; what another key wrote is not read.
        seconds: between two places within an epoch.
        clock: tells them.
    """

    framework = ""
    """As safetensors names it."""

    def __init__(
        self,
        path: Path | None = None,
        key: str = "",
        seconds: float = SECONDS,
        clock: Clock = time.monotonic,
    ) -> None:
        self._path, self._key = path, key
        self._seconds, self._clock = seconds, clock
        self._saved = clock()

    def packed(self, tensors: Mapping[str, T], facts: dict[str, str]) -> bytes:
        """A safetensors file of them."""
        raise NotImplementedError

    def is_due(self) -> bool:
        """Whether so much time has gone by that a place within an epoch is worth keeping."""
        return self._path is not None and self._clock() - self._saved >= self._seconds

    def save(self, place: Place, tensors: Mapping[str, T]) -> None:
        """Replace what was kept.

        Raises:
            AdapterError: the file cannot be written.
        """
        if self._path is None:
            return
        facts = {"format": _FORMAT, "key": self._key, "place": json.dumps(asdict(place))}
        try:
            write_whole(self._path, self.packed(tensors, facts))
        except OSError as error:
            raise AdapterError(
                f"Cannot write {self._path}, the progress of this retraining: {error.strerror or error}. "
                "Check the folder and the free space."
            ) from error
        self._saved = self._clock()

    def attempt(self) -> int:
        """Which attempt the place that was kept is in; 0 where there is none."""
        found = self._read()
        return found[0].attempt if found else 0

    def load(self, tensors: Mapping[str, T]) -> tuple[Place, dict[str, T]] | None:
        """What was kept, if it belongs to this retraining and fits `tensors` in names, shapes and types.

        Within an epoch those of `before` come with it, see there.
        """
        kept = self._read()
        if kept is None:
            return None
        place, found = kept
        expected = dict(tensors)
        if place.within is not None:
            expected |= before(tensors)
        if found.keys() != expected.keys() or any(
            found[name].shape != tensor.shape or found[name].dtype != tensor.dtype
            for name, tensor in expected.items()
        ):
            return None
        return place, found

    def _read(self) -> tuple[Place, dict[str, T]] | None:
        if self._path is None:
            return None
        try:
            with safe_open(self._path, self.framework) as file:
                facts = file.metadata() or {}
                if (facts.get("format"), facts.get("key")) != (_FORMAT, self._key):
                    return None
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                place = _place(json.loads(facts["place"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        return place, found


def before(tensors: Mapping[str, T]) -> dict[str, T]:
    """What a rollback puts back (weights and averages), named as the state before the epoch that is begun."""
    return {f"{BEFORE}{n}": t for n, t in tensors.items() if n.startswith(("state/", "average/"))}


def _place(facts: dict[str, Any]) -> Place:
    history = tuple(EpochRecord(**record) for record in facts.pop("history"))
    updates, within = facts.pop("updates"), facts.pop("within")
    faults = tuple(Fault(**fault) for fault in facts.pop("faults"))
    return Place(
        **facts
        | {"history": history, "updates": (updates[0], updates[1]), "notes": tuple(facts["notes"])}
        | {"faults": faults, "within": None if within is None else Within(**within)}
    )


def key_of(request: RetrainRequest, *surroundings: object) -> str:
    """A digest of everything that a retraining's result depends on, but for the data itself.

    Args:
        request: what is asked for.
        surroundings: what else the result depends on: the framework's version and its number of threads.
    """
    found = hashlib.sha256()
    for model in (request.model, request.ancestor):
        found.update(hashlib.sha256(b"" if model is None else model.read_bytes()).digest())
    for name, mask in sorted(request.masks.items()):
        found.update(f"{name} {mask.shape} ".encode() + hashlib.sha256(mask.tobytes()).digest())
    settings = (request.budget, request.seed, sorted(request.options.items()), request.task.describe())
    found.update(repr((settings, *surroundings)).encode())
    return found.hexdigest()
