"""Training-step time of the torch adapter's module against the same network written by hand in PyTorch.

    python benchmarks/torch_step.py [NETWORK ...] [--precision fp32 bf16] [--rounds 20] [--threads 1]

Forward, backward and optimizer step on LeNet-5, ResNet-56 (batch 128) and MobileNetV2 (96 x 96, batch 32),
both sides with the same weights, the same optimizer and the same settings of torch, rounds interleaved so
that a busy machine hits both alike. By hand once with torch's default layout in memory and once with channels
innermost, as the adapter has it. Prints medians, the ratio of the adapter's to the better one by hand (the
median of the rounds' ratios), and the adapter's seconds for 50,000 examples; exit code 1 if a ratio is above
1.15. `bf16` is slow on processors without it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from architectures import mobilenet_v2
from torch import Tensor, nn
from torch.nn import functional
from training_networks import CifarResNet, LeNet5, awake, exported

from evonnx_torch.module import OnnxModule
from evonnx_torch.optim import Optimizer
from evonnx_torch.runtime import deterministic, roomy_heap

LIMIT = 1.15


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int


CASES = {
    "lenet5": Case(LeNet5, (1, 28, 28), 128),
    "resnet56": Case(CifarResNet, (3, 32, 32), 128),
    "mobilenetv2": Case(mobilenet_v2, (3, 96, 96), 32),
}


def step_of(
    parameters: list[Tensor], forward: Callable[[], Tensor], size: int, mixed: bool
) -> Callable[[], None]:
    optimizer = Optimizer(parameters, [None] * len(parameters), [True] * len(parameters), 1e-4, "sgd", 0.0)
    labels = torch.arange(size) % 10

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = forward()
        functional.cross_entropy(output.float(), labels).backward()
        optimizer.step(0.01)

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, precision: str, rounds: int) -> float:
    """Time one network; the ratio of the adapter's step to the better one by hand."""
    case = CASES[name]
    torch.manual_seed(0)
    plain = awake(case.build())
    ours = OnnxModule(exported(plain, case.shape))
    ours.use_channels_last()
    inner = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    x = torch.rand(case.batch, *case.shape)
    laid_out = ours.laid_out(x)
    for module in (plain, inner, ours):
        module.train()
    with torch.no_grad():
        (output,) = ours({"x": laid_out}).values()
        assert torch.allclose(output, inner(laid_out), atol=1e-3), "the two networks differ"
    steps = [
        step_of(list(module.parameters()), forward, case.batch, precision == "bf16")
        for module, forward in (
            (plain, lambda: plain(x)),
            (inner, lambda: inner(laid_out)),
            (ours, lambda: next(iter(ours({"x": laid_out}).values()))),
        )
    ]
    for step in steps * 2:
        step()
    times = [[seconds(step) for step in steps] for _ in range(rounds)]
    medians = [statistics.median(column) * 1e3 for column in zip(*times, strict=True)]
    better = 0 if medians[0] < medians[1] else 1
    ratio = statistics.median(row[2] / row[better] for row in times)
    epoch = medians[2] / 1e3 * 50_000 / case.batch
    cells = (name, precision, *(f"{median:.1f}" for median in medians), f"{ratio:.3f}", f"{epoch:.0f}")
    print("| " + " | ".join(cells) + " |", flush=True)
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(CASES))
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print("| network | precision | by hand, ms | channels innermost, ms | adapter, ms | ratio | epoch, s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with roomy_heap(), deterministic(0, given.threads, torch.device("cpu")):
        ratios = [
            compare(name, precision, given.rounds)
            for name in given.networks or CASES
            for precision in given.precision
        ]
    return 0 if max(ratios) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
