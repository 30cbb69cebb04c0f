"""From a task's batches to tensors, in chunks that fit the graph and the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx.task import Batch
from evonnx_torch.module import OnnxModule
from evonnx_torch.runtime import to_device


@dataclass(frozen=True)
class Chunk:
    """What one forward pass takes."""

    arrays: Mapping[str, Array]
    """Inputs as the task gave them, before augmentation; examples are recognised by them."""
    inputs: dict[str, Tensor]
    targets: Tensor | None
    size: int
    highest_label: int = -1
    """Largest target where targets are integers; read before they go to the device."""
    named: Mapping[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    """Targets and element weights by output, where the loss has terms."""
    highest_named: Mapping[str, int] = field(default_factory=dict)
    """As `highest_label`, by output."""
    views: NDArray[np.int64] | None = None
    """Which view of its example each input is (see `Augmentation`); None: as the task gave it."""


def chunks(
    module: OnnxModule,
    batch: Batch,
    limit: int | None,
    given: Batch | None = None,
    views: NDArray[np.int64] | None = None,
) -> Iterator[Chunk]:
    """Cut a batch into pieces of `limit` examples; a remainder that is too small for the graph is left out.

    Args:
        module: takes them.
        batch: what it is to see.
        limit: examples per piece; None: all in one.
        given: the batch as the task gave it, where `batch` was made of it by augmentation.
        views: which view of its example each input is, then.
    """
    size = batch.size if limit is None else min(limit, batch.size)
    fixed = limit is not None and limit == module.declared_batch
    for start in range(0, batch.size, max(size, 1)):
        count = min(size, batch.size - start)
        if fixed and count < (limit or 0) and start:
            return
        arrays = _part(batch.inputs, start, count, batch.size)
        piece = slice(start, start + count)
        targets, highest, named, tops = None, -1, {}, {}
        if isinstance(batch.targets, Mapping):
            for output, (values, weights) in batch.targets.items():
                counted = None if weights is None else np.broadcast_to(weights, values.shape)[piece]
                tops[output] = _highest(values[piece])
                named[output] = (
                    _target(values[piece], module),
                    None if counted is None else _target(counted.astype(np.float32), module),
                )
        elif batch.targets is not None:
            labels = batch.targets[piece]
            highest = _highest(labels)
            targets = _target(labels, module)
        yield Chunk(
            arrays if given is None else _part(given.inputs, start, count, batch.size),
            module.tensors(arrays),
            targets,
            count,
            highest,
            named,
            tops,
            None if views is None else views[piece],
        )


def _highest(labels: Array) -> int:
    """-1 where targets are no labels."""
    return int(labels.max()) if labels.dtype.kind in "iub" and labels.size else -1


def _target(values: Array, module: OnnxModule) -> Tensor:
    """Whole numbers as int64, others as float32, on the module's device."""
    dtype = np.int64 if values.dtype.kind in "iub" else np.float32
    return to_device(torch.from_numpy(np.array(values, dtype=dtype)), module.device)


def _part(arrays: Mapping[str, Array], start: int, count: int, size: int) -> Mapping[str, Array]:
    if count == size:
        return arrays
    return {name: a if np.ndim(a) == 0 else a[start : start + count] for name, a in arrays.items()}


def accepted_chunk(module: OnnxModule, batch: Batch, taps: tuple[str, ...]) -> int | None:
    """How many examples one forward pass may take: None for any number, else the size that the graph
    declares.

    A graph declared for a fixed batch often works with others once the leading entry of its reshape targets
    follows the batch. That is tried, and believed only if examples together give what they give apart.

    Raises:
        AdapterError: the graph cannot be run at all.
    """
    declared = module.declared_batch
    if declared is None:
        return None
    if batch.size < 2 * declared:
        return declared
    two = Batch(
        {n: a[: 2 * declared] if np.ndim(a) else a for n, a in batch.inputs.items()}, None, 2 * declared
    )
    module.eval()
    with torch.no_grad():
        apart = [module(chunk.inputs, taps) for chunk in chunks(module, two, declared)]
        try:
            together = module(next(chunks(module, two, None)).inputs, taps)
        except AdapterError:
            return declared
    for tap in taps:
        want = torch.cat([result[tap] for result in apart]) if apart[0][tap].ndim else apart[0][tap]
        got = together[tap]
        if got.shape != want.shape or (got - want).abs().max() > 1e-4 * want.abs().max() + 1e-6:
            return declared
    return None


def activation_bytes(module: OnnxModule, batch: Batch, chunk: int | None, taps: tuple[str, ...]) -> int:
    """Bytes of all tensors that one example's forward pass makes, at least 1."""
    part = next(chunks(module, batch, chunk))
    module.eval()
    return max(1, math.ceil(module.activation_elements(part.inputs, taps) * 4 / part.size))
