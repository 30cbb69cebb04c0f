"""How the samples' ancestors are trained: SGD with momentum under a one-cycle schedule.

Nothing here is needed by evonnx itself. With the same machine, versions and thread count the same weights
come out; a run that was killed and started again with `checkpoint` ends with them too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from sample_data import CIFAR10_MEAN, CIFAR10_STD, Images, Labels, Splits
from torch import nn
from torch.nn import functional as F

from evonnx.durable import write_whole


@dataclass(frozen=True)
class Training:
    """The settings that make the weights what they are."""

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.1
    """Peak of the cycle."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.25
    """Share of all steps before the peak."""
    shift: int = 2
    """Every image is moved by up to so many pixels in both directions, anew in each epoch."""
    flip: bool = False
    """Every second image, by chance, is mirrored."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel; images are given to the model as (image / 255 - mean) / std."""
    std: tuple[float, ...] = (1.0,)
    channels_last: bool = False
    """Faster for convolutions of many channels."""
    bfloat16: bool = False
    """Convolutions and matrix products in bfloat16; weights stay in float32."""
    seed: int = 0
    threads: int = 1
    device: str = "cpu"


CIFAR10 = Training(shift=4, flip=True, mean=CIFAR10_MEAN, std=CIFAR10_STD, channels_last=True)
"""What is usual for networks on it."""


def training_options(parser: argparse.ArgumentParser, epochs: int, *more: str) -> None:
    """Options of a training script: how long, on what, and those of "device" and "bfloat16" that it has."""
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--threads", type=int, default=2)
    if "device" in more:
        parser.add_argument("--device", default="cpu", help="cpu or cuda")
    if "bfloat16" in more:
        parser.add_argument("--bfloat16", action="store_true", help="faster where the processor has it")


def as_asked(how: Training, arguments: argparse.Namespace) -> Training:
    """The recipe with what the command line says of the same name."""
    asked = {part.name: getattr(arguments, part.name) for part in fields(how) if part.name in arguments}
    return replace(how, **asked)


