"""The proof that removal changed nothing: masked and compact model run on the same inputs in onnxruntime.

Compared are all outputs of Conv, ConvTranspose, Gemm, MatMul and norms (the channels that were kept) and all
graph outputs, each on its own scale (`judging`). Compared twice: with the weights as they are, and with live
weights redrawn in both models alike (`copies`, `calibration`), where faults can't hide. A tensor that reacts
to its inputs in neither shows nothing, and makes the proof void. Finite inputs are all that is assumed.
Models of low precision and quantised ones are proven in copies without their rounding; of quantised ones the
graph outputs are compared as they are too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from evonnx.compaction import Compacted, Plan
from evonnx.errors import ModelError, ProofError
from evonnx.network import Array
from evonnx.onnx_io import Detached, detach
from evonnx.proof.calibration import calibration, is_sensitive, needs_calibration, overflows
from evonnx.proof.copies import Compared, Kept, add_outputs, compared_tensors, redraw, rescale, unreactive
from evonnx.proof.dequantizing import dequantized_copy, is_quantized
from evonnx.proof.inputs import Shapes, Source, feed, first_sizes, has_dynamic_axes, second_sizes, sources_of
from evonnx.proof.judging import (
    NOISE_FACTOR,
    Meeting,
    Reading,
    Tally,
    TensorProof,
    detail_of,
    enter,
    largest_gap,
    moves_between,
)
from evonnx.proof.levels import Floats
from evonnx.proof.precision import float32_copy, is_low_precision
from evonnx.proof.rounding import STEP_NUDGE, nudged_inputs, nudged_weights
from evonnx.sessions import give_back_memory, input_specs, make_session, run_session

SCALES = (1.0, 0.1, 30.0)
"""Standard deviations of the random inputs; a second size is compared on the first. Each result is held
against the one before to see what reacts to inputs."""
REDRAWN_SCALES = (1.0, 3.0)
"""The same for redrawn weights, which pass signals on as they come."""
_SAMPLES = 5
"""How often rounding is measured before a difference counts as one."""
_PASSES = 4
"""Calibrations at most, where signals overflow."""
_DRAWS = 3
"""Attempts before a proof is void: redrawn weights may close a gate of one or two channels by chance."""
_SEED_STEP = 1_000_003
_STEPS = 4 / 255
"""How far the outputs of quantised models may be apart, besides their noise: some steps of 8 bits."""


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
        seed: of inputs and redrawn weights; a void attempt is followed by others with seeds of their own.
        tolerance: largest difference allowed, as a share of a tensor's largest value.
        threads: onnxruntime's; None: all cores of this process.
    """
    return prove_pair(
        lambda: (detach(masked), detach(compacted.model)),
        compacted.plan,
        compacted.kept,
        input_shapes=input_shapes,
        seed=seed,
        tolerance=tolerance,
        threads=threads,
    )


def prove_pair(
    models: Callable[[], tuple[Detached, Detached]],
    plan: Plan,
    kept: Kept,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    tolerance: float = 1e-4,
    threads: int | None = None,
) -> Proof:
    """As `prove`, of models that need not stay in memory: what is redrawn takes the place of what was given.

    Args:
        models: gives masked and compact model; called anew for every attempt.
        plan: how the one became the other.
        kept: indices of the masked model's activations that are left, by (name, axis).
        input_shapes: see `prove`, as for the others.
        seed: "
        tolerance: "
        threads: "
    """
    given = dict(input_shapes or {})
    for draw in range(_DRAWS):
        proof = _prove(models, plan, kept, given, seed + draw * _SEED_STEP, tolerance, threads)
        if not proof.void:
            break
    return proof


