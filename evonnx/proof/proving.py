"""The proof that removal changed nothing: masked and compact model run on the same inputs in onnxruntime.

Compared are all outputs of Conv, ConvTranspose, Gemm, MatMul and norms (the channels that were kept) and all
graph outputs, each on its own scale:

    max |compact - masked| <= 1e-4 max |masked| + 4 noise

where noise is what the masked model's own result changes by when onnxruntime's optimisations are on and the
inputs move by a millionth (exponentials amplify rounding). Compared twice: with the weights as they are, and
with live weights redrawn in both models alike (`proof_copies`), where faults can't hide. A tensor that reacts
to its inputs in neither shows nothing, and makes the proof void. Finite inputs are all that is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.compaction import Compacted
from evonnx.errors import ModelError, ProofError
from evonnx.network import Array
from evonnx.onnx_io import to_bytes
from evonnx.proof.copies import Compared, add_outputs, compared_tensors, redraw, unreactive
from evonnx.proof.inputs import Shapes, Source, feed, first_sizes, second_sizes, sources_of
from evonnx.proof.precision import float32_copy, is_low_precision
from evonnx.sessions import input_specs, make_session, run_session

SCALES = (1.0, 1.0, 0.1, 30.0)
"""Standard deviations of the random inputs; the first two are compared to see what reacts to inputs. Redrawn
weights get only those: they are scaled to pass signals on as they come. A second size gets the first."""
SENSITIVITY = 1e-2
"""Two unrelated inputs must change a tensor by this share of its largest value, or it shows nothing."""
_NOISE_FACTOR = 4.0
_MOST_NOISE = 1e-2
"""A tensor whose own noise is a larger share of its largest value can't be judged on that input."""
_NUDGE = 1e-6
"""Relative change of the inputs that stands for rounding: what sums of other order do to a layer."""


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


