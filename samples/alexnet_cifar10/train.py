"""Train the ancestor of the paper's third experiment: AlexNet with 5x5x3 first kernels, on CIFAR-10.

    python samples/alexnet_cifar10/train.py [--data FOLDER] [--out runs/alexnet_cifar10] [--epochs 30]
           [--bfloat16] [--seed 0]

The data is the binary version of CIFAR-10, found in --data or in the folder that EVONNX_DATA names, else
downloaded. 45 000 images train, 5 000 validate (a seeded choice), 10 000 test. Written to --out: train.npz,
val.npz, test.npz, alexnet.onnx, alexnet.toml, and after each epoch a checkpoint, from which a killed training
goes on.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from sample_data import options, prepare  # noqa: E402
from sample_graph import Graph  # noqa: E402
from sample_training import CIFAR10, ancestor, as_asked, report, training_options  # noqa: E402

CONVOLUTIONS = {
    "conv1": (3, 64, 5),
    "conv2": (64, 192, 5),
    "conv3": (192, 384, 3),
    "conv4": (384, 256, 3),
    "conv5": (256, 256, 3),
}
"""Inputs, outputs and kernel size; 2 450 112 synapses in 262 336 kernels."""
POOLED = ("conv1", "conv2", "conv5")
"""Followed by AlexNet's overlapping pooling: 32 -> 15 -> 7 -> 3 pixels."""
DENSE = {"fc6": (256 * 3 * 3, 1024), "fc7": (1024, 1024), "fc8": (1024, 10)}
"""Inputs and outputs; 3 418 112 synapses."""


class AlexNet(nn.Module):
    """Normalised images [batch, 3, 32, 32] to logits [batch, 10]; 5 868 224 synapses."""

    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs, size) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False))
            self.add_module(name.replace("conv", "bn"), nn.BatchNorm2d(outputs))
        for name, (inputs, outputs) in DENSE.items():
            self.add_module(name, nn.Linear(inputs, outputs))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for name in CONVOLUTIONS:
            x = F.relu(self.get_submodule(name.replace("conv", "bn"))(self.get_submodule(name)(x)))
            x = F.max_pool2d(x, 3, 2) if name in POOLED else x
        x = x.flatten(1)
        for name in ("fc6", "fc7"):
            x = F.relu(self.get_submodule(name)(F.dropout(x, 0.5, self.training)))
        logits: torch.Tensor = self.get_submodule("fc8")(x)
        return logits


def write_onnx(model: AlexNet, path: Path) -> None:
    """Write the network as ONNX, BatchNormalization and all: "image" [batch, 3, 32, 32] to "logits"."""
    graph = Graph("alexnet", {name: value.numpy() for name, value in model.state_dict().items()}, (3, 32, 32))
    x = "image"
    for name, (_, _, size) in CONVOLUTIONS.items():
        number = name.removeprefix("conv")
        x = graph.conv(x, name, padding=size // 2)
        x = graph.relu(graph.batch_norm(x, f"bn{number}"), f"relu{number}")
        x = graph.max_pool(x, f"pool{number}", 3, 2) if name in POOLED else x
    x = graph.flatten(x, "flatten")
    for name in ("fc6", "fc7"):
        x = graph.relu(graph.linear(x, name), name.replace("fc", "relu"))
    graph.write(path, graph.linear(x, "fc8"), 10)


def main(words: list[str] | None = None) -> None:
    parser = options("Train AlexNet on CIFAR-10 and write it as ONNX.", "alexnet_cifar10")
    training_options(parser, 30, "device", "bfloat16")
    arguments = parser.parse_args(words)
    splits = prepare("cifar10", arguments, HERE / "alexnet.toml")
    if arguments.data_only:
        return
    how = as_asked(replace(CIFAR10, learning_rate=0.05), arguments)
    model = ancestor(AlexNet, splits, how, arguments.out)
    write_onnx(model, arguments.out / "alexnet.onnx")
    report(model, splits, how, arguments.out)


if __name__ == "__main__":
    main()
