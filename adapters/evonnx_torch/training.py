"""The retraining loop: steps, checks, rollback, and what is done after the last step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from evonnx.adapter import EpochRecord, Progress
from evonnx.errors import AdapterError
from evonnx.faults import Fault
from evonnx.masks import Mask
from evonnx.task import Batch, Task
from evonnx_torch.checkpoint import Checkpoint
from evonnx_torch.feeding import chunks
from evonnx_torch.module import OnnxModule
from evonnx_torch.objective import Objective
from evonnx_torch.optim import Average, Optimizer, restore, snapshot
from evonnx_torch.renormalize import Renormalization
from evonnx_torch.runtime import random_state, set_random_state
from evonnx_torch.stepping import CapturedStepper, Piece, Recorder, Stepper
from evonnx_training.augmentation import read_augmentation
from evonnx_training.checkpoint import BEFORE, Place, Within, before
from evonnx_training.remedies import (
    ATTEMPTS,
    FROZEN_NORMS,
    LOSS_FLOOR,
    PROBE_BATCHES,
    SMALLEST_NORM_BATCH,
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
    """One retraining of one module; see `run`.

    Args:
        module: the student.
        objective: its loss.
        task: the data.
        settings: how.
        masks: by tensor name; True lives.
        renormalization: normalisations put in for the time of training, if any.
        first: the first batch of the training split in its own order.
        chunk: largest number of examples per forward pass; None: the whole batch.
        seed: of data order and augmentation.
        progress: told about the loss now and then.
        autocast: makes the context that forward passes run in (mixed precision).
        checkpoint: where progress is kept after each epoch, and within long ones.
        recorder: captures steps; None: they are launched operation by operation.
    """

    def __init__(
        self,
        module: OnnxModule,
        objective: Objective,
        task: Task,
        settings: Settings,
        masks: Mapping[str, Mask],
        renormalization: Renormalization | None,
        first: Batch,
        chunk: int | None,
        seed: int,
        progress: Callable[[Progress], None],
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        checkpoint: Checkpoint | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.checkpoint, self.recorder = checkpoint or Checkpoint(), recorder
        self.module, self.objective, self.task, self.settings = module, objective, task, settings
        self.masks, self.renormalization, self.chunk, self.seed = masks, renormalization, chunk, seed
        self.progress, self.autocast = progress, autocast
        self.history: list[EpochRecord] = []
        self.notes: list[str] = []
        self.faults: list[Fault] = []
        # A task may give smaller batches than it is asked for.
        self._first = first
        self._augmentation = read_augmentation(settings.augment)
        self._steps = max(1, -(-task.size("train") // max(1, self._first.size)))
        self._pass = min(chunk or self._first.size, self._first.size)
        module.norm.frozen = self._pass < SMALLEST_NORM_BATCH
        if module.norm.frozen and (module.statistics or renormalization):
            self.notes.append(FROZEN_NORMS)

    def run(self) -> None:
        """Train; afterwards the module holds the result, folded, masked and no worse than it came.

        Raises:
            AdapterError: the loss is not finite before the first step, or diverges at every rate tried.
        """
        before = self._probe()
        check_start(before)
        original = snapshot(self._state())
        for attempt, factor in enumerate(ATTEMPTS):
            if attempt < self.checkpoint.attempt():
                continue  # a killed process was past it, and its notes say so
            after = self._attempt(attempt, factor, max(before, LOSS_FLOOR))
            if is_no_worse(before, after):
                break
            restore(self._state(), original)
            rate = self.settings.learning_rate * factor
            self.faults.append(no_help(attempt, rate, before, after))
        if self.renormalization is not None:
            self.renormalization.fold()

    def optimizer(self) -> Optimizer:
        """A new one for what the loss reaches; settles for float32 where autocast can't run the graph."""
        trained, decayed = self._trained()
        return Optimizer(
            list(trained.values()),
            [self._mask(name) for name in trained],
            [name in decayed for name in trained],
            self.settings.weight_decay,
            self.settings.optimizer,
            self.settings.clip_norm,
        )

    def step(self, batch: Batch, rng: np.random.Generator, stepper: Stepper, rate: float) -> Tensor:
        """One step in the module's present mode on a batch of the task's, augmented; its mean loss."""
        return stepper(self._pieces(batch, rng), rate)

    def _attempt(self, attempt: int, factor: float, reference: float) -> float:
        """Train at `factor` times the learning rate; the loss afterwards, infinite if weights are not
        finite."""
        self.history.clear()
        optimizer = self.optimizer()
        average = Average(optimizer.parameters, self.settings.ema_decay) if self.settings.ema_decay else None
        stepper = self.stepper(optimizer, average)
        self._epochs(attempt, stepper, factor, reference)
        if (note := stepper.note()) and note not in self.notes:
            self.notes.append(note)
        if average is not None:
            average.store()
        optimizer.apply_masks()
        self._reestimate()
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in self._state().values())
        after = self._probe() if finite else math.inf
        return after if math.isfinite(after) else math.inf

    def stepper(self, optimizer: Optimizer, average: Average | None = None) -> Stepper:
        """What takes steps: captured ones where there is a recorder."""
        if self.recorder is None:
            return Stepper(self._gradients, optimizer, average)
        return CapturedStepper(
            self._gradients,
            optimizer,
            average,
            self.recorder,
            self._state(),
            self.module.steering,
            self.module.device,
        )

    def _epochs(self, attempt: int, stepper: Stepper, factor: float, reference: float) -> None:
        settings, optimizer, average = self.settings, stepper.optimizer, stepper.average
        schedule = Schedule(
            settings.schedule, settings.learning_rate, self._steps * settings.epochs, settings.warmup
        )
        retries, epoch, within = 0, 1, Within()
        good = snapshot(self._undoable(average))
        if found := self._resumed(attempt, optimizer, average):
            place, good = found
            retries, epoch, factor = place.retries, place.epoch + 1, place.factor
            within = place.within or within

        def save(done: int, within: Within | None = None) -> None:
            updates = optimizer.count, average.count if average else 0
            notes = tuple(self.history), tuple(self.notes), tuple(self.faults)
            tensors = self._progress_tensors(optimizer, average)
            self.checkpoint.save(
                Place(attempt, done, retries, factor, updates, *notes, within),
                tensors if within is None else tensors | before(good),
            )

        while epoch <= settings.epochs:
            keep = partial(save, epoch - 1)
            try:
                loss = self._epoch(epoch, stepper, schedule, factor, reference, within, keep)
            except Diverged as reason:
                retries += 1
                factor, fault = gentler(retries, settings.learning_rate, factor, epoch, reason)
                self.faults.append(fault)
                restore(self._undoable(average), good)
                optimizer.restart()
                within = Within()
                continue
            rate = schedule.rate(epoch * self._steps - 1) * factor
            self.history.append(EpochRecord(epoch, loss, rate))
            save(epoch)
            epoch, within, good = epoch + 1, Within(), snapshot(self._undoable(average))

    def _resumed(
        self, attempt: int, optimizer: Optimizer, average: Average | None
    ) -> tuple[Place, dict[str, Tensor]] | None:
        """Go on from what an earlier process kept of this attempt; with what a rollback puts back."""
        tensors = self._progress_tensors(optimizer, average)
        found = self.checkpoint.load(tensors)
        if found is None or found[0].attempt != attempt:
            return None
        place, kept = found
        restore(tensors, kept)
        set_random_state(kept)
        optimizer.count = place.updates[0]
        if average is not None:
            average.count = place.updates[1]
        self.history, self.notes = list(place.history), list(place.notes)
        self.faults = list(place.faults)
        good = snapshot(self._undoable(average))
        if place.within is not None:
            good = {name: kept[f"{BEFORE}{name}"].clone() for name in good}
        return place, good

    def _undoable(self, average: Average | None) -> dict[str, Tensor]:
        """What a rollback puts back."""
        return {
            **{f"state/{name}": tensor for name, tensor in self._state().items()},
            **{f"average/{index}": tensor for index, tensor in (average.named() if average else {}).items()},
        }

    def _progress_tensors(self, optimizer: Optimizer, average: Average | None) -> dict[str, Tensor]:
        """All tensors that the next step depends on."""
        return {
            **self._undoable(average),
            **{f"momenta/{name}": tensor for name, tensor in optimizer.momenta().items()},
            **random_state(self.module.device),
        }

    def _epoch(
        self,
        epoch: int,
        stepper: Stepper,
        schedule: Schedule,
        factor: float,
        reference: float,
        begun: Within,
        save: Callable[[Within], None],
    ) -> float:
        """One pass over the training split, from where it was left; the mean loss."""
        self.module.train()
        rng = np.random.default_rng([self.seed, epoch])
        # Reading the loss waits for the GPU; on the CPU it costs nothing.
        every = 1 if self.module.device.type == "cpu" else 16
        news = max(1, self._steps // 50)
        watch, pending = Watch(reference, begun), list[Tensor]()
        for step, batch in enumerate(self.task.batches("train", self.settings.batch_size, rng)):
            if step < begun.steps:
                self._augmentation(batch, rng)  # draws what it drew then
                if step % news == 0:  # silence would be taken for hanging
                    self.progress(Progress(epoch, self.settings.epochs, step + 1, self._steps, begun.last))
                continue
            rate = schedule.rate((epoch - 1) * self._steps + step) * factor
            pending.append(self.step(batch, rng, stepper, rate))
            if len(pending) >= every:
                watch.look(_read(pending))
                if step % news < every:
                    self.progress(Progress(epoch, self.settings.epochs, step + 1, self._steps, watch.last))
                if self.checkpoint.is_due():
                    save(watch.within)
        watch.look(_read(pending))
        if not all(bool(torch.isfinite(p).all()) for p in stepper.optimizer.parameters):
            raise Diverged("weights are not finite")
        self.progress(Progress(epoch, self.settings.epochs, self._steps, self._steps, watch.mean))
        return watch.mean

    def _pieces(self, given: Batch, rng: np.random.Generator | None = None) -> list[Piece]:
        """A batch, augmented if `rng` is given, in its chunks, with what the teacher says of them."""
        batch, views = (given, None) if rng is None else self._augmentation(given, rng)
        pieces = []
        for part in chunks(self.module, batch, self.chunk, given, views):
            self.objective.check(part)
            with self.autocast():
                pieces.append(Piece(part, self.objective.taught(part)))
        return pieces

    def _gradients(self, pieces: Sequence[Piece]) -> Tensor:
        """Gradients of a batch, summed over its chunks; the mean loss, detached."""
        loss_sum: Tensor | None = None
        size = sum(piece.chunk.size for piece in pieces)
        for piece in pieces:
            with self.autocast():
                loss = self.objective.loss(piece.chunk, piece.taught) * (piece.chunk.size / size)
            if not loss.requires_grad:
                raise AdapterError(
                    "The loss depends on no trainable weight of the model: weights in control-flow branches "
                    "stay as they are, and no other weight lies between the inputs and the outputs that the "
                    "loss reads."
                )
            loss.backward()  # type: ignore[no-untyped-call]
            detached = loss.detach()
            loss_sum = detached if loss_sum is None else loss_sum + detached
        if loss_sum is None:
            raise AdapterError("The task gave an empty batch; check its data.")
        return loss_sum

    def _trained(self) -> tuple[dict[str, Tensor], frozenset[str]]:
        """Parameters that the loss reaches, by name, and which of them decay."""
        candidates: dict[str, Tensor] = dict(self.module.weights)
        if self.renormalization is not None:
            # A shift stands in for the bias whose name it has.
            candidates.update(self.renormalization.parameters)
        self.module.train()
        state = snapshot(self._state())
        with torch.random.fork_rng(devices=[]):
            try:
                self._gradients(self._pieces(self._first))
            except (AdapterError, RuntimeError) as error:
                if self.autocast is nullcontext:
                    raise
                self._leave_mixed_precision(error)
                self._gradients(self._pieces(self._first))
        restore(self._state(), state)
        trained = {name: tensor for name, tensor in candidates.items() if tensor.grad is not None}
        for tensor in (*candidates.values(), *self.module.weights.values()):
            tensor.grad = None
        if not trained:
            raise AdapterError(
                "The loss depends on no trainable weight of the model; check the task's output name."
            )
        return trained, self.module.roles.decayed

    def _leave_mixed_precision(self, error: Exception) -> None:
        """Some operators take no mix of types."""
        self.autocast = nullcontext
        self.module.forget_programs()
        for tensor in self._state().values():
            tensor.grad = None
        self.notes.append(
            f"mixed precision does not work for this model ({str(error).splitlines()[0]}); float32 is used"
        )

    def _mask(self, name: str) -> Tensor | None:
        mask = self.masks.get(name)
        if mask is None or mask.all():
            return None
        # Laid out like the weight that it is multiplied with.
        return self.module.laid_out(
            torch.from_numpy(np.asarray(mask, dtype=np.float32)).to(self.module.device)
        )

    def _state(self) -> dict[str, Tensor]:
        """Everything that training changes."""
        state: dict[str, Tensor] = {**self.module.weights, **self.module.statistics}
        if self.renormalization is not None and self.module.renorms:
            state.update({f"renormalization/{n}": p for n, p in self.renormalization.parameters.items()})
            state.update(self.renormalization.statistics)
        return state

    def _batches(self, count: int, shuffled: bool) -> Iterator[Batch]:
        rng = np.random.default_rng([self.seed, 0]) if shuffled else None
        for number, batch in enumerate(self.task.batches("train", self.settings.batch_size, rng)):
            if number >= count:
                return
            yield batch

    @torch.no_grad()
    def _probe(self) -> float:
        """Mean loss in evaluation mode over the first batches, of such views as training draws: it is what
        training lowers."""
        self.module.eval()
        rng = np.random.default_rng([self.seed, 0])
        losses = []
        for given in self._batches(max(1, min(PROBE_BATCHES, self._steps // 4)), shuffled=False):
            batch, views = self._augmentation(given, rng)
            for part in chunks(self.module, batch, self.chunk, given, views):
                losses.append(float(self.objective(part)))
        return float(np.mean(losses)) if losses else math.nan

    @torch.no_grad()
    def _reestimate(self) -> None:
        """Norm statistics of the final weights: the plain mean over some shuffled batches."""
        norm = self.module.norm
        if norm.frozen or not (self.module.statistics or self.module.renorms):
            return
        self.module.train()
        norm.cumulative = 0
        for batch in self._batches(STATISTICS_BATCHES, shuffled=True):
            for part in chunks(self.module, batch, self.chunk):
                if 2 * part.size >= self._pass:
                    # In float32, which is what ships.
                    self.module(part.inputs, self.objective.taps)
                    norm.cumulative += 1
        norm.cumulative = None


def _read(pending: list[Tensor]) -> list[float]:
    """Losses that were not waited for, which then are no longer pending."""
    values: list[float] = torch.stack(pending).tolist() if pending else []
    pending.clear()
    return values
