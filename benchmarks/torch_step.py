"""The torch adapter's training step against the same network written and trained by hand in PyTorch.

    python benchmarks/torch_step.py [NETWORK ...] [--precision fp32 bf16] [--rounds 20] [--threads 1]
        [--cpu-time] [--out FILE.md]

LeNet-5, ResNet-56 (batch 128) and MobileNetV2 (96 x 96, batch 32) learn labels. A step is all that follows
a batch in numpy: to tensors, forward, cross-entropy, backward, gradients clipped at a norm of 2, SGD with
Nesterov momentum and weight decay, reading the loss. The adapter's is the one its training loop takes; by
hand it is an `nn.Module` and `torch.optim.SGD`, once in torch's default layout in memory and once with
channels innermost, as the adapter has it. Weights and torch's settings are the same on all sides; rounds are
interleaved in changing order, so that a busy machine hits all alike. `--cpu-time` counts the processor's time
instead of the clock's, which says more on a busy machine with one thread. Prints medians, the ratio of the
adapter's to the better one by hand (the median of the rounds' ratios), and the adapter's seconds for 50,000
examples; exit code 1 if a ratio is above 1.05. `bf16` needs a processor that has it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from architectures import mobilenet_v2
from provenance import provenance, replace_section
from torch import Tensor, nn
from torch.nn import functional
from training_networks import CifarResNet, LeNet5, awake, exported
from training_steps import PRECISIONS, Bytes, adapter_step

from evonnx.adapter import TrainingBudget
from evonnx.onnx_io import load_model, save_model
from evonnx_torch.module import OnnxModule
from evonnx_torch.runtime import deterministic, native_bfloat16, roomy_heap

LIMIT = 1.05
CLIP = 2.0


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


def by_hand(
    network: nn.Module, layout: torch.memory_format, batch: tuple[Tensor, Tensor], mixed: bool
) -> Callable[[], None]:
    network = copy.deepcopy(network).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4, nesterov=True)

    def step() -> None:
        images, labels = batch[0].to(memory_format=layout), batch[1]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        loss.item()

    return step


def seconds(step: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    step()
    return clock() - start


@torch.no_grad()
def check(network: nn.Module, model: Path, images: Tensor) -> None:
    """The adapter runs the same function."""
    (output,) = OnnxModule(load_model(model)).eval()({"x": images}).values()
    assert torch.allclose(output, network.eval()(images), atol=1e-3), "the two networks differ"


def compare(name: str, precision: str, given: argparse.Namespace) -> tuple[str, float]:
    """Time one network; a line of the table, and the adapter's step over the better one by hand."""
    case = CASES[name]
    torch.manual_seed(0)
    network = awake(case.build())
    task = Bytes(case.batch, case.shape)
    batch = next(task.batches("train", case.batch))
    tensors = torch.from_numpy(batch.inputs["x"]), torch.from_numpy(np.asarray(batch.targets))
    budget = TrainingBudget(
        epochs=1, batch_size=case.batch, threads=given.threads, optimizer="sgd", clip_norm=CLIP, distill=0.0
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        save_model(exported(network, case.shape), path)
        check(network, path, tensors[0])
        options = {"precision": PRECISIONS[precision], "renormalize": "off"}
        steps = [
            by_hand(network, torch.contiguous_format, tensors, precision == "bf16"),
            by_hand(network, torch.channels_last, tensors, precision == "bf16"),
            adapter_step(path, task, budget, options, fetched=False),
        ]
    for step in steps * 2:
        step()
    order = np.random.default_rng(0)
    clock = time.process_time if given.cpu_time else time.perf_counter
    times = np.zeros((given.rounds, len(steps)))
    for row in times:
        for index in order.permutation(len(steps)):
            row[index] = seconds(steps[index], clock)
    medians = np.median(times, axis=0) * 1e3
    better = int(np.argmin(medians[:2]))
    ratio = statistics.median(times[:, 2] / times[:, better])
    epoch = medians[2] / 1e3 * 50_000 / case.batch
    cells = (name, precision, *(f"{median:.1f}" for median in medians), f"{ratio:.3f}", f"{epoch:.0f}")
    return f"| {' | '.join(cells)} |", ratio


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(CASES))
    parser.add_argument("--precision", nargs="+", choices=tuple(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path, help="write the table into this Markdown file")
    given = parser.parse_args()
    if "bf16" in given.precision and not native_bfloat16():
        parser.error("this processor has no bfloat16 arithmetic, so the adapter would compute in float32")
    lines = [
        "| network | precision | by hand, ms | channels innermost, ms | adapter, ms | ratio | 50,000, s |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    print(*lines, sep="\n", flush=True)
    ratios = []
    with roomy_heap(), deterministic(0, given.threads, torch.device("cpu")):
        for name in given.networks or CASES:
            for precision in given.precision:
                line, ratio = compare(name, precision, given)
                print(line, flush=True)
                lines.append(line)
                ratios.append(ratio)
    if given.out is not None:
        replace_section(given.out, "torch-step", "\n".join([*lines, "", provenance()]))
    return 0 if max(ratios) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
