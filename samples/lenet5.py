"""LeNet-5 as in Caffe and in the paper: 20 and 50 filters of 5x5, 500 hidden units, 10 classes.

The training scripts of `digits/` and `lenet5_mnist/` share it. Nothing here is needed by evonnx itself: it
only makes the ancestors. The ONNX file is written with `onnx.helper` from the trained weights, so that the
graph is exactly the eight operators one would draw.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class LeNet5(nn.Module):
    """Images [batch, 1, 28, 28] in [0, 1] to logits [batch, 10]; 430 500 synapses and 580 biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.conv1(image), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: torch.Tensor = self.fc2(x)
        return logits


@dataclass(frozen=True)
class Training:
    """How an ancestor is trained: SGD with momentum under a one-cycle schedule."""

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.1
    """Peak of the cycle."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 2
    """Every image is moved by up to so many pixels in both directions, anew in each epoch."""
    seed: int = 0
    threads: int = 1


def pin(seed: int, threads: int) -> None:
    """Fixed seed, thread count and deterministic kernels: the same machine then trains the same weights."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def train(
    images: Images, labels: Labels, how: Training, news: Callable[[str], None] = lambda line: None
) -> LeNet5:
    """Train a LeNet-5 from scratch.

    Args:
        images: uint8, shape (N, 1, 28, 28).
        labels: shape (N,), 0 to 9.
        how: the settings.
        news: called with one line after each epoch.
    """
    pin(how.seed, how.threads)
    model = LeNet5()
    x = torch.from_numpy(images).float() / 255
    y = torch.from_numpy(labels)
    steps = -(-len(x) // how.batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(), how.learning_rate, how.momentum, weight_decay=how.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, how.learning_rate, total_steps=steps * how.epochs, pct_start=0.25
    )
    random = torch.Generator().manual_seed(how.seed)
    for epoch in range(1, how.epochs + 1):
        started, total = time.perf_counter(), 0.0
        model.train()
        for chosen in torch.randperm(len(x), generator=random).split(how.batch_size):
            loss = F.cross_entropy(model(shifted(x[chosen], how.shift, random)), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        seconds = time.perf_counter() - started
        news(f"epoch {epoch:2d}/{how.epochs}  loss {total / len(x):.4f}  {seconds:.1f} s")
    return model.eval()


def shifted(images: torch.Tensor, most: int, random: torch.Generator) -> torch.Tensor:
    """Each image [B, C, H, W] moved by its own whole number of pixels, zeros moving in."""
    if most == 0:
        return images
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=random)
    rows = (offsets[0] + torch.arange(height))[:, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, :]
    padded = F.pad(images, (most, most, most, most)).permute(0, 2, 3, 1)
    return padded[torch.arange(count)[:, None, None], rows, columns].permute(0, 3, 1, 2).contiguous()


def accuracy(model: LeNet5, images: Images, labels: Labels) -> float:
    """Share of right answers."""
    with torch.no_grad():
        right = sum(
            int((model(part.float() / 255).argmax(1) == want).sum())
            for part, want in zip(
                torch.from_numpy(images).split(500), torch.from_numpy(labels).split(500), strict=True
            )
        )
    return right / len(labels)


def write_onnx(model: LeNet5, path: Path) -> None:
    """Write the trained network as ONNX, opset 17: "image" [batch, 1, 28, 28] to "logits" [batch, 10]."""
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node(
            "Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], "conv1", kernel_shape=[5, 5]
        ),
        helper.make_node("MaxPool", ["c1"], ["p1"], "pool1", **pool),
        helper.make_node("Conv", ["p1", "conv2.weight", "conv2.bias"], ["c2"], "conv2", kernel_shape=[5, 5]),
        helper.make_node("MaxPool", ["c2"], ["p2"], "pool2", **pool),
        helper.make_node("Flatten", ["p2"], ["flat"], "flatten", axis=1),
        helper.make_node("Gemm", ["flat", "fc1.weight", "fc1.bias"], ["f1"], "fc1", transB=1),
        helper.make_node("Relu", ["f1"], ["r1"], "relu"),
        helper.make_node("Gemm", ["r1", "fc2.weight", "fc2.bias"], ["logits"], "fc2", transB=1),
    ]
    weights = [
        numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in model.state_dict().items()
    ]
    graph = helper.make_graph(
        nodes,
        "lenet5",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="lenet5"
    )
    onnx.checker.check_model(proto, full_check=True)
    replace(path, proto.SerializeToString())


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    beside.replace(path)


def write_split(path: Path, images: Images, labels: Labels) -> None:
    """One split as .npz: x uint8 [N, 1, 28, 28], y uint8 [N]."""
    np.savez_compressed(path, x=images, y=labels.astype(np.uint8))
