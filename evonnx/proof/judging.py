"""What is seen of one tensor in both models, and what follows from it.

    max |compact - masked| <= tolerance max |masked| + 4 noise

where noise is what the masked model's own result changes by when onnxruntime's optimisations are on and the
inputs move by a millionth (exponentials amplify rounding). It is measured only where it decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Array
from evonnx.proof.copies import Compared

SENSITIVITY = 1e-2
"""Two unrelated inputs must change a tensor by this share of its largest value, or it shows nothing."""
NOISE_FACTOR = 4.0
_MOST_NOISE = 1e-2
"""A tensor whose own noise is a larger share of its largest value can't be judged on that input."""


@dataclass(frozen=True)
class TensorProof:
    """What was seen of one tensor, over all inputs."""

    name: str
    node: str
    difference: float
    """Largest |compact - masked| / max |masked|; for integers the share of elements that differ."""
    difference_redrawn: float
    """The same with redrawn weights."""
    sensitivity: float
    """Largest reaction to another input, as a share of the largest value."""
    passed: bool
    void: bool
    reason: str = ""


@dataclass
class Tally:
    """What has been seen of one tensor so far."""

    compared: Compared
    differences: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """With the weights as they are, and redrawn."""
    sensitivity: float = 0.0
    uniform: bool = True
    """Whether it held one number only, whatever the input."""
    silent: list[bool] = field(default_factory=lambda: [True, True])
    """Whether it was exactly zero everywhere: with the weights as they are, and redrawn."""
    seen_redrawn: bool = False
    faults: list[str] = field(default_factory=list)
    seen: int = 0
    is_float: bool = True
    void_reason: str = "it was never finite and steady enough to compare"

    @property
    def constant(self) -> bool:
        """Whether it is a pattern that no input changes in the least (what is made of a class token), or zero
        whatever the live weights are (products of queries and keys that are all dead). What the model puts
        out has to react."""
        zero = self.seen_redrawn and all(self.silent) and not self.compared.is_output
        return self.sensitivity == 0 and (zero or not self.uniform)


def is_allowed(want: Array, own: Sequence[Array], got: Array, tolerance: float) -> bool:
    """Whether two results agree, given what the masked model's own result may change by."""
    if want.shape != got.shape or want.dtype.kind != "f" or not np.isfinite(want).all():
        return bool(np.array_equal(want, got, equal_nan=want.dtype.kind == "f"))
    noise = max((largest_gap(other, want) for other in own), default=0.0)
    return largest_gap(got, want) <= tolerance * float(np.abs(want).max(initial=0.0)) + NOISE_FACTOR * noise


def enter(
    tally: Tally, want: Array, own: Sequence[Array], got: Array, tolerance: float, redrawn: bool
) -> None:
    """Judge one tensor on one input.

    Args:
        tally: to enter it in.
        want: the masked model's, without optimisations.
        own: the masked model's with nudged inputs, with and without optimisations; as many as were needed.
        got: the compact model's.
        tolerance: relative.
        redrawn: which weights both have.
    """
    tally.is_float = want.dtype.kind == "f"
    where = " with redrawn weights" if redrawn else ""

    def fault(difference: float, words: str) -> None:
        tally.differences[redrawn] = max(tally.differences[redrawn], difference)
        tally.faults.append(f"{words}{where}")

    if want.shape != got.shape:
        if all(other.shape == want.shape for other in own):
            fault(float("inf"), f"has shape {list(got.shape)} instead of {list(want.shape)}")
        return
    if not tally.is_float:
        tally.seen += 1
        if not np.array_equal(want, got) and all(np.array_equal(want, other) for other in own):
            share = float(np.mean(want != got))
            fault(share, f"differs in {share:.1%} of its elements")
        return
    finite = np.isfinite(want)
    if not _alike_where_not_finite(want, got, finite):
        if all(_alike_where_not_finite(want, other, finite) for other in own):
            fault(float("inf"), "is not finite at the same places")
        return
    largest = float(np.abs(want[finite]).max(initial=0.0))
    difference = largest_gap(got[finite], want[finite])
    noise = max((largest_gap(other[finite], want[finite]) for other in own), default=0.0)
    if (want.size and not finite.any()) or not noise <= _MOST_NOISE * largest:
        return
    tally.seen += 1
    tally.silent[redrawn] &= largest == 0
    tally.seen_redrawn |= redrawn
    tally.uniform &= bool(want.size == 0 or np.all(want == want.flat[0]))
    relative = difference / largest if largest > 0 else (0.0 if difference == 0 else float("inf"))
    tally.differences[redrawn] = max(tally.differences[redrawn], relative)
    if difference > tolerance * largest + NOISE_FACTOR * noise:
        fault(relative, f"differs by {relative:.1e} of its largest value")


def _alike_where_not_finite(want: Array, got: Array, finite: NDArray[np.bool_]) -> bool:
    return bool(np.isfinite(got[finite]).all()) and np.array_equal(
        want[~finite], got[~finite], equal_nan=True
    )


def reaction(one: Array, other: Array) -> float:
    """How far apart one tensor is for two inputs, as a share of the second's largest value."""
    if one.shape != other.shape or not one.size:
        return 1.0
    finite = np.isfinite(one) & np.isfinite(other)
    if not finite.any():
        return 0.0
    largest = float(np.abs(other[finite]).max())
    return largest_gap(one[finite], other[finite]) / largest if largest > 0 else 0.0


def largest_gap(one: Array, other: Array) -> float:
    """The largest absolute difference."""
    return float(np.abs(np.subtract(one, other)).max(initial=0.0))


def detail_of(tally: Tally, still: set[str]) -> TensorProof:
    """The verdict on one tensor.

    Args:
        tally: what was seen of it.
        still: tensors that need not react to inputs.
    """
    name, node = tally.compared.name, tally.compared.node_label
    void, reason = False, ""
    if tally.faults:
        reason = tally.faults[0]
    elif not tally.seen:
        void, reason = True, tally.void_reason
    elif tally.is_float and tally.sensitivity < SENSITIVITY and name not in still and not tally.constant:
        void = True
        reason = f"two unrelated inputs change it by {tally.sensitivity:.1e} of its largest value only"
    return TensorProof(
        name=name,
        node=node,
        difference=tally.differences[0],
        difference_redrawn=tally.differences[1],
        sensitivity=tally.sensitivity,
        passed=not reason,
        void=void,
        reason=reason,
    )
