"""A training script that was there before evonnx, and what was added to it to retrain offspring.

    python train_script.py train --data ../digits/train.npz --output net.pt
    evonnx evolve lenet5.onnx --adapter command \\
        --command "python train_script.py retrain {model} {masks} {data} {output} --epochs {epochs}"

`Net`, `fit` and `train` are the old script; `widths` lets `Net` be narrower. `retrain` is all that was added:
read the shrunk weights by name, train, multiply by the masks, and write the weights back by name.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """LeNet-5; `widths` are filters, filters, features that go into fc1, hidden units."""

    def __init__(self, widths: tuple[int, int, int, int] = (20, 50, 800, 500)) -> None:
        super().__init__()
        first, second, features, hidden = widths
        self.conv1 = nn.Conv2d(1, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.conv1(image), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def fit(
    net: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epochs: int,
    rate: float,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Cross-entropy with momentum, the rate falling along a cosine."""
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            after_step()
            total += loss.item() * len(batch)
        # evonnx reads lines of this form: they become its progress bar and its curves.
        print(
            f"epoch {epoch}/{epochs} loss {total / len(images):.5f} lr {schedule.get_last_lr()[0]:g}",
            flush=True,
        )
        schedule.step()


def train(arguments: argparse.Namespace) -> None:
    """As it always was."""
    with np.load(arguments.data) as data:
        images = torch.from_numpy(data["x"]).float() / 255
        labels = torch.from_numpy(data["y"])
    net = Net()
    fit(net, images, labels, arguments.epochs, arguments.rate)
    torch.save(net.state_dict(), arguments.output)


def retrain(arguments: argparse.Namespace) -> None:
    """What was added: an offspring in, its weights out."""
    import onnx
    from onnx import numpy_helper
    from safetensors.torch import load_file, save_file

    # An export keeps parameter names, so a state dict is all that is needed; shapes say how wide it is now.
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(arguments.model).graph.initializer}
    weights = {name: torch.from_numpy(array.copy()) for name, array in stored.items()}
    net = Net((len(weights["conv1.bias"]), len(weights["conv2.bias"]), *weights["fc1.weight"].shape[::-1]))
    net.load_state_dict(weights)
    masks = load_file(arguments.masks)

    def keep_the_dead_dead() -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                net.get_parameter(name).mul_(mask)

    with np.load(arguments.data) as data:  # by input name, as the model gets it
        images, labels = torch.from_numpy(data["image"]), torch.from_numpy(data["targets"])
    fit(net, images, labels, arguments.epochs, arguments.rate, keep_the_dead_dead)
    save_file(net.state_dict(), arguments.output)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    commands = options.add_subparsers(required=True)
    first = commands.add_parser("train")
    first.add_argument("--data", required=True)
    first.add_argument("--output", required=True)
    first.set_defaults(run=train)
    second = commands.add_parser("retrain")
    for name in ("model", "masks", "data", "output"):
        second.add_argument(name)
    second.set_defaults(run=retrain)
    for command in (first, second):
        command.add_argument("--epochs", type=int, default=10)
        command.add_argument("--rate", type=float, default=0.01)
        command.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    torch.manual_seed(arguments.seed % 2**63)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
