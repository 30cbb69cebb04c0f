"""For the training benchmarks: data of random bytes, and the torch adapter's own step, called at will."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from evonnx.adapter import RetrainRequest, TrainingBudget
from evonnx.onnx_io import load_model
from evonnx.task import Batch, Loss, Metric, Task
from evonnx_torch.module import OnnxModule
from evonnx_torch.retraining import make_trainer

PRECISIONS = {"fp32": "fp32", "bf16": "amp"}
"""What the adapter's option `precision` calls them."""


class Bytes:
    """Random images of ten classes, as bytes until they are asked for."""

    name, metric, loss = "bytes", Metric("accuracy"), Loss("cross_entropy")

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        self.labels = rng.integers(0, 10, count)

    def describe(self) -> str:
        return self.name

    def size(self, split: str) -> int:
        return len(self.images)

    def batches(self, split: str, batch_size: int, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        order = np.arange(len(self.images)) if rng is None else rng.permutation(len(self.images))
        for start in range(0, len(order), batch_size):
            pick = order[start : start + batch_size]
            images = self.images[pick].astype(np.float32)
            images /= np.float32(255)
            yield Batch({"x": images}, self.labels[pick], len(pick))

    def score(self, split: str, outputs: object) -> float:
        raise NotImplementedError


def adapter_step(
    model: Path,
    task: Task,
    budget: TrainingBudget,
    options: Mapping[str, str],
    ancestor: Path | None = None,
    *,
    fetched: bool = True,
) -> Callable[[], None]:
    """The torch adapter's step: augmentation, forward, teacher if any, backward, optimizer, reading the loss.

    Args:
        model: ONNX file.
        task: gives the batches.
        budget: with a batch size.
        options: the adapter's.
        ancestor: teacher.
        fetched: get each batch from the task within the step; else one batch is kept for all steps.

    Returns:
        One call is one step on the next full batch. Torch is to be set up as the adapter does it
        (`evonnx_torch.runtime`).
    """
    loaded = load_model(model)
    request = RetrainRequest(model, {}, task, budget, 0, ancestor, options=dict(options))
    trainer = make_trainer(request, loaded, OnnxModule(loaded, torch.device("cpu")), {})
    stepper = trainer.stepper(trainer.optimizer())
    trainer.module.train()
    rng = np.random.default_rng(0)
    size = trainer.settings.batch_size

    def full() -> Iterator[Batch]:
        while True:
            yield from (one for one in task.batches("train", size, rng) if one.size == size)

    batches = full() if fetched else itertools.repeat(next(full()))

    def step() -> None:
        float(trainer.step(next(batches), rng, stepper, 0.01))

    return step