def _prove(
    models: Callable[[], tuple[Detached, Detached]],
    plan: Plan,
    kept: Kept,
    input_shapes: Mapping[str, Sequence[int]],
    seed: int,
    tolerance: float,
    threads: int | None,
) -> Proof:
    """One attempt, with one draw of inputs and weights."""
    try:
        before, after = models()
        notes: list[str] = []
        if is_low_precision(before.proto):
            before, after = float32_copy(before), float32_copy(after)
            notes.append("Proven in a float32 copy: the model has float16 or bfloat16 numbers.")
        quantized = is_quantized(before.proto)
        if quantized:
            stored = before, after
            before, after = dequantized_copy(before), dequantized_copy(after)
            notes.append("Proven in a copy without quantisation: rounding to steps hides small differences.")
        named = [[value.name for value in model.proto.graph.output] for model in (before, after)]
        if named[0] != named[1]:
            return _failed(f"The compact model has the graph outputs {named[1]} instead of {named[0]}.", [])
        tensors, removed = compared_tensors(before.proto, after.proto, kept)
        lost = sorted(set(removed) & set(named[0]))
        if lost:
            return _failed(f"The compact model no longer computes the graph output {lost[0]!r}.", removed)
        still = unreactive(before)
        sources = sources_of(before.proto)
        for model in (before, after):
            add_outputs(model.proto, [one.name for one in tensors])
        pair = _Pair(before, after, tensors, sources, threads)
        sizes = list(pair.sizes(input_shapes, seed))
        tallies = {one.name: Tally(one) for one in tensors}
        for number, shapes in enumerate(sizes):
            pair.compare(shapes, SCALES, seed, tallies, tolerance, first=number == 0, redrawn=False)
        del pair
        give_back_memory()
        redrawn = redraw(before, after, plan, np.random.default_rng([seed, 1]))
        if redrawn.unlike:
            names = ", ".join(redrawn.unlike)
            notes.append(f"Not redrawn, for the compact model holds other values: {names}.")
        pair = _Pair(before, after, tensors, sources, threads, optimize=False)
        for _ in range(_PASSES if is_sensitive(before.proto) else 0):
            levels = pair.levels(sizes[0], seed)
            if not needs_calibration(levels):
                break
            rescale(before, after, calibration(before.proto, levels, redrawn.scaled_by))
            pair = _Pair(before, after, tensors, sources, threads, optimize=False)
            if not overflows(levels):
                break
        for number, shapes in enumerate(sizes):
            pair.compare(shapes, REDRAWN_SCALES, seed, tallies, tolerance, first=number == 0, redrawn=True)
        del pair
        if quantized:
            outputs = [one for one in tensors if one.name in named[0]]
            fault, note = _compare_as_stored(_Pair(*stored, outputs, sources, threads), sizes[0], seed)
            notes.append(note)
            if fault:
                return _failed(fault, removed)
    except ModelError as error:
        if refusal := _refusal(models, given=input_shapes, seed=seed, threads=threads):
            return _unrunnable(refusal)
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


def _unrunnable(reason: str) -> Proof:
    """The masked model itself does not run: whatever was made of it, nothing can be shown."""
    return Proof(
        False, True, float("inf"), "", 0, f"The proof is void: the model as given cannot run. {reason}"
    )


def _refusal(
    models: Callable[[], tuple[Detached, Detached]],
    *,
    given: Mapping[str, Sequence[int]],
    seed: int,
    threads: int | None,
) -> str | None:
    """Why onnxruntime does not load the masked model itself, or run it at any size, if it does not."""
    try:
        masked = models()[0]
    except ModelError:  # one of the two is no model that can be written
        return None
    try:
        alone = _Pair(masked, masked, [], sources_of(masked.proto), threads)
        for shapes in alone.sizes(given, seed):
            run_session(alone.plain, alone._feed(shapes, np.random.default_rng(seed), 1.0))
    except ModelError as error:
        return str(error)
    return None


