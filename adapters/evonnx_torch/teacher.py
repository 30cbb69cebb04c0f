"""The ancestor as teacher: its outputs for each view of each example, computed once where they come back.

Batches carry no example numbers, so examples are recognised by their content. What is remembered must not
depend on which retraining came first, or a resumed run would not give the same bits. Two ways keep that:

- One view per example (no augmentation): one pass in the data's own order with a fixed batch size.
- Several: outputs are computed as they are asked for, always in passes of one size. That is done only where
  an example's outputs are found to be the same bits wherever it stands in a pass and whatever stands beside
  it; else outputs are computed anew each time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evonnx.network import Array
from evonnx.task import Task
from evonnx_torch.feeding import Chunk, accepted_chunk, activation_bytes, chunks
from evonnx_torch.module import OnnxModule
from evonnx_torch.runtime import fits, to_device
from evonnx_training.augmentation import Augmentation, TimeShift
from evonnx_training.heads import Head

CACHE_BYTES = 512 * 2**20
"""Most bytes of outputs that are kept."""
_PASS = 128
"""Most examples per forward pass while one view of all examples is computed."""
_SMALL_PASS = 32
"""The same where outputs are computed as they are asked for; a pass that is not full is padded."""
_ACTIVATION_BYTES = 2**30
"""Most activations of one such pass. Its size depends on the ancestor alone, never on the student."""

_ODD = np.uint64(0x9E3779B97F4A7C15)

Outputs = tuple[Tensor, ...]
"""One tensor per head."""


class Teacher:
    """Runs the ancestor in evaluation mode; outputs are read at the same places as the student's.

    Args:
        module: the ancestor.
        heads: where its outputs are read.
        autocast: makes the context that it runs in (mixed precision).
    """

    def __init__(
        self,
        module: OnnxModule,
        heads: tuple[Head, ...],
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.module = module
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._taps = tuple(head.tap for head in heads)
        self._autocast = autocast
        self._augmentation: Augmentation | TimeShift | None = None
        self._store: _Store | None = None
        self._limit: int | None = None
        self._most = _PASS
        self._pass: int | None = None
        """Examples per pass, where outputs are computed as they are asked for."""

    def __call__(self, chunk: Chunk) -> Outputs:
        """The teacher's tensors for a chunk."""
        places = self._store.places(chunk) if self._store is not None else None
        if self._pass is None:
            # All that will ever be known is.
            if self._store is None or places is None or not self._store.has(places).all():
                return self._run(chunk.inputs)
        elif self._store is None or places is None:
            return self._in_passes(chunk.inputs, np.arange(chunk.size), self._pass)
        else:
            missing = np.flatnonzero(~self._store.has(places))
            if len(missing):
                self._store.put(places[missing], self._in_passes(chunk.inputs, missing, self._pass))
        return self._store.get(places, self.module.device)

    def remember(self, task: Task, augmentation: Augmentation | TimeShift) -> bool:
        """Get ready to keep outputs for the views of the training split, if they are small enough and one row
        per example; what is kept for another augmentation is dropped.

        Returns:
            Whether outputs are kept.
        """
        if self._augmentation != augmentation:
            self._augmentation, self._store, self._pass = augmentation, None, None
            store = self._room(task, augmentation)
            if store is not None and augmentation.views == 1:
                self._store = store if self._fill(store, task) else None
            # On a GPU passes this small would take longer than they save.
            elif store is not None and self.module.device.type == "cpu" and self._is_the_same_anywhere(task):
                self._store = store
        return self._store is not None

    def _room(self, task: Task, augmentation: Augmentation | TimeShift) -> _Store | None:
        """Where outputs would be kept; None where they are too large or no rows per example."""
        few = next(iter(task.batches("train", max(4, 2 * (self.module.declared_batch or 1)))))
        limit = accepted_chunk(self.module, few, self._taps)
        part = next(chunks(self.module, few, limit))
        rows = self._run(part.inputs)
        if _keys(part.arrays, part.size) is None or any(
            not row.ndim or row.shape[0] != part.size for row in rows
        ):
            return None
        examples = task.size("train")
        size = examples * augmentation.views * sum(row[0].numel() for row in rows) * 4
        if size > CACHE_BYTES:
            return None
        self._limit = limit
        self._most = max(1, _ACTIVATION_BYTES // activation_bytes(self.module, few, limit, self._taps))
        device = self.module.device if fits(size, self.module.device) else torch.device("cpu")
        return _Store(examples, augmentation, [row.shape[1:] for row in rows], device)

    def _fill(self, store: _Store, task: Task) -> bool:
        for batch in task.batches("train", min(_PASS, self._most)):
            for chunk in chunks(self.module, batch, self._limit):
                places = store.places(chunk)
                rows = self._run(chunk.inputs)
                if places is None or any(row.shape[0] != chunk.size for row in rows):
                    return False
                # Equal examples share a row: the first one's.
                places, first = np.unique(places, return_index=True)
                fresh = ~store.has(places)
                index = torch.from_numpy(first[fresh])
                store.put(places[fresh], tuple(row.cpu()[index] for row in rows))
        return True

    def _is_the_same_anywhere(self, task: Task) -> bool:
        """Whether an example's outputs are the same bits at each place of a pass and beside any others; sets
        the size of passes if so."""
        size = self._limit or min(_SMALL_PASS, self._most)
        batch = next(iter(task.batches("train", 4 * size)))
        inputs = self.module.tensors(batch.inputs)
        order = np.arange(batch.size)
        want = self._in_passes(inputs, order, size)
        shuffled = np.random.default_rng(0).permutation(batch.size)
        for other in (order[::-1], np.roll(order, 1), np.roll(order, size // 2 + 1), shuffled, order[:1]):
            got = self._in_passes(inputs, other, size)
            index = torch.from_numpy(other.copy())
            if not all(torch.equal(one[index], two) for one, two in zip(want, got, strict=True)):
                return False
        self._pass = size
        return True

    def _in_passes(self, inputs: Mapping[str, Tensor], wanted: NDArray[np.int64], size: int) -> Outputs:
        """Outputs of some examples, always `size` in a pass; the last pass is filled up with its first."""
        parts = []
        for start in range(0, len(wanted), size):
            some = wanted[start : start + size]
            index = torch.from_numpy(np.concatenate([some, np.full(size - len(some), some[0])]))
            data = {n: self.module.laid_out(x[index]) if x.ndim else x for n, x in inputs.items()}
            parts.append(tuple(row[: len(some)] for row in self._run(data)))
        return parts[0] if len(parts) == 1 else tuple(torch.cat(rows) for rows in zip(*parts, strict=True))

    def _run(self, inputs: Mapping[str, Tensor]) -> Outputs:
        with torch.inference_mode(), self._autocast():
            result = self.module(inputs, self._taps)
        # A copy made outside may be saved for the backward pass.
        return tuple(result[tap].clone() for tap in self._taps)


class _Store:
    """Outputs by example and view.

    Args:
        examples: how many different ones there may be.
        augmentation: says which views there are.
        shapes: of one example's outputs, per head.
        device: where they are kept.
    """

    def __init__(
        self,
        examples: int,
        augmentation: Augmentation | TimeShift,
        shapes: list[torch.Size],
        device: torch.device,
    ) -> None:
        self._examples, self._views, self._unmoved = examples, augmentation.views, augmentation.unmoved
        self._rows: dict[int, int] = {}
        self._device = device
        # On the CPU memory is taken as it is written to.
        self._kept = [torch.empty((examples * self._views, *shape), device=device) for shape in shapes]
        self._known = np.zeros(examples * self._views, np.bool_)

    def places(self, chunk: Chunk) -> NDArray[np.int64] | None:
        """Where a chunk's outputs are or would be; None where more examples come than were promised."""
        keys = _keys(chunk.arrays, chunk.size)
        if keys is None:
            return None
        found = []
        for key in keys:
            row = (
                self._rows.setdefault(key, len(self._rows))
                if len(self._rows) < self._examples
                else self._rows.get(key)
            )
            if row is None:
                return None
            found.append(row)
        rows = np.array(found, np.int64)
        return rows * self._views + (self._unmoved if chunk.views is None else chunk.views)

    def has(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether outputs are known."""
        known: NDArray[np.bool_] = self._known[places]
        return known

    def put(self, places: NDArray[np.int64], rows: Outputs) -> None:
        """Keep outputs."""
        index = to_device(torch.from_numpy(places), self._device)
        for kept, row in zip(self._kept, rows, strict=True):
            kept[index] = row.to(self._device)
        self._known[places] = True

    def get(self, places: NDArray[np.int64], device: torch.device) -> Outputs:
        """Outputs that are known."""
        index = to_device(torch.from_numpy(places), self._device)
        return tuple(kept[index].to(device) for kept in self._kept)


def _keys(arrays: Mapping[str, Array], size: int) -> list[int] | None:
    """A content key of 64 bits per example, None where an input has no batch axis of that size.

    Each word is multiplied by an odd number of its place, its halves are mixed, and all are added: a change
    of one word always shows, and one wrong match among a million examples has a chance of about 3e-8.
    """
    total = np.zeros(size, np.uint64)
    for array in arrays.values():
        if np.ndim(array) == 0 or len(array) != size:
            return None
        octets = np.ascontiguousarray(array).reshape(size, -1).view(np.uint8)
        if rest := -octets.shape[1] % 8:
            octets = np.pad(octets, ((0, 0), (0, rest)))
        words = octets.view(np.uint64)
        mixed = words * _factors(words.shape[1])
        mixed ^= mixed >> np.uint64(32)
        total = total * _ODD + mixed.sum(1, dtype=np.uint64)
    keys: list[int] = total.tolist()
    return keys


@functools.lru_cache(maxsize=4)
def _factors(count: int) -> NDArray[np.uint64]:
    """An odd number for each place of an example."""
    drawn = np.random.default_rng(0).integers(0, 2**63, count, dtype=np.uint64)
    return drawn * np.uint64(2) + np.uint64(1)
