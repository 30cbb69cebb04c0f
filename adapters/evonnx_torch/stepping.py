"""One training step: gradients, update, average; launched operation by operation, or captured as a CUDA graph
and replayed.

A small network's step is bound by the time that launching its hundreds of kernels takes; a graph is launched
as one. PyTorch's rules for capturing (its notes on CUDA graphs) shape this module: a graph reads and writes
the tensors it was captured with, so data is copied into buffers that stay, and what changes from step to
step (learning rate, bias corrections) is a tensor; nothing in a captured step may wait for the device, so
labels are checked and the teacher asked before; the step is run a few times on the stream that captures, and
undone; memory that a step takes, gradients too, is the graph's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evonnx_torch.feeding import Chunk
from evonnx_torch.optim import Average, Optimizer, restore, snapshot
from evonnx_torch.runtime import random_state, set_random_state, to_device
from evonnx_torch.teacher import Outputs

_WARM_UPS = 3
"""Runs before a capture: libraries make their handles and choose their algorithms."""

Work = Callable[[], None]
Recorder = Callable[[Work], Work]
"""Captures work, after running it a few times, and gives what replays it. Raises `RuntimeError` where it
can't be captured."""


@dataclass(frozen=True)
class Piece:
    """What one forward pass of a step takes."""

    chunk: Chunk
    taught: Outputs | None
    """What the teacher says of it."""


Gradients = Callable[[Sequence[Piece]], Tensor]
"""Leaves gradients in the parameters, and gives the mean loss, detached."""


class Stepper:
    """Launches a step operation by operation.

    Args:
        gradients: of a step's pieces.
        optimizer: updates from them.
        average: follows the parameters, if any.
    """

    def __init__(self, gradients: Gradients, optimizer: Optimizer, average: Average | None) -> None:
        self.gradients, self.optimizer, self.average = gradients, optimizer, average

    def __call__(self, pieces: Sequence[Piece], rate: float) -> Tensor:
        """One step at a learning rate; the mean loss before it."""
        loss = self.gradients(pieces)
        self.optimizer.step(rate)
        if self.average is not None:
            self.average.update()
        return loss

    def note(self) -> str | None:
        """What the user should know of how steps were run."""
        return None


