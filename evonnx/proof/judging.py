"""What is seen of one tensor in both models, and what follows from it.

Every slice of a tensor that is large enough to have a level of its own (a channel, a row) is held against
itself, so that what is small or hardly moves is not judged by large constants beside it:

    |compact - masked| <= tolerance min(max |masked|, moves) + 4 noise + rounding

where moves is how far another input takes the slice, noise what the masked model's own result changes by when
inputs and weights move by a millionth and, where the compact model runs so, with onnxruntime's optimisations
(exponentials amplify rounding; it is measured only where it decides), and rounding some last bits of the
slice's largest value. A tensor that no input moves by a hundred times what is allowed shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Array
from evonnx.proof.copies import Compared
from evonnx.proof.levels import Floats, gaps_between, is_finite, sizes_of

POWER = 100.0
"""Another input must move some slice by this many times the difference that is allowed there."""
NOISE_FACTOR = 4.0
_MOST_NOISE = 1e-2
"""A tensor whose own noise is a larger share of its largest value can't be judged on that input."""
_ROUNDING = 1e-6
"""What sums in another order may change, as a share of a slice's largest value."""
_LAST_BIT = 2.0**-23
"""The same as a share of the tensor's, where a slice is what remains of larger numbers."""
_CERTAIN = 10.0
"""A difference that is this many times what is allowed is a fault; one that is less, and small beside the
tensor, may be rounding that was underestimated (that of a Sigmoid is absolute), so it proves nothing."""


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
    power: float
    """How many times the allowed difference that is, in the slice where it shows most."""
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
    power: float = 0.0
    uniform: bool = True
    """Whether it held one number only, whatever the input."""
    silent: list[bool] = field(default_factory=lambda: [True, True])
    """Whether it was exactly zero everywhere: with the weights as they are, and redrawn."""
    seen_redrawn: bool = False
    faults: list[str] = field(default_factory=list)
    unsure: str = ""
    """What was seen that may be rounding or a fault."""
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


class Reading:
    """One tensor of the masked model on one input, and what a difference is held against."""

    def __init__(self, want: Array, tolerance: float, moves: list[Floats] | None = None) -> None:
        """
        Args:
            want: the tensor.
            tolerance: largest difference allowed, as a share.
            moves: how far another input takes the slices (see `moves_between`); None: unknown, and sizes
                count alone.
        """
        self.want = want
        self.tolerance = tolerance
        self.is_float = want.dtype.kind == "f"
        sizes = sizes_of(want) if self.is_float else []
        self.all_finite = not self.is_float or is_finite(sizes)
        self.sizes = sizes if self.all_finite else sizes_of(np.where(self.finite, want, 0))
        """Largest magnitudes of what is finite: see `levels`."""
        self.moves = moves

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        """Which elements are finite; the others have to be the same in both models."""
        return np.isfinite(self.want)

    def gaps(self, got: Array) -> list[Floats]:
        """Largest absolute differences: see `levels`; 0 where the masked model's value is not finite."""
        if self.all_finite:
            return gaps_between(got, self.want)
        return _gaps_where(got, self.want, self.finite)

    def noise(self, own: Sequence[Array]) -> list[Floats]:
        """The largest change by slice that the masked model's other results show."""
        found = [self.gaps(one) for one in own if one.shape == self.want.shape]
        return [reduce(np.maximum, levels) for levels in zip(*found, strict=True)]

    @cached_property
    def _allowed(self) -> list[Floats]:
        """Differences that are allowed where the masked model's own results are steady."""
        rounding = [_ROUNDING * size for size in self.sizes]
        scales = [
            # What does not move at all (a class token) is judged on what it is.
            np.where(move > small, np.minimum(move, size), size)
            for move, size, small in zip(self.moves or self.sizes, self.sizes, rounding, strict=True)
        ]
        return [
            self.tolerance * scale + small + _LAST_BIT * self.sizes[0]
            for scale, small in zip(scales, rounding, strict=True)
        ]

    def allowed(self, own: Sequence[Array]) -> list[Floats]:
        """Differences that are allowed: of the whole tensor, and by slice."""
        noise = self.noise(own)
        if not noise:
            return self._allowed
        return [base + NOISE_FACTOR * change for base, change in zip(self._allowed, noise, strict=True)]

    def reaction(self, own: Sequence[Array]) -> tuple[float, float]:
        """How far another input takes the tensor: as a share of its largest value, and of what is allowed."""
        if self.moves is None:
            return 1.0, float("inf")
        moves, largest = float(self.moves[0].max()), float(self.sizes[0].max())
        if not largest > 0:
            return 0.0, 0.0
        pairs = zip(self.moves, self.allowed(own), strict=True)
        with np.errstate(over="ignore"):  # huge numbers over tiny ones are infinitely many times as much
            power = max(float(np.max(move / allowed)) for move, allowed in pairs)
        return moves / largest, power


def moves_between(one: Array, other: Array) -> list[Floats] | None:
    """How far apart two inputs take the slices of a tensor, where both results are finite; None where their
    shapes differ, or they are no floating-point numbers."""
    if one.shape != other.shape or other.dtype.kind != "f":
        return None
    moves = gaps_between(one, other)
    return moves if is_finite(moves) else _gaps_where(one, other, np.isfinite(one) & np.isfinite(other))