def pin(how: Training) -> None:
    """Fixed seed, thread count and deterministic kernels: the same machine then trains the same weights."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(how.seed)
    torch.set_num_threads(how.threads)
    # Max pooling has no deterministic backward pass in CUDA.
    torch.use_deterministic_algorithms(True, warn_only=how.device != "cpu")


def train(
    make: Callable[[], nn.Module],
    images: Images,
    labels: Labels,
    how: Training,
    news: Callable[[str], None] = lambda line: None,
    checkpoint: Path | None = None,
) -> nn.Module:
    """Train a network from scratch, or on from a checkpoint.

    Args:
        make: gives the network with fresh weights.
        images: uint8, shape (N, C, H, W).
        labels: shape (N,), from 0.
        how: the settings.
        news: called with one line after each epoch.
        checkpoint: a file (safetensors) that is written after each epoch and, where it exists, gone on from.

    Returns:
        The network in eval mode, on the CPU.
    """
    pin(how)
    model = make().to(how.device)
    if how.channels_last:
        model = model.to(memory_format=torch.channels_last)
    x, y = torch.from_numpy(images).to(how.device), torch.from_numpy(labels).to(how.device)
    steps = -(-len(x) // how.batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(), how.learning_rate, how.momentum, weight_decay=how.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, how.learning_rate, total_steps=steps * how.epochs, pct_start=how.warmup
    )
    random = torch.Generator().manual_seed(how.seed)
    done = 0
    if checkpoint is not None and checkpoint.is_file():
        done = restore(checkpoint, how, model, optimizer, random)
        with warnings.catch_warnings():  # the schedule cannot know that the optimizer has made these steps
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(done * steps):
                schedule.step()
        news(f"{checkpoint} has {done} of {how.epochs} epochs")
    for epoch in range(done + 1, how.epochs + 1):
        started, total = time.perf_counter(), 0.0
        model.train()
        torch.manual_seed(how.seed * 1000 + epoch)  # dropout's, so that a resumed run draws the same
        for chosen in torch.randperm(len(x), generator=random).split(how.batch_size):
            here = chosen.to(how.device)
            inputs = shifted(normalised(x[here], how), how.shift, how.flip, random)
            with torch.autocast(how.device, torch.bfloat16, enabled=how.bfloat16):
                logits = model(laid_out(inputs, how))
            loss = F.cross_entropy(logits.float(), y[here])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if checkpoint is not None:
            keep(checkpoint, how, epoch, model, optimizer, random)
        seconds = time.perf_counter() - started
        news(f"epoch {epoch:2d}/{how.epochs}  loss {total / len(x):.4f}  {seconds:.1f} s")
    return model.eval().cpu()


def normalised(images: torch.Tensor, how: Training) -> torch.Tensor:
    """Bytes [B, C, H, W] as the model takes them."""
    values = images.float() / 255
    if how.mean == (0.0,) and how.std == (1.0,):
        return values
    mean, std = (torch.tensor(one, device=images.device).reshape(1, -1, 1, 1) for one in (how.mean, how.std))
    return (values - mean) / std


def laid_out(images: torch.Tensor, how: Training) -> torch.Tensor:
    """Images in the memory layout that the settings ask for."""
    return images.contiguous(memory_format=torch.channels_last) if how.channels_last else images.contiguous()


def shifted(images: torch.Tensor, most: int, flip: bool, random: torch.Generator) -> torch.Tensor:
    """Each image [B, C, H, W] moved by its own number of pixels, zeros moving in, and mirrored or not."""
    if most == 0 and not flip:
        return images
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=random)
    rows = (offsets[0] + torch.arange(height))[:, :, None]
    columns = offsets[1] + torch.arange(width)
    if flip:
        columns = torch.where(torch.rand(count, 1, generator=random) < 0.5, columns.flip(1), columns)
    device = images.device
    padded = F.pad(images, (most, most, most, most)).permute(0, 2, 3, 1)
    moved = padded[
        torch.arange(count, device=device)[:, None, None], rows.to(device), columns[:, None, :].to(device)
    ]
    return moved.permute(0, 3, 1, 2)


def accuracy(model: nn.Module, images: Images, labels: Labels, how: Training | None = None) -> float:
    """Share of right answers of a network on the CPU."""
    how = how or Training()
    model = model.eval()
    with torch.no_grad():
        right = sum(
            int((model(laid_out(normalised(part, how), how)).argmax(1) == want).sum())
            for part, want in zip(
                torch.from_numpy(images).split(500), torch.from_numpy(labels).split(500), strict=True
            )
        )
    return right / len(labels)


def ancestor(make: Callable[[], nn.Module], splits: Splits, how: Training, out: Path) -> nn.Module:
    """Train a model with a line of news and a checkpoint in `out` after each epoch."""
    checkpoint = out / "training.safetensors"
    return train(make, *splits.train, how, lambda line: print(line, flush=True), checkpoint)


def report(model: nn.Module, splits: Splits, how: Training, out: Path) -> None:
    """Print what the ancestor can do."""
    print(f"validation {accuracy(model, *splits.validation, how):.2%}")
    print(f"test       {accuracy(model, *splits.test, how):.2%}")
    print(f"written to {out}")


def keep(
    path: Path,
    how: Training,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
) -> None:
    """Write everything that the next epoch depends on, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        tensors[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"]
    tensors["random"] = random.get_state()
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_whole(path, save(plain, {"epoch": str(epoch), "training": recipe(how)}))


def restore(
    path: Path, how: Training, model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator
) -> int:
    """Put back what `keep` wrote; gives the number of epochs that are done."""
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        if about.get("training") != recipe(how):
            sys.exit(
                f"{path} was written with other settings ({about.get('training')}). Use those, or delete it "
                "to begin anew."
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    for name, parameter in model.named_parameters():
        buffer = torch.empty_like(parameter)
        optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(tensors[f"momentum.{name}"])
    random.set_state(tensors["random"])
    return int(about["epoch"])


def recipe(how: Training) -> str:
    """The settings in one line, without the machine's: a run may be gone on with elsewhere."""
    return json.dumps(
        {name: value for name, value in asdict(how).items() if name not in ("threads", "device")}
    )
