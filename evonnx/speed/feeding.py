"""What models are fed while they are timed: batch sizes that fit all of them, random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evonnx.errors import ModelError
from evonnx.network import Array
from evonnx.sessions import InputSpec, concrete_shape, random_array


def feeds_for(
    specs: Sequence[InputSpec],
    batch: int,
    rng: np.random.Generator,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Array]:
    """Random inputs at one batch size; dynamic dimensions beyond the batch from `input_shapes`, else 1.

    A symbol that names the first axis of the first input means the batch wherever else it stands.
    """
    first = specs[0].shape[0] if specs and specs[0].shape else None
    symbols = {first: batch} if isinstance(first, str) else {}
    feeds = {}
    for spec in specs:
        shape = list(concrete_shape(spec, symbols, batch))
        for axis, size in enumerate((input_shapes or {}).get(spec.name, ())):
            dim = spec.shape[axis] if axis < len(spec.shape) else 0
            if axis > 0 and not isinstance(dim, int) and dim not in symbols:
                shape[axis] = size
        feeds[spec.name] = random_array(spec, shape, rng)
    return feeds


def batch_sizes(
    paths: Sequence[str | Path], specs: Sequence[Sequence[InputSpec]], batches: Sequence[int] | None
) -> tuple[int, ...]:
    """The batch sizes to time: those asked for, or where `batches` is None the models' fixed one, else 1.

    Args:
        paths: the files, for messages.
        specs: per file, what its session must be fed.
        batches: asked for.

    Raises:
        ModelError: a size is under 1 or does not fit a model whose batch dimension is fixed.
    """
    fixed: dict[str, int] = {}
    for path, inputs in zip(paths, specs, strict=True):
        first = inputs[0].shape[0] if inputs and inputs[0].shape else None
        if isinstance(first, int):
            fixed[str(path)] = first
    if batches is None:
        chosen = set(fixed.values()) or {1}
        if len(chosen) > 1:
            raise ModelError(
                f"These models have different fixed batch sizes and can't be compared: {fixed}. "
                "Export them with a dynamic batch dimension."
            )
        return tuple(chosen)
    for path, size in fixed.items():
        wrong = [batch for batch in batches if batch != size]
        if wrong:
            raise ModelError(
                f"{path} has its batch dimension fixed to {size}, so it can't be timed at batch {wrong[0]}. "
                f"Ask for --batch {size}, or export it with a dynamic batch dimension."
            )
    if any(batch < 1 for batch in batches):
        raise ModelError(f"Batch sizes must be at least 1, not {min(batches)}.")
    return tuple(batches)