@dataclass(frozen=True)
class Proof:
    """The verdict, as data. `require` turns a bad one into an error."""

    passed: bool
    """Equal within the tolerance wherever anything was compared, and not void."""
    void: bool
    """Nothing was shown: no tensors, no inputs that the model accepts, or no reaction to them."""
    worst_difference: float
    """Largest difference of any tensor, with the weights as they are."""
    worst_tensor: str
    tensors: int
    """How many were compared."""
    reason: str
    """One sentence; empty if passed."""
    details: tuple[TensorProof, ...] = ()
    removed: tuple[str, ...] = ()
    """Tensors that the compact model no longer computes."""
    sizes: tuple[Mapping[str, tuple[int, ...]], ...] = ()
    """Input shapes tried."""
    scales: tuple[float, ...] = SCALES
    tolerance: float = 1e-4
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.passed:
            return self.reason
        return (
            f"{self.tensors} tensors agree, worst relative difference {self.worst_difference:.1e} "
            f"at {self.worst_tensor}"
        )

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-able data; infinite differences are given as 1e308."""
        record = asdict(self)
        record["worst_difference"] = min(self.worst_difference, 1e308)
        for detail in record["details"]:
            for key in ("difference", "difference_redrawn"):
                detail[key] = min(detail[key], 1e308)
        return record


@dataclass
class _Tally:
    """What has been seen of one tensor so far."""

    compared: Compared
    differences: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """With the weights as they are, and redrawn."""
    sensitivity: float = 0.0
    faults: list[str] = field(default_factory=list)
    seen: int = 0
    is_float: bool = True
    void_reason: str = "it was never finite and steady enough to compare"


def prove(
    masked: ir.Model,
    compacted: Compacted,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    tolerance: float = 1e-4,
    threads: int | None = None,
) -> Proof:
    """Compare a masked model with what compaction made of it. Raises nothing: see `require`.

    Args:
        masked: the model with zeros.
        compacted: the model without, with its plan.
        input_shapes: shapes to start with where axes are dynamic, by input name.
        seed: of inputs and redrawn weights.
        tolerance: largest difference allowed, as a share of a tensor's largest value.
        threads: onnxruntime's; None: all cores of this process.
    """
    try:
        before, after = (onnx.load_from_string(to_bytes(model)) for model in (masked, compacted.model))
        notes: list[str] = []
        if is_low_precision(before):
            before, after = float32_copy(before), float32_copy(after)
            notes.append("Proven in a float32 copy: the model has float16 or bfloat16 numbers.")
        named = [[value.name for value in model.graph.output] for model in (before, after)]
        if named[0] != named[1]:
            return _failed(f"The compact model has the graph outputs {named[1]} instead of {named[0]}.", [])
        tensors, removed = compared_tensors(before, after, compacted.kept)
        lost = sorted(set(removed) & set(named[0]))
        if lost:
            return _failed(f"The compact model no longer computes the graph output {lost[0]!r}.", removed)
        still = unreactive(before)
        sources = sources_of(before)
        for model in (before, after):
            add_outputs(model, [one.name for one in tensors])
        pair = _Pair(before, after, tensors, sources, threads)
        sizes = list(pair.sizes(dict(input_shapes or {}), seed))
        tallies = {one.name: _Tally(one) for one in tensors}
        for number, shapes in enumerate(sizes):
            pair.compare(
                shapes, SCALES[: None if number == 0 else 1], seed, tallies, tolerance, redrawn=False
            )
        del pair
        unlike = redraw(before, after, compacted.plan, np.random.default_rng([seed, 1]))
        if unlike:
            notes.append(f"Not redrawn, for the compact model holds other values: {', '.join(unlike)}.")
        pair = _Pair(before, after, tensors, sources, threads)
        for number, shapes in enumerate(sizes):
            pair.compare(shapes, SCALES[: 2 - number], seed, tallies, tolerance, redrawn=True)
    except ModelError as error:
        return _failed(f"Masked and compact model can't be compared: {error}", [])
    return _verdict(tallies, still, removed, sizes, tolerance, notes)


def require(proof: Proof) -> None:
    """Insist on a proof.

    Raises:
        ProofError: it failed or is void; the message is the proof's reason.
    """
    if not proof.passed:
        advice = (
            "for nothing was proven."
            if proof.void
            else "for removal must not change the function: please report this model as a bug in evonnx."
        )
        raise ProofError(f"{proof.reason} Nothing was written, {advice}")


def _failed(reason: str, removed: Sequence[str]) -> Proof:
    return Proof(False, False, float("inf"), "", 0, reason, removed=tuple(removed))


class _Pair:
    """Masked and compact model, ready to run with the compared tensors among their outputs."""

    def __init__(
        self,
        before: onnx.ModelProto,
        after: onnx.ModelProto,
        tensors: Sequence[Compared],
        sources: Mapping[str, Source],
        threads: int | None,
    ) -> None:
        self.tensors = tensors
        self.sources = sources
        self.threads = threads
        self.masked = before
        self.plain = make_session(before.SerializeToString(), threads=threads, optimize=False)
        self.compact = make_session(after.SerializeToString(), threads=threads)
        self.specs = input_specs(self.plain)

    @cached_property
    def optimised(self) -> Any:
        """The masked model with optimisations: what its own rounding is measured with, where that matters."""
        return make_session(self.masked.SerializeToString(), threads=self.threads)

    def sizes(self, given: Mapping[str, Sequence[int]], seed: int) -> Iterator[Shapes]:
        """One or two sets of input shapes that the masked model accepts."""
        first = self._accepted(first_sizes(self.specs, given), seed)
        yield first
        second = second_sizes(self.specs, first)
        try:
            yield self._accepted(second, seed)
        except ModelError:
            return

    def _accepted(self, candidates: Iterator[Shapes], seed: int) -> Shapes:
        error = ModelError("the model accepts no other size")
        probe = [output.name for output in self.plain.get_outputs()[:1]]
        for shapes in candidates:
            try:
                run_session(self.plain, self._feed(shapes, np.random.default_rng(seed), 1.0), probe)
            except ModelError as caught:
                error = caught
            else:
                return shapes
        raise error

    def _feed(self, shapes: Shapes, rng: np.random.Generator, scale: float) -> dict[str, Array]:
        return feed(self.specs, shapes, rng, scale, self.sources)

    def compare(
        self,
        shapes: Shapes,
        scales: Sequence[float],
        seed: int,
        tallies: Mapping[str, _Tally],
        tolerance: float,
        *,
        redrawn: bool,
    ) -> None:
        """Run some scales at one size and enter what is seen."""
        rng = np.random.default_rng([seed, 2])
        previous: Mapping[str, Array] = {}
        names = [one.name for one in self.tensors]
        for number, scale in enumerate(scales):
            feeds = self._feed(shapes, rng, scale)
            reference = run_session(self.plain, feeds, names)
            got = run_session(self.compact, feeds, names)
            own: Mapping[str, Array] | None = None
            nudge = rng.spawn(1)[0]
            for one in self.tensors:
                tally = tallies[one.name]
                want = one.kept(reference[one.name])
                if own is None and not _agrees(want, got[one.name], tolerance):
                    own = run_session(self.optimised, _nudged(feeds, nudge), names)
                steady = want if own is None else one.kept(own[one.name])
                _enter(tally, want, steady, got[one.name], tolerance, redrawn)
                if number == 1 and tally.is_float:
                    tally.sensitivity = max(tally.sensitivity, _reaction(one.kept(previous[one.name]), want))
            previous = reference


def _agrees(want: Array, got: Array, tolerance: float) -> bool:
    """Whether two results agree without any allowance for noise."""
    if want.shape != got.shape or want.dtype.kind != "f" or not np.isfinite(want).all():
        return bool(np.array_equal(want, got, equal_nan=want.dtype.kind == "f"))
    return _largest_gap(got, want) <= tolerance * float(np.abs(want).max(initial=0.0))


def _nudged(feeds: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    return {
        name: np.multiply(array, 1 + _NUDGE * rng.standard_normal(array.shape)).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in feeds.items()
    }


def _enter(tally: _Tally, want: Array, own: Array, got: Array, tolerance: float, redrawn: bool) -> None:
    """Judge one tensor on one input.

    Args:
        tally: to enter it in.
        want: the masked model's, without optimisations.
        own: the masked model's, with optimisations and nudged inputs.
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
        if own.shape == want.shape:
            fault(float("inf"), f"has shape {list(got.shape)} instead of {list(want.shape)}")
        return
    if not tally.is_float:
        tally.seen += 1
        if not np.array_equal(want, got) and np.array_equal(want, own):
            share = float(np.mean(want != got))
            fault(share, f"differs in {share:.1%} of its elements")
        return
    finite = np.isfinite(want)
    if not _alike_where_not_finite(want, got, finite):
        if _alike_where_not_finite(want, own, finite):
            fault(float("inf"), "is not finite at the same places")
        return
    largest = float(np.abs(want[finite]).max(initial=0.0))
    difference = _largest_gap(got[finite], want[finite])
    noise = _largest_gap(own[finite], want[finite])
    if (want.size and not finite.any()) or not noise <= _MOST_NOISE * largest:
        return
    tally.seen += 1
    relative = difference / largest if largest > 0 else (0.0 if difference == 0 else float("inf"))
    tally.differences[redrawn] = max(tally.differences[redrawn], relative)
    if difference > tolerance * largest + _NOISE_FACTOR * noise:
        fault(relative, f"differs by {relative:.1e} of its largest value")


