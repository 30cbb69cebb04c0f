"""Training-step time of the torch adapter's module against the same network written by hand in PyTorch.

    python benchmarks/torch_step.py [--rounds 30] [--threads 1]

Forward, backward and optimizer step on LeNet-5 (batch 128) and a small residual network (batch 32), both
sides with the same weights and the same optimizer, rounds interleaved so that a busy machine hits both alike.
Prints the ratio of medians; exit code 1 if one is above 1.15.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from evonnx_torch.module import OnnxModule
from evonnx_torch.optim import Optimizer

LIMIT = 1.15


class LeNet5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.short is None else self.short(x)))


class SmallResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
        self.blocks = nn.Sequential(*(Block(*width) for width in widths))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(F.relu(self.bn(self.stem(x))))
        return self.head(y.mean((2, 3)))


class Writer:
    """The ONNX graph of a hand-written network, node by node."""

    def __init__(self, model: nn.Module) -> None:
        self.state = {name: value.numpy() for name, value in model.state_dict().items()}
        self.nodes: list = []
        self.used: dict[str, np.ndarray] = {}

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        self.used.update({name: self.state[name] for name in inputs if name in self.state})
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def norm(self, x: str, name: str) -> str:
        parts = (f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
        return self.node("BatchNormalization", x, *parts)

    def model(self, output: str, shape: list[int | str]) -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 10])],
            [numpy_helper.from_array(array, name) for name, array in self.used.items()],
        )
        return ir.from_proto(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        )


def lenet_graph(model: LeNet5) -> ir.Model:
    w = Writer(model)
    y = w.node("Conv", "x", "conv1.weight", "conv1.bias")
    y = w.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = w.node("Conv", y, "conv2.weight", "conv2.bias")
    y = w.node("Flatten", w.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]))
    y = w.node("Relu", w.node("Gemm", y, "fc1.weight", "fc1.bias", transB=1))
    return w.model(w.node("Gemm", y, "fc2.weight", "fc2.bias", transB=1), ["n", 1, 28, 28])


def resnet_graph(model: SmallResNet) -> ir.Model:
    w = Writer(model)
    y = w.node("Relu", w.norm(w.node("Conv", "x", "stem.weight", pads=[1] * 4), "bn"))
    for i, block in enumerate(model.blocks):
        name, stride = f"blocks.{i}", [block.conv1.stride[0]] * 2
        z = w.node("Conv", y, f"{name}.conv1.weight", pads=[1] * 4, strides=stride)
        z = w.node("Relu", w.norm(z, f"{name}.bn1"))
        z = w.norm(w.node("Conv", z, f"{name}.conv2.weight", pads=[1] * 4), f"{name}.bn2")
        short = y if block.short is None else w.node("Conv", y, f"{name}.short.weight", strides=stride)
        y = w.node("Relu", w.node("Add", z, short))
    y = w.node("Flatten", w.node("GlobalAveragePool", y))
    return w.model(w.node("Gemm", y, "head.weight", "head.bias", transB=1), ["n", 3, 32, 32])


def step_of(parameters: list[Tensor], forward: Callable[[], Tensor], labels: Tensor) -> Callable[[], None]:
    optimizer = Optimizer(parameters, [None] * len(parameters), [True] * len(parameters), 1e-4, "sgd", 0.0)

    def step() -> None:
        F.cross_entropy(forward(), labels).backward()
        optimizer.step(0.01)

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, hand: nn.Module, graph: ir.Model, x: Tensor, rounds: int) -> float:
    """Ratio of median step times, ours over hand-written."""
    labels = torch.arange(len(x)) % 10
    ours = OnnxModule(graph)
    hand.train()
    ours.train()
    (output,) = ours({"x": x}).values()
    assert torch.allclose(output, hand(x), atol=1e-4), "the two networks differ"
    steps = (
        step_of(list(hand.parameters()), lambda: hand(x), labels),
        step_of(list(ours.parameters()), lambda: next(iter(ours({"x": x}).values())), labels),
    )
    for step in steps * 3:
        step()
    times = [[seconds(step) for step in steps] for _ in range(rounds)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    ratio = medians[1] / medians[0]
    print(f"{name:12} by hand {medians[0] * 1e3:7.2f} ms   adapter {medians[1] * 1e3:7.2f} ms   {ratio:.3f}x")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    lenet, resnet = LeNet5(), SmallResNet()
    ratios = [
        compare("LeNet-5", lenet, lenet_graph(lenet), torch.rand(128, 1, 28, 28), arguments.rounds),
        compare("ResNet-14", resnet, resnet_graph(resnet), torch.rand(32, 3, 32, 32), arguments.rounds),
    ]
    return 0 if max(ratios) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
