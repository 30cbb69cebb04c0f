"""Outputs of a model that stays the same, such as the ancestor: computed once in onnxruntime and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evonnx.errors import ModelError, TaskError
from evonnx.network import Array
from evonnx.sessions import input_specs, make_session, run_session
from evonnx.task import Batch

CACHE_BYTES = 2**28
"""Outputs up to this size are kept; beyond, they are computed anew each time."""


@dataclass(frozen=True)
class KeyedBatch(Batch):
    """A batch that says which examples it holds, so that the outputs for them can be kept."""

    key: tuple[str, bytes] = ("", b"")


class ModelOutputs:
    """Outputs of one model by batch. It is loaded at the first call."""

    def __init__(self, model: str | bytes, label: str = "The ancestor", keep: bool = True) -> None:
        """`model` is a file or a serialised model; `label` begins messages about it."""
        self.model = model
        self.keep = keep
        self.label = label
        self._session: Any = None
        self._kept: dict[tuple[str, bytes], dict[str, Array]] = {}
        self._kept_bytes = 0

    def __call__(self, batch: Batch) -> dict[str, Array]:
        """Outputs by name, examples along axis 0 (stacked, where the model has no such axis).

        Raises:
            TaskError: onnxruntime cannot load the model, or run it on these inputs.
        """
        key = batch.key if self.keep and isinstance(batch, KeyedBatch) else None
        if key is not None and key in self._kept:
            return self._kept[key]
        try:
            outputs = self._run(batch)
        except ModelError as error:
            raise TaskError(
                f"{self.label} cannot be run on this task's inputs, so nothing can be compared with it. "
                f"{error} "
                "If the inputs are synthesised, set their shape with --input-shape, or name real data in a "
                "task file."
            ) from error
        size = sum(array.nbytes for array in outputs.values())
        if key is not None and self._kept_bytes + size <= CACHE_BYTES:
            self._kept[key] = outputs
            self._kept_bytes += size
        return outputs

    def _run(self, batch: Batch) -> dict[str, Array]:
        if self._session is None:
            self._session = make_session(self.model)
        specs = input_specs(self._session)
        first = specs[0].shape[0] if specs[0].shape else None
        if not isinstance(first, int):
            return run_session(self._session, batch.inputs)
        parts = [
            run_session(self._session, _rows(batch, start, first)) for start in range(0, batch.size, first)
        ]
        return {name: _join([part[name] for part in parts], batch.size, first) for name in parts[0]}


def _rows(batch: Batch, start: int, count: int) -> Mapping[str, Array]:
    """`count` examples from `start`, the last one repeated where there are fewer; scalars as they are."""
    places = np.minimum(np.arange(start, start + count), batch.size - 1)
    return {name: array[places] if array.ndim else array for name, array in batch.inputs.items()}


def _join(parts: list[Array], size: int, fixed: int) -> Array:
    if all(part.ndim > 0 and len(part) == fixed for part in parts):
        return np.concatenate(parts)[:size]
    if len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    mixed = np.empty(len(parts), dtype=object)
    mixed[:] = parts
    return mixed
