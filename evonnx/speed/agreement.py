"""How far outputs of models are apart on the same inputs: figures and what they are of, no verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evonnx.network import Array
from evonnx.sessions import InputSpec
from evonnx.speed.records import OutputAgreement

CHECK_EXAMPLES = 16
"""Examples that outputs are compared on, in as many runs as that takes at a batch size."""


def fitted(feeds: Mapping[str, Array], specs: Sequence[InputSpec]) -> dict[str, Array] | str:
    """One model's inputs for another model, in its floating-point width; or why they don't fit it.

    Args:
        feeds: inputs of the first model, by name.
        specs: what the other one must be fed.
    """
    names = [spec.name for spec in specs]
    if sorted(names) != sorted(feeds):
        return f"its inputs are {', '.join(names) or 'none'}, the other's {', '.join(feeds) or 'none'}"
    found = {}
    for spec in specs:
        given = feeds[spec.name]
        fixed = [dim for dim in spec.shape if isinstance(dim, int)]
        there = [size for dim, size in zip(spec.shape, given.shape, strict=False) if isinstance(dim, int)]
        if len(spec.shape) != given.ndim or fixed != there:
            return f"its input {spec.name!r} does not take the other's {list(given.shape)}"
        floats = {spec.dtype.kind, given.dtype.kind} <= {"f", "V"}  # bfloat16 has kind V
        if spec.dtype != given.dtype and not floats:
            return f"its input {spec.name!r} is {spec.dtype}, the other's {given.dtype}"
        found[spec.name] = given.astype(spec.dtype, copy=False)
    return found


def compare(first: Mapping[str, Any], other: Mapping[str, Any], batch: int) -> tuple[OutputAgreement, ...]:
    """Compare the outputs of one run, in the other's order and then what only the other one has.

    Args:
        first: the other's outputs by name.
        other: the other's, on the same inputs.
        batch: examples in them.
    """
    names = dict.fromkeys([*first, *other])
    return tuple(_compare(name, first.get(name), other.get(name), batch) for name in names)


def merge(runs: Sequence[Sequence[OutputAgreement]]) -> tuple[OutputAgreement, ...]:
    """The comparisons of several runs as one: largest differences of all, counts added up."""
    return tuple(_merge(of_one_output) for of_one_output in zip(*runs, strict=True))


def _merge(runs: Sequence[OutputAgreement]) -> OutputAgreement:
    refused = next((run for run in runs if run.reason is not None), None)
    if refused is not None:
        return refused
    largest = max(run.largest_difference or 0.0 for run in runs)
    magnitude = max(run.magnitude or 0.0 for run in runs)
    return OutputAgreement(
        runs[0].output,
        largest_difference=largest,
        magnitude=magnitude,
        relative_difference=largest / magnitude if magnitude else None,
        not_finite=sum(run.not_finite or 0 for run in runs),
        same=None if runs[0].same is None else sum(run.same or 0 for run in runs),
        of=None if runs[0].of is None else sum(run.of or 0 for run in runs),
    )


def _compare(name: str, first: Any, other: Any, batch: int) -> OutputAgreement:
    reason = _why_not(first, other)
    if reason is not None:
        return OutputAgreement(name, reason=reason)
    a, b = np.asarray(first, np.float64), np.asarray(other, np.float64)
    # Equal infinities and two NaNs agree; where only one of two numbers is finite, there is no difference.
    finite = np.isfinite(a) & np.isfinite(b)
    unlike = ~finite & (a != b) & ~(np.isnan(a) & np.isnan(b))
    a, b = np.where(finite, a, 0), np.where(finite, b, 0)
    same = of = None
    if first.dtype.kind in "iub":
        same, of = int(np.count_nonzero(first == other)), first.size
    elif first.ndim == 2 and first.shape[0] == batch and first.shape[1] > 1:
        same, of = int(np.count_nonzero(first.argmax(axis=1) == other.argmax(axis=1))), batch
    largest, magnitude = float(np.abs(a - b).max(initial=0.0)), float(np.abs(a).max(initial=0.0))
    return OutputAgreement(
        name,
        largest_difference=largest,
        magnitude=magnitude,
        relative_difference=largest / magnitude if magnitude else None,
        not_finite=int(np.count_nonzero(unlike)),
        same=same,
        of=of,
    )


def _why_not(first: Any, other: Any) -> str | None:
    """Why two values of one output can't be compared."""
    if first is None or other is None:
        return f"only {'the other model' if other is None else 'this model'} has it"
    if any(not isinstance(one, np.ndarray) or one.dtype.kind in "OUS" for one in (first, other)):
        return "it is not a tensor of numbers"
    if first.shape != other.shape:
        return f"its shape is {list(other.shape)}, in the other {list(first.shape)}"
    return None
