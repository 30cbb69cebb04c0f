"""Where a retraining stands after an epoch, in a file: a killed one goes on from there to the same bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evonnx.adapter import EpochRecord, RetrainRequest
from evonnx.durable import write_whole
from evonnx.errors import AdapterError

_FORMAT = "1"


@dataclass(frozen=True)
class Place:
    """Everything about a retraining that is not a tensor."""

    attempt: int
    """From 0."""
    epoch: int
    """Epochs done in this attempt."""
    retries: int
    """Rollbacks so far."""
    factor: float
    """On the learning rate."""
    updates: tuple[int, int]
    """Of the optimizer and of the average."""
    history: tuple[EpochRecord, ...]
    notes: tuple[str, ...]


class Checkpoint:
    """Keeps the last epoch's place and tensors in one file.

    Args:
        path: where; None: nothing is kept.
        key: says what is being retrained and how; what another key wrote is not read.
    """

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self._path, self._key = path, key

    def save(self, place: Place, tensors: Mapping[str, Tensor]) -> None:
        """Replace what was kept.

        Raises:
            AdapterError: the file cannot be written.
        """
        if self._path is None:
            return
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        facts = {"format": _FORMAT, "key": self._key, "place": json.dumps(asdict(place))}
        try:
            write_whole(self._path, save(plain, facts))
        except OSError as error:
            raise AdapterError(
                f"Cannot write {self._path}, the progress of this retraining: {error.strerror or error}. "
                "Check the folder and the free space."
            ) from error

    def load(self, tensors: Mapping[str, Tensor]) -> tuple[Place, dict[str, Tensor]] | None:
        """What was kept, if it belongs to this retraining and fits `tensors` in names, shapes and types."""
        if self._path is None:
            return None
        try:
            with safe_open(self._path, "pt") as file:
                facts = file.metadata() or {}
                if (facts.get("format"), facts.get("key")) != (_FORMAT, self._key):
                    return None
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                place = _place(json.loads(facts["place"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        if found.keys() != tensors.keys() or any(
            found[name].shape != tensor.shape or found[name].dtype != tensor.dtype
            for name, tensor in tensors.items()
        ):
            return None
        return place, found


def _place(facts: dict[str, Any]) -> Place:
    history = tuple(EpochRecord(**record) for record in facts.pop("history"))
    updates = facts.pop("updates")
    return Place(
        **facts | {"history": history, "updates": (updates[0], updates[1]), "notes": tuple(facts["notes"])}
    )


def key_of(request: RetrainRequest) -> str:
    """A digest of everything that a retraining's result depends on, but for the data itself."""
    found = hashlib.sha256()
    for model in (request.model, request.ancestor):
        found.update(hashlib.sha256(b"" if model is None else model.read_bytes()).digest())
    for name, mask in sorted(request.masks.items()):
        found.update(f"{name} {mask.shape} ".encode() + hashlib.sha256(mask.tobytes()).digest())
    settings = (request.budget, request.seed, sorted(request.options.items()), request.task.describe())
    found.update(repr((settings, torch.__version__, torch.get_num_threads())).encode())
    return found.hexdigest()