def _alike_where_not_finite(want: Array, got: Array, finite: NDArray[np.bool_]) -> bool:
    return bool(np.isfinite(got[finite]).all()) and np.array_equal(
        want[~finite], got[~finite], equal_nan=True
    )


def _reaction(one: Array, other: Array) -> float:
    if one.shape != other.shape or not one.size:
        return 1.0
    finite = np.isfinite(one) & np.isfinite(other)
    if not finite.any():
        return 0.0
    largest = float(np.abs(other[finite]).max())
    return _largest_gap(one[finite], other[finite]) / largest if largest > 0 else 0.0


def _largest_gap(one: Array, other: Array) -> float:
    return float(np.abs(np.subtract(one, other)).max(initial=0.0))


def _verdict(
    tallies: Mapping[str, _Tally],
    still: set[str],
    removed: Sequence[str],
    sizes: Sequence[Shapes],
    tolerance: float,
    notes: Sequence[str],
) -> Proof:
    details = tuple(_detail(tally, still) for tally in tallies.values())
    faults = [detail for detail in details if not detail.passed and not detail.void]
    voids = [detail for detail in details if detail.void]
    worst = max(details, key=lambda detail: detail.difference, default=None)
    if faults:
        first = faults[0]
        reason = (
            f"Masked and compact model differ: {first.name!r} (node {first.node}) {first.reason}, and so do "
            f"{len(faults) - 1} of {len(details) - 1} other tensors."
        )
    elif not details:
        reason = "The proof is void: masked and compact model have no tensors in common."
    elif voids:
        first = voids[0]
        reason = f"The proof is void at {first.name!r} (node {first.node}): {first.reason}."
    else:
        reason = ""
    return Proof(
        passed=not reason,
        void=bool(reason) and not faults,
        worst_difference=worst.difference if worst else 0.0,
        worst_tensor=worst.name if worst else "",
        tensors=len(details),
        reason=reason,
        details=details,
        removed=tuple(removed),
        sizes=tuple(sizes),
        tolerance=tolerance,
        notes=tuple(notes),
    )


def _detail(tally: _Tally, still: set[str]) -> TensorProof:
    name, node = tally.compared.name, tally.compared.node_label
    void, reason = False, ""
    if tally.faults:
        reason = tally.faults[0]
    elif not tally.seen:
        void, reason = True, tally.void_reason
    elif tally.is_float and tally.sensitivity < SENSITIVITY and name not in still:
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