def _gaps_where(one: Array, other: Array, where: NDArray[np.bool_]) -> list[Floats]:
    out: Array = np.zeros_like(other)
    np.subtract(one, other, out=out, where=where)
    return sizes_of(out)


class Meeting:
    """What a result of the compact model differs by from the masked model's; the result itself may go."""

    def __init__(self, reading: Reading, got: Array) -> None:
        want = reading.want
        self.reading = reading
        self.shape = got.shape
        self.alike = want.shape == got.shape
        """In shape, and in what is not finite; integers throughout."""
        self.share = 0.0
        """Of elements that differ, where these are no floating-point numbers."""
        self.gaps: list[Floats] = []
        if not self.alike:
            return
        if reading.is_float:
            self.gaps = reading.gaps(got)
            finite = reading.all_finite and is_finite(self.gaps)
            self.alike = finite or _alike_where_not_finite(reading, got)
        elif not np.array_equal(want, got):
            self.alike, self.share = False, float(np.mean(want != got))

    def agrees(self, own: Sequence[Array]) -> bool:
        """Whether the results are the same, given what the masked model's own may change by."""
        if not self.alike or not self.reading.is_float:
            return self.alike
        if not self.reading.all_finite:
            return not any(gap.any() for gap in self.gaps)
        return self.excess(own) <= 1

    def excess(self, own: Sequence[Array]) -> float:
        """The largest difference as a multiple of what is allowed where it is."""
        pairs = list(zip(self.gaps, self.reading.allowed(own), strict=True))
        with np.errstate(over="ignore"):
            shares = [
                np.divide(gap, limit, where=~(gap <= 0), out=np.zeros_like(gap)) for gap, limit in pairs
            ]
        # A slice's largest difference is what exceeds its limit most.
        return float(max(float(share.max()) for share in shares))


def enter(tally: Tally, meeting: Meeting, own: Sequence[Array], redrawn: bool) -> None:
    """Judge one tensor on one input.

    Args:
        tally: to enter it in.
        meeting: what the compact model's result differs by from the masked model's, without optimisations.
        own: the masked model's with nudged inputs and weights; as many as were needed.
        redrawn: which weights both have.
    """
    reading = meeting.reading
    want = reading.want
    tally.is_float = reading.is_float
    where = " with redrawn weights" if redrawn else ""

    def fault(difference: float, words: str) -> None:
        tally.differences[redrawn] = max(tally.differences[redrawn], difference)
        tally.faults.append(f"{words}{where}")

    if want.shape != meeting.shape:
        if all(other.shape == want.shape for other in own):
            fault(float("inf"), f"has shape {list(meeting.shape)} instead of {list(want.shape)}")
        return
    if not tally.is_float:
        tally.seen += 1
        if not meeting.alike and all(np.array_equal(want, other) for other in own):
            fault(meeting.share, f"differs in {meeting.share:.1%} of its elements")
        return
    if not meeting.alike:
        if all(_alike_where_not_finite(reading, other) for other in own):
            fault(float("inf"), "is not finite at the same places")
        return
    largest = float(reading.sizes[0].max())
    difference = float(meeting.gaps[0].max())
    noise = max((float(level.max()) for level in reading.noise(own)[:1]), default=0.0)
    nothing = not reading.all_finite and not reading.finite.any()
    if nothing or not noise <= _MOST_NOISE * largest:
        return
    tally.seen += 1
    tally.silent[redrawn] &= largest == 0
    tally.seen_redrawn |= redrawn
    tally.uniform = tally.uniform and bool(want.size == 0 or np.all(want == want.flat[0]))
    relative = difference / largest if largest > 0 else (0.0 if difference == 0 else float("inf"))
    tally.differences[redrawn] = max(tally.differences[redrawn], relative)
    sensitivity, power = reading.reaction(own)
    tally.sensitivity, tally.power = max(tally.sensitivity, sensitivity), max(tally.power, power)
    excess = meeting.excess(own)
    if excess > 1:
        words = f"differs by {relative:.1e} of its largest value, {excess:.1f} times what is allowed there"
        if excess > _CERTAIN or relative > reading.tolerance + NOISE_FACTOR * noise / (largest or 1.0):
            fault(relative, words)
        else:
            tally.unsure = f"it {words}{where}, which is too little to tell a fault from rounding"


def _alike_where_not_finite(reading: Reading, got: Array) -> bool:
    if reading.all_finite:
        return bool(np.isfinite(got).all())
    want, finite = reading.want, reading.finite
    return bool(np.isfinite(got[finite]).all()) and np.array_equal(
        want[~finite], got[~finite], equal_nan=True
    )


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
    elif tally.unsure:
        void, reason = True, tally.unsure
    elif not tally.seen:
        void, reason = True, tally.void_reason
    elif tally.is_float and tally.power < POWER and name not in still and not tally.constant:
        void = True
        reason = (
            f"two unrelated inputs change it by {tally.sensitivity:.1e} of its largest value only, "
            f"{tally.power:.1f} times what must be allowed there"
        )
    return TensorProof(
        name=name,
        node=node,
        difference=tally.differences[0],
        difference_redrawn=tally.differences[1],
        sensitivity=tally.sensitivity,
        power=tally.power,
        passed=not reason,
        void=void,
        reason=reason,
    )