class CapturedStepper(Stepper):
    """Captures the first step it is given, and replays that for all of the same shapes.

    Steps of other shapes (the last batch of an epoch) are launched operation by operation with the same
    arithmetic, as are all where capturing fails; `note` then says why. Nothing that a step changes is changed
    by capturing, so a resumed retraining, which captures later, does the same steps in the same way.

    Args:
        gradients: of a step's pieces.
        optimizer: updates from them.
        average: follows the parameters, if any.
        recorder: the device's, see `cuda_recorder`.
        state: all tensors that a step changes, beside the optimizer's and the average's.
        steering: inputs that programs are compiled for, by value.
        device: where all of it is.
    """

    def __init__(
        self,
        gradients: Gradients,
        optimizer: Optimizer,
        average: Average | None,
        recorder: Recorder,
        state: Mapping[str, Tensor],
        steering: frozenset[str],
        device: torch.device,
    ) -> None:
        super().__init__(gradients, optimizer, average)
        self._recorder, self._state, self._steering, self._device = recorder, state, steering, device
        self._factors: Tensor | None = None
        self._loss = torch.zeros((), device=device)
        self._key: object = None
        self._buffers: list[Tensor] = []
        self._replay: Work | None = None
        self._reason = ""
        self.replayed = 0
        """Steps."""
        self.launched = 0
        """Steps of other shapes than the first."""

    def __call__(self, pieces: Sequence[Piece], rate: float) -> Tensor:
        """One step at a learning rate; the mean loss before it."""
        factors = self._updated_factors(rate)
        key = tuple(_key(piece, self._steering) for piece in pieces)
        if self._key is None:
            self._key = key
            self._capture(pieces, factors)
        if self._replay is None or key != self._key:
            self.launched += key != self._key
            return self._work(pieces, factors)
        tensors = [tensor for piece in pieces for tensor in _tensors(piece, self._steering)]
        with torch.no_grad():
            torch._foreach_copy_(self._buffers, tensors)
        self._replay()
        self.replayed += 1
        # The next replay writes there again.
        return self._loss.clone()

    def note(self) -> str | None:
        """What the user should know of how steps were run."""
        if self._reason:
            return (
                f"steps could not be captured as a CUDA graph ({self._reason}); they were launched operation "
                "by operation, with the same result"
            )
        if self.launched > self.replayed:
            return (
                f"{self.launched} of {self.launched + self.replayed} steps had other shapes than the one "
                "that was captured as a CUDA graph, and were launched operation by operation"
            )
        return None

    def _updated_factors(self, rate: float) -> tuple[Tensor, ...]:
        """The numbers that belong to this step, always in the same memory."""
        numbers = [*self.optimizer.factors(rate), *([self.average.share()] if self.average else [])]
        fresh = to_device(torch.tensor(numbers), self._device)
        self._factors = fresh if self._factors is None else self._factors.copy_(fresh)
        return self._factors.unbind()

    def _work(self, pieces: Sequence[Piece], factors: Sequence[Tensor]) -> Tensor:
        """All that a step does on the device."""
        loss = self.gradients(pieces)
        if self.average is None:
            self.optimizer.update(factors)
        else:
            self.optimizer.update(factors[:-1])
            self.average.take(factors[-1])
        return loss

    def _capture(self, pieces: Sequence[Piece], factors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            kept = [_copied(piece, self._steering) for piece in pieces]
        self._buffers = [tensor for piece in kept for tensor in _tensors(piece, self._steering)]

        def work() -> None:
            self._loss.copy_(self._work(kept, factors))

        average = self.average.values if self.average else []
        everything = [*self._state.values(), *self.optimizer.momenta().values(), *average]
        changed = {str(number): tensor for number, tensor in enumerate(everything)}
        before, random = snapshot(changed), random_state(self._device)
        try:
            self._replay = self._recorder(work)
        except RuntimeError as error:  # torch's own: capturing is not permitted, out of memory, ...
            self._reason = (
                str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason"
            )
            self._buffers = []
            for parameter in self.optimizer.parameters:
                parameter.grad = None
        restore(changed, before)
        set_random_state(random)


def _tensors(piece: Piece, steering: frozenset[str]) -> list[Tensor]:
    """Everything of a piece that is data, in a fixed order."""
    chunk = piece.chunk
    found = [tensor for name, tensor in chunk.inputs.items() if name not in steering]
    if chunk.targets is not None:
        found.append(chunk.targets)
    for values, weights in chunk.named.values():
        found += [values] if weights is None else [values, weights]
    return found + list(piece.taught or ())


def _copied(piece: Piece, steering: frozenset[str]) -> Piece:
    """A piece in memory of its own, in the same layout."""
    chunk = piece.chunk
    named = {
        output: (values.clone(), None if weights is None else weights.clone())
        for output, (values, weights) in chunk.named.items()
    }
    inputs = {name: x if name in steering else x.clone() for name, x in chunk.inputs.items()}
    targets = None if chunk.targets is None else chunk.targets.clone()
    taught = None if piece.taught is None else tuple(rows.clone() for rows in piece.taught)
    return Piece(replace(chunk, inputs=inputs, targets=targets, named=named), taught)


def _key(piece: Piece, steering: frozenset[str]) -> tuple[Any, ...]:
    """What must be equal for a captured step to hold."""
    chunk = piece.chunk
    return (
        chunk.size,
        tuple(chunk.inputs),
        tuple(chunk.named),
        tuple(chunk.inputs[name].item() for name in chunk.inputs if name in steering),
        tuple((x.shape, x.dtype, x.stride()) for x in _tensors(piece, steering)),
    )


def cuda_recorder(device: torch.device) -> Recorder:
    """Captures on a CUDA device."""

    def record(work: Work) -> Work:
        # One stream for warming up and capturing: libraries keep a handle for each.
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS - 1):
                    work()
                with _waiting_is_an_error():
                    work()
        finally:
            # What it wrote is put back afterwards, also where it failed halfway.
            torch.cuda.current_stream(device).wait_stream(stream)
        generator: Any = torch.cuda.default_generators[torch.cuda.current_device()]
        untouched = generator.clone_state()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                work()
        except RuntimeError:
            # A capture that fails leaves its mark on the generator's state.
            generator.graphsafe_set_state(untouched)
            raise
        replay: Work = graph.replay
        return replay

    return record


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    """What waits for the device would spoil a capture; found before, it only raises."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
