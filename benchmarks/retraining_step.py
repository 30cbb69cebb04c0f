"""Time of a whole retraining step of the torch adapter: data, augmentation, teacher, student, optimizer.

    python benchmarks/retraining_step.py [CASE ...] [--epochs 3] [--threads 1] [--option precision=fp32]

Images of random bytes in the shapes of MNIST and CIFAR-10 (batch 128, augment "shift"). LeNet-5 and ResNet-56
learn labels at full size; students of about 1/6 and 0.4 of their multiply-accumulates learn from the full
network. `cached`: the same with so few images that after some epochs the teacher has seen every view.
Prints the median step of the last epoch (wall and CPU time: on a busy machine the latter says more) and the
seconds for 50,000 images.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import nn
from training_networks import CifarResNet, LeNet5, awake, exported
from training_steps import Bytes

from evonnx.adapter import Progress, RetrainRequest, TrainingBudget
from evonnx.onnx_io import save_model
from evonnx_torch import TorchAdapter

BATCH = 128


@dataclass(frozen=True)
class Case:
    teacher: nn.Module
    student: nn.Module
    shape: tuple[int, ...]
    steps: int
    """Per epoch."""
    taught: bool = True
    epochs: int | None = None


CASES = {
    "lenet5": Case(LeNet5(), LeNet5(), (1, 28, 28), 40, taught=False),
    "lenet5-small": Case(LeNet5(), LeNet5(8, 16, 100), (1, 28, 28), 40),
    "lenet5-small-cached": Case(LeNet5(), LeNet5(8, 16, 100), (1, 28, 28), 8, epochs=120),
    "resnet56": Case(CifarResNet(), CifarResNet(), (3, 32, 32), 6, taught=False),
    "resnet56-small": Case(CifarResNet(), CifarResNet(widths=(10, 20, 40)), (3, 32, 32), 6),
}


def measure(name: str, epochs: int, threads: int, options: dict[str, str]) -> None:
    case = CASES[name]
    seen: list[tuple[int, float, float]] = []

    def note(news: Progress) -> None:
        if news.step % max(1, case.steps // 50) == 0:
            seen.append((news.epoch, time.perf_counter(), time.process_time()))

    epochs = case.epochs or epochs
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{role}.onnx" for role in ("teacher", "student")]
        for path, network in zip(paths, (case.teacher, case.student), strict=True):
            save_model(exported(awake(network), case.shape), path)
        budget = TrainingBudget(
            epochs=epochs, batch_size=BATCH, threads=threads, augment="shift", learning_rate=1e-3,
            distill=0.9 if case.taught else 0.0,
        )  # fmt: skip
        task = Bytes(case.steps * BATCH, case.shape)
        TorchAdapter().retrain(RetrainRequest(paths[1], {}, task, budget, 0, paths[0], note, options))
    # The first step of an epoch has the checks between epochs in it; a second attempt repeats epoch numbers.
    last = [one for one in seen if one[0] == epochs][: case.steps]
    wall, cpu = (statistics.median(b[i] - a[i] for a, b in pairwise(last)) for i in (1, 2))
    cells = (name, f"{wall * 1e3:.1f}", f"{cpu * 1e3:.1f}", f"{wall * 50_000 / BATCH:.1f}")
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--option", nargs="*", default=[], metavar="NAME=VALUE", help="of the adapter")
    given = parser.parse_args()
    print("| case | step, ms | its CPU time, ms | 50,000 images, s |\n|---|---|---|---|", flush=True)
    for name in given.cases or CASES:
        measure(name, given.epochs, given.threads, dict(pair.split("=", 1) for pair in given.option))


if __name__ == "__main__":
    main()
