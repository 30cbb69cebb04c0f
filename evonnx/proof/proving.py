"""The proof that removal changed nothing: masked and compact model run on the same inputs in onnxruntime.

Compared are all outputs of Conv, ConvTranspose, Gemm, MatMul and norms (the channels that were kept) and all
graph outputs, each on its own scale (`judging`). Compared twice: with the weights as they are, and with live
weights redrawn in both models alike (`copies`, `calibration`), where faults can't hide. A tensor that reacts
to its inputs in neither shows nothing, and makes the proof void. Finite inputs are all that is assumed.
Models of low precision and quantised ones are proven in copies without their rounding; of quantised ones the
graph outputs are compared as they are too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from evonnx.compaction import Compacted, Plan
from evonnx.errors import ModelError, ProofError
from evonnx.onnx_io import Detached, detach
from evonnx.proof.calibration import calibration, is_sensitive, needs_calibration, overflows
from evonnx.proof.copies import Kept, add_outputs, compared_tensors, redraw, rescale, unreactive
from evonnx.proof.dequantizing import dequantized_copy, is_quantized
from evonnx.proof.inputs import Shapes, sources_of
from evonnx.proof.judging import NOISE_FACTOR, Tally, TensorProof, detail_of, largest_gap
from evonnx.proof.pairing import Pair
from evonnx.proof.precision import float32_copy, is_low_precision
from evonnx.proof.rounding import STEP_NUDGE, nudged_inputs
from evonnx.sessions import give_back_memory

SCALES = (1.0, 0.1, 30.0)
"""Standard deviations of the random inputs; a second size is compared on the first. Each result is held
against the one before to see what reacts to inputs."""
REDRAWN_SCALES = (1.0, 3.0)
"""The same for redrawn weights, which pass signals on as they come."""
_PASSES = 4
"""Calibrations at most, where signals overflow."""
_DRAWS = 3
"""Attempts before a proof is void: redrawn weights may close a gate of one or two channels by chance."""
_SEED_STEP = 1_000_003
_STEPS = 4 / 255
"""How far the outputs of quantised models may be apart, besides their noise: some steps of 8 bits."""
_SPOOL_FROM_BYTES = 1 << 25
"""Models with more weights than this lie in files, and so do their copies."""


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
    scratch: Path | None = None,
) -> Proof:
    """Compare a masked model with what compaction made of it. A bad result is no error: see `require`.

    Args:
        masked: the model with zeros.
        compacted: the model without, with its plan.
        input_shapes: shapes to start with where axes are dynamic, by input name.
        seed: of inputs and redrawn weights; a void attempt is followed by others with seeds of their own.
        tolerance: largest difference allowed, as a share of a tensor's largest value.
        threads: onnxruntime's; None: all cores of this process.
        scratch: where temporary files go, which models of more than 32 MiB need (less than twice the
            model, or three times where rounding has to be measured); None: where the system has them.

    Raises:
        OSError: there is no room for temporary files.
    """
    return prove_pair(
        lambda: (detach(masked), detach(compacted.model)),
        compacted.plan,
        compacted.kept,
        input_shapes=input_shapes,
        seed=seed,
        tolerance=tolerance,
        threads=threads,
        scratch=scratch,
        shared=True,
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
    scratch: Path | None = None,
    shared: bool = False,
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
        scratch: "
        shared: whether somebody else keeps what is given in memory, so that it need not lie in files.

    Raises:
        OSError: see `prove`.
    """
    given = dict(input_shapes or {})

    def spooled() -> tuple[Detached, Detached]:
        before, after = models()
        if before.nbytes <= _SPOOL_FROM_BYTES:
            return before, after
        folder = scratch or Path(tempfile.gettempdir())
        return before.spooled(folder, move=not shared), after.spooled(folder, move=not shared)

    for draw in range(_DRAWS):
        proof = _prove(spooled, plan, kept, given, seed + draw * _SEED_STEP, tolerance, threads)
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
        pair = Pair(before, after, tensors, sources, threads)
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
        pair = Pair(before, after, tensors, sources, threads, optimize=False)
        for _ in range(_PASSES if is_sensitive(before.proto) else 0):
            levels = pair.levels(sizes[0], seed)
            if not needs_calibration(levels):
                break
            rescale(before, after, calibration(before.proto, levels, redrawn.scaled_by))
            pair = Pair(before, after, tensors, sources, threads, optimize=False)
            if not overflows(levels):
                break
        for number, shapes in enumerate(sizes):
            pair.compare(shapes, REDRAWN_SCALES, seed, tallies, tolerance, first=number == 0, redrawn=True)
        del pair
        if quantized:
            outputs = [one for one in tensors if one.name in named[0]]
            fault, note = _compare_as_stored(Pair(*stored, outputs, sources, threads), sizes[0], seed)
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
        alone = Pair(masked, masked, [], sources_of(masked.proto), threads)
        for shapes in alone.sizes(given, seed):
            alone.plain(alone.feed(shapes, np.random.default_rng(seed), 1.0))
    except ModelError as error:
        return str(error)
    return None


def _compare_as_stored(pair: Pair, shapes: Shapes, seed: int) -> tuple[str, str]:
    """Graph outputs of the quantised models themselves: (what is wrong, if anything; a note)."""
    rng = np.random.default_rng([seed, 3])
    names = [one.name for one in pair.tensors]
    worst, allowed, where = 0.0, 0.0, ""
    for _ in SCALES[:2]:
        feeds = pair.feed(shapes, rng, 1.0)
        want, got = pair.plain(feeds, names), pair.compact(feeds, names)
        own = [pair.nudged(number, nudged_inputs(feeds, rng, STEP_NUDGE), names) for number in (0, 1)]
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
