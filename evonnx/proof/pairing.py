"""Masked and compact model side by side, run on the same inputs and compared.

Small models stay loaded. Of a large one, whose weights lie in files (`Detached.spool`), no pages are kept
from run to run, and where rounding is measured only one session has copies of weights. Of a very large one
none has while another model is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evonnx.errors import ModelError
from evonnx.network import Array
from evonnx.onnx_io import Detached
from evonnx.proof.copies import Compared
from evonnx.proof.inputs import Shapes, Source, feed, first_sizes, has_dynamic_axes, second_sizes
from evonnx.proof.judging import Meeting, Reading, Tally, enter, moves_between
from evonnx.proof.levels import Floats
from evonnx.proof.rounding import nudged_inputs, nudged_weights
from evonnx.sessions import give_back_memory, input_specs, make_session, run_session

_ALONE_FROM_BYTES = 1 << 30
"""Weights of a model that runs while no session has copies of weights but its own."""
SAMPLES = 5
"""How often rounding is measured before a difference counts as one."""


class _Runner:
    """A model that is loaded when it is first run."""

    def __init__(self, model: Detached, threads: int | None, optimize: bool) -> None:
        self._model = model
        self._threads = threads
        self._optimize = optimize
        self._session: Any = None

    def open(self) -> None:
        """Load it now."""
        if self._session is None:
            self._session = make_session(
                self._model, threads=self._threads, optimize=self._optimize, arena=False
            )
            self._forget()

    @property
    def session(self) -> Any:
        self.open()
        return self._session

    def close(self) -> None:
        """Let go of the session and its memory."""
        if self._session is not None:
            self._session = None
            give_back_memory()

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None) -> dict[str, Array]:
        results = run_session(self.session, feeds, names)
        self._forget()
        return results

    def _forget(self) -> None:
        if self._model.spool is not None:
            self._model.forget()


class Pair:
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
        self._threads = threads
        self._optimize = optimize
        self._masked = before
        self._single = before.spool is not None
        """Whether of sessions that copy weights, and of nudged models, there may be one at a time."""
        self._alone = optimize and self._single and before.nbytes > _ALONE_FROM_BYTES
        """Whether an optimised session, which copies weights, has to go before any other model is run."""
        self._nudged: dict[int, _Runner] = {}
        self._compact = _Runner(after, threads, optimize)
        self._plain = _Runner(before, threads, False)
        self.specs = input_specs(self._plain.session)
        if not self._alone:
            self._compact.open()
        give_back_memory()

    def plain(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Outputs of the masked model, which is run without optimisations; all, if none are named.

        Raises:
            ModelError: it does not run.
        """
        if self._alone:
            self._compact.close()
        return self._plain.run(feeds, names)

    def compact(self, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """Outputs of the compact model.

        Raises:
            ModelError: it does not run.
        """
        if self._single:
            self._nudged.clear()
        return self._compact.run(feeds, names)

    def nudged(self, number: int, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """Outputs of the masked model with nudged weights, of which there are two, 0 and 1: its own rounding
        is measured with them, the one without optimisations, the other as the compact model runs.

        Raises:
            ModelError: it does not run.
        """
        if number not in self._nudged:
            if self._single:
                self._nudged.clear()
                if self._optimize:
                    self._compact.close()
            model = nudged_weights(self._masked, np.random.default_rng([number, 4]))
            self._nudged[number] = _Runner(model, self._threads, self._optimize and number == 0)
        return self._nudged[number].run(feeds, names)

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
        probe = [output.name for output in self._plain.session.get_outputs()[:1]]
        for shapes in candidates:
            try:
                self.plain(self.feed(shapes, np.random.default_rng(seed), 1.0), probe)
            except ModelError as caught:
                error = caught
            else:
                return shapes
        raise error

    def feed(self, shapes: Shapes, rng: np.random.Generator, scale: float) -> dict[str, Array]:
        """Random inputs of these shapes."""
        return feed(self.specs, shapes, rng, scale, self.sources)

    def levels(self, shapes: Shapes, seed: int) -> dict[str, float]:
        """Root mean square of every compared floating-point tensor of the masked model."""
        names = [one.name for one in self.tensors]
        results = self.plain(self.feed(shapes, np.random.default_rng(seed), 1.0), names)
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
        inputs = [self.feed(shapes, rng, scale) for scale in (scales if first else scales[:2])]
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
        found = self.plain(feeds, [one.name for one in self.tensors])
        return {one.name: one.kept(found.pop(one.name)) for one in self.tensors}

    def _meet(
        self, reference: Mapping[str, Array], feeds: Mapping[str, Array], tolerance: float
    ) -> list[Meeting]:
        got = self.compact(feeds, [one.name for one in self.tensors])
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
            while not meeting.agrees(own) and len(own) < SAMPLES:
                if len(own) == len(samples):
                    samples.append(self.nudged(len(samples) % 2, nudged_inputs(feeds, nudge), names))
                own.append(one.kept(samples[len(own)][one.name]))
            enter(tallies[one.name], meeting, own, redrawn)
