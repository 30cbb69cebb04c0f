"""The retraining loop: steps, checks, rollback, and what is done after the last step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from evonnx.adapter import EpochRecord, Progress
from evonnx.errors import AdapterError
from evonnx.faults import Fault
from evonnx.task import Batch, Task
from evonnx_jax.checkpoint import Checkpoint, filled, named
from evonnx_jax.module import Variables
from evonnx_jax.objective import Piece, piece_of
from evonnx_jax.stepping import State, Stepper, Teacher
from evonnx_training.augmentation import read_augmentation
from evonnx_training.checkpoint import Place, Within
from evonnx_training.remedies import (
    ATTEMPTS,
    LOSS_FLOOR,
    PROBE_BATCHES,
    STATISTICS_BATCHES,
    check_start,
    gentler,
    is_no_worse,
    no_help,
)
from evonnx_training.schedule import Schedule
from evonnx_training.settings import Settings
from evonnx_training.watching import Diverged, Watch


class Trainer:
    """One retraining of one network; see `run`.

    Batches smaller than the first are left out: a step of another size would be compiled on its own, and the
    order of the data decides anew each epoch whom that meets.

    Args:
        stepper: takes the steps.
        teacher: the ancestor, where something is learnt from it.
        task: the data.
        settings: how.
        batch: the size of the task's batches.
        seed: of data order and augmentation.
        progress: told about the loss now and then.
        checkpoint: where progress is kept after each epoch.
    """

    def __init__(
        self,
        stepper: Stepper,
        teacher: Teacher | None,
        task: Task,
        settings: Settings,
        batch: int,
        seed: int,
        progress: Callable[[Progress], None],
        checkpoint: Checkpoint,
    ) -> None:
        self.stepper, self.teacher, self.task, self.settings = stepper, teacher, task, settings
        self.seed, self.progress, self.checkpoint = seed, progress, checkpoint
        self.history: list[EpochRecord] = []
        self.notes: list[str] = []
        self.faults: list[Fault] = []
        self._batch = batch
        self._steps = max(1, task.size("train") // batch)
        self._augmentation = read_augmentation(settings.augment)

    def run(self, original: Variables) -> Variables:
        """Train; what comes back is no worse than what was given.

        Raises:
            AdapterError: the loss is not finite before the first step, or diverges at every rate tried.
        """
        before = self._probe(original)
        check_start(before)
        for attempt, factor in enumerate(ATTEMPTS):
            if attempt < self.checkpoint.attempt():
                continue  # a killed process was past it, and its faults say so
            found = self._attempt(original, attempt, factor, max(before, LOSS_FLOOR))
            after = self._probe(found) if _is_finite(found) else math.inf
            if is_no_worse(before, after):
                return found
            rate = self.settings.learning_rate * factor
            self.faults.append(no_help(attempt, rate, before, after))
        return original

    def _attempt(self, original: Variables, attempt: int, factor: float, reference: float) -> Variables:
        """Train at `factor` times the learning rate."""
        self.history.clear()
        state = self._epochs(self.stepper.begin(original), attempt, factor, reference)
        weights = {**state.variables.weights, **state.average}
        return self._reestimated(Variables(weights, state.variables.statistics))

    def _epochs(self, state: State, attempt: int, factor: float, reference: float) -> State:
        settings = self.settings
        schedule = Schedule(
            settings.schedule, settings.learning_rate, self._steps * settings.epochs, settings.warmup
        )
        retries, epoch, updates = 0, 1, 0
        found = self.checkpoint.load(named(state))
        if found is not None and found[0].attempt == attempt:
            place, kept = found
            state = filled(state, kept)
            retries, epoch, factor, updates = place.retries, place.epoch + 1, place.factor, place.updates[0]
            self.history, self.notes = list(place.history), list(place.notes)
            self.faults = list(place.faults)
        while epoch <= settings.epochs:
            try:
                state, updates, loss = self._epoch(state, epoch, updates, schedule, factor, reference)
            except Diverged as reason:
                retries += 1
                factor, fault = gentler(retries, settings.learning_rate, factor, epoch, reason)
                self.faults.append(fault)
                # The state is still that before the epoch; what the optimizer remembers led astray.
                state = state._replace(memory=self.stepper.begin(state.variables).memory)
                continue
            rate = schedule.rate(epoch * self._steps - 1) * factor
            self.history.append(EpochRecord(epoch, loss, rate))
            notes = tuple(self.history), tuple(self.notes), tuple(self.faults)
            self.checkpoint.save(
                Place(attempt, epoch, retries, factor, (updates, updates), *notes), named(state)
            )
            epoch += 1
        return state

    def _epoch(
        self, state: State, epoch: int, updates: int, schedule: Schedule, factor: float, reference: float
    ) -> tuple[State, int, float]:
        """One pass over the training split: the state, the number of updates so far, and the mean loss."""
        rng = np.random.default_rng([self.seed, epoch])
        news, epochs = max(1, self._steps // 50), self.settings.epochs
        watch = Watch(reference, Within())
        for step, batch in enumerate(self._batches(rng)):
            rate = schedule.rate((epoch - 1) * self._steps + step) * factor
            updates += 1
            # Young averages follow faster.
            share = 1 - min(self.settings.ema_decay, (1 + updates) / (10 + updates))
            piece = self._piece(self._augmentation(batch, rng)[0])
            state, loss = self.stepper.step(state, piece, rate, share, updates)
            watch.look([float(loss)])
            if step % news == 0:
                self.progress(Progress(epoch, epochs, min(step + 1, self._steps), self._steps, watch.last))
        if not watch.count:
            raise AdapterError("The task gave no full batch; set a smaller batch_size.")
        if not _is_finite(state.variables):
            raise Diverged("weights are not finite")
        self.progress(Progress(epoch, epochs, self._steps, self._steps, watch.mean))
        return state, updates, watch.mean

    def _batches(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        """Full batches of the training split, in its own order or shuffled."""
        for batch in self.task.batches("train", self.settings.batch_size, rng):
            if batch.size >= self._batch:
                yield batch

    def _piece(self, batch: Batch) -> Piece:
        piece = piece_of(self.stepper.function, batch)
        self.stepper.objective.check(piece)
        return piece if self.teacher is None else self.teacher(piece)

    def _probe(self, variables: Variables) -> float:
        """Mean loss in evaluation mode over the first batches, of such views as training draws."""
        rng = np.random.default_rng([self.seed, 0])
        losses = []
        for number, batch in enumerate(self._batches(None)):
            if number >= max(1, min(PROBE_BATCHES, self._steps // 4)):
                break
            losses.append(self.stepper.loss(variables, self._piece(self._augmentation(batch, rng)[0])))
        return float(np.mean(losses)) if losses else math.nan

    def _reestimated(self, variables: Variables) -> Variables:
        """With norm statistics of these weights: the plain mean over some shuffled batches."""
        if self.stepper.frozen or not variables.statistics:
            return variables
        for number, batch in enumerate(self._batches(np.random.default_rng([self.seed, 0]))):
            if number >= STATISTICS_BATCHES:
                break
            piece = piece_of(self.stepper.function, batch)
            variables = self.stepper.statistics(variables, piece, 1 / (number + 1), number)
        return variables


def _is_finite(variables: Variables) -> bool:
    arrays = (*variables.weights.values(), *variables.statistics.values())
    return all(bool(np.isfinite(np.asarray(array)).all()) for array in arrays)