class _Pair:
    """Masked and compact model, ready to run with the compared tensors among their outputs."""

    def __init__(
        self,
        before: Detached,
        after: Detached,
        tensors: Sequence[Compared],
        sources: Mapping[str, Source],
        threads: int | None,
        *,
        optimize: bool = True,
    ) -> None:
        """`optimize`: run the compact model with onnxruntime's optimisations, as it will be used; the masked
        one never is."""
        self.tensors = tensors
        self.sources = sources
        self.threads = threads
        self.masked = before
        self._optimize = optimize
        self._nudged: dict[int, Any] = {}
        self.plain = make_session(before, threads=threads, optimize=False, arena=False)
        self.compact = make_session(after, threads=threads, optimize=optimize, arena=False)
        self.specs = input_specs(self.plain)
        give_back_memory()

    def nudged(self, number: int) -> Any:
        """The masked model with nudged weights, of which there are two: its own rounding is measured with
        them, the one without optimisations, the other as the compact model runs."""
        if number not in self._nudged:
            model = nudged_weights(self.masked, np.random.default_rng([number, 4]))
            optimize = self._optimize and number == 0
            self._nudged[number] = make_session(model, threads=self.threads, optimize=optimize, arena=False)
        return self._nudged[number]

    def sizes(self, given: Mapping[str, Sequence[int]], seed: int) -> Iterator[Shapes]:
        """One or two sets of input shapes that the masked model accepts."""
        if not has_dynamic_axes(self.specs):
            yield next(first_sizes(self.specs, given))  # there is no other; whether it runs will show
            return
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

    def levels(self, shapes: Shapes, seed: int) -> dict[str, float]:
        """Root mean square of every compared floating-point tensor of the masked model."""
        names = [one.name for one in self.tensors]
        results = run_session(self.plain, self._feed(shapes, np.random.default_rng(seed), 1.0), names)
        return {
            name: float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
            for name, array in results.items()
            if array.dtype.kind == "f" and array.size
        }

    def compare(
        self,
        shapes: Shapes,
        scales: Sequence[float],
        seed: int,
        tallies: Mapping[str, Tally],
        tolerance: float,
        *,
        first: bool,
        redrawn: bool,
    ) -> None:
        """Compare the models at one size, on one input of each scale at the first, and enter what is seen.

        What moves shows against another input: the one before, for the first the second. Of all outputs no
        more than two sets are in memory, unless rounding has to be measured.
        """
        rng = np.random.default_rng([seed, 2])
        inputs = [self._feed(shapes, rng, scale) for scale in (scales if first else scales[:2])]
        reference = self._reference(inputs[0])
        met = self._meet(reference, inputs[0], tolerance)
        for number, feeds in enumerate(inputs[1:], 1):
            following = self._reference(feeds)
            moves = {name: moves_between(following[name], array) for name, array in reference.items()}
            if number == 1:
                self._judge(met, moves, inputs[0], rng, tallies, redrawn=redrawn)
            del met
            if not first:
                return
            reference = following
            met = self._meet(reference, feeds, tolerance)
            self._judge(met, moves, feeds, rng, tallies, redrawn=redrawn)

    def _reference(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """What the compact model has to give."""
        found = run_session(self.plain, feeds, [one.name for one in self.tensors])
        return {one.name: one.kept(found.pop(one.name)) for one in self.tensors}

    def _meet(
        self, reference: Mapping[str, Array], feeds: Mapping[str, Array], tolerance: float
    ) -> list[Meeting]:
        got = run_session(self.compact, feeds, [one.name for one in self.tensors])
        return [Meeting(Reading(reference[one.name], tolerance), got.pop(one.name)) for one in self.tensors]

    def _judge(
        self,
        met: Sequence[Meeting],
        moves: Mapping[str, list[Floats] | None],
        feeds: Mapping[str, Array],
        rng: np.random.Generator,
        tallies: Mapping[str, Tally],
        *,
        redrawn: bool,
    ) -> None:
        nudge = rng.spawn(1)[0]
        names = [one.name for one in self.tensors]
        samples: list[Mapping[str, Array]] = []
        for one, meeting in zip(self.tensors, met, strict=True):
            meeting.reading.moves = moves[one.name]
            own: list[Array] = []
            while not meeting.agrees(own) and len(own) < _SAMPLES:
                if len(own) == len(samples):
                    samples.append(
                        run_session(self.nudged(len(samples) % 2), nudged_inputs(feeds, nudge), names)
                    )
                own.append(one.kept(samples[len(own)][one.name]))
            enter(tallies[one.name], meeting, own, redrawn)


def _compare_as_stored(pair: _Pair, shapes: Shapes, seed: int) -> tuple[str, str]:
    """Graph outputs of the quantised models themselves: (what is wrong, if anything; a note)."""
    rng = np.random.default_rng([seed, 3])
    names = [one.name for one in pair.tensors]
    worst, allowed, where = 0.0, 0.0, ""
    for _ in SCALES[:2]:
        feeds = feed(pair.specs, shapes, rng, 1.0, pair.sources)
        want, got = run_session(pair.plain, feeds, names), run_session(pair.compact, feeds, names)
        own = [
            run_session(session, nudged_inputs(feeds, rng, STEP_NUDGE), names)
            for session in (pair.nudged(0), pair.nudged(1))
        ]
        for one in pair.tensors:
            reference = np.asarray(want[one.name], dtype=np.float64)
            if got[one.name].shape != reference.shape:
                return f"Quantised, {one.name!r} has shape {list(got[one.name].shape)}.", ""
            largest = float(np.abs(reference).max(initial=0.0)) or 1.0
            noise = max(largest_gap(other[one.name], reference) for other in own)
            difference = largest_gap(got[one.name], reference) / largest
            if difference >= worst:
                worst, allowed, where = difference, _STEPS + NOISE_FACTOR * noise / largest, one.name
    note = (
        f"Quantised as stored, graph outputs differ by {worst:.1e} of their largest value "
        f"(rounding to steps explains {allowed:.1e})."
    )
    return (f"{note} The worst is {where!r}." if not worst <= allowed else ""), note


def _verdict(
    tallies: Mapping[str, Tally],
    still: set[str],
    removed: Sequence[str],
    sizes: Sequence[Shapes],
    tolerance: float,
    notes: Sequence[str],
) -> Proof:
    details = tuple(detail_of(tally, still) for tally in tallies.values())
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
