"""The ancestor as teacher: its outputs for each example, computed once where examples come back.

Batches carry no example numbers, so examples are recognised by their content. The cache is filled in one pass
in the data's own order with a fixed batch size: then what is remembered does not depend on which retraining
came first, and a resumed run gives the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from evonnx.network import Array
from evonnx.task import Task
from evonnx_torch.feeding import accepted_chunk, activation_bytes, chunks
from evonnx_torch.heads import Head
from evonnx_torch.module import OnnxModule

_CACHE_BYTES = 256 * 2**20
_PASS = 128
"""Most examples per forward pass while filling the cache."""
_ACTIVATION_BYTES = 2**30
"""Most activations of one such pass. Its size depends on the ancestor alone, never on the student."""


class Teacher:
    """Runs the ancestor in evaluation mode; outputs are read at the same places as the student's."""

    def __init__(self, module: OnnxModule, heads: tuple[Head, ...]) -> None:
        self.module = module
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._taps = tuple(head.tap for head in heads)
        self._rows: dict[bytes, int] = {}
        self._kept: list[Tensor] = []
        self._chunk: int | None = None

    def __call__(
        self, arrays: Mapping[str, Array], inputs: Mapping[str, Tensor], size: int
    ) -> tuple[Tensor, ...]:
        """The teacher's tensors for a chunk, one per head."""
        if self._rows:
            keys = _keys(arrays, size)
            if keys is not None and all(key in self._rows for key in keys):
                index = torch.tensor([self._rows[key] for key in keys])
                return tuple(kept[index].to(self.module.device) for kept in self._kept)
        with torch.no_grad():
            result = self.module(inputs, self._taps)
        return tuple(result[tap] for tap in self._taps)

    def remember(self, task: Task) -> bool:
        """Fill the cache with the training split, if its outputs are small enough and one row per example."""
        if self._rows:
            return True
        examples = task.size("train")
        kept: list[list[Tensor]] = [[] for _ in self._taps]
        rows: dict[bytes, int] = {}
        size = self._pass_size(task)
        for batch in task.batches("train", size):
            for chunk in chunks(self.module, batch, self._chunk):
                keys = _keys(chunk.arrays, chunk.size)
                with torch.no_grad():
                    result = self.module(chunk.inputs, self._taps)
                parts = [result[tap] for tap in self._taps]
                per_example = sum(part.numel() for part in parts) / chunk.size * 4
                rowwise = all(part.ndim and part.shape[0] == chunk.size for part in parts)
                if keys is None or not rowwise or per_example * examples > _CACHE_BYTES:
                    return False
                fresh = []  # equal examples share a row
                for place, key in enumerate(keys):
                    if key not in rows:
                        rows[key] = len(rows)
                        fresh.append(place)
                for store, part in zip(kept, parts, strict=True):
                    store.append(part[fresh].cpu())
        self._rows, self._kept = rows, [torch.cat(store) for store in kept]
        return bool(rows)

    def _pass_size(self, task: Task) -> int:
        few = next(iter(task.batches("train", max(4, 2 * (self.module.declared_batch or 1)))))
        self._chunk = accepted_chunk(self.module, few, self._taps)
        return max(
            1, min(_PASS, _ACTIVATION_BYTES // activation_bytes(self.module, few, self._chunk, self._taps))
        )


def _keys(arrays: Mapping[str, Array], size: int) -> list[bytes] | None:
    """A content key per example, None where an input has no batch axis of that size."""
    if any(np.ndim(array) == 0 or len(array) != size for array in arrays.values()):
        return None
    views = [np.ascontiguousarray(array).reshape(size, -1).view(np.uint8) for array in arrays.values()]
    keys = []
    for i in range(size):
        digest = hashlib.blake2b(digest_size=16)
        for view in views:
            digest.update(view[i])
        keys.append(digest.digest())
    return keys
