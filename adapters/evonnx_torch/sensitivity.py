"""How much a network's answers depend on each weight: squared first-order changes of a sampled loss.

For each batch, targets are drawn from the network's own answers (classes from distributions softened by the
temperature, values with noise of their own variance); L is their negative log-likelihood, and (w dL/dw)^2 is
averaged over batches. Drawn so, dL/dw has mean 0 over targets, and its square estimates the Fisher
information.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evonnx.adapter import RetrainRequest
from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx_torch.feeding import chunks
from evonnx_torch.heads import rows_of, scales
from evonnx_torch.module import OnnxModule
from evonnx_training.heads import Head

BATCHES = 64
"""Most batches that are looked at: the standard error is then about a sixth of a sensitivity."""


def surprise(head: Head, tap: Tensor, scale: float, temperature: float, random: torch.Generator) -> Tensor:
    """Negative log-likelihood of targets drawn from an output, summed over the batch.

    Args:
        head: how to read it.
        tap: the tensor.
        scale: its variance, for values.
        temperature: softens class distributions, so that sure answers tell something too.
        random: on the CPU, whatever device the tensor is on.
    """
    if head.kind == "softmax":
        rows = rows_of(head, tap) / temperature
        drawn = torch.multinomial(rows.detach().float().softmax(-1).cpu(), 1, generator=random)
        return F.cross_entropy(rows, drawn.reshape(-1).to(rows.device), reduction="sum")
    if head.kind == "sigmoid":
        p = (tap.detach().float() / temperature).sigmoid().cpu()
        drawn = torch.bernoulli(p, generator=random).to(tap.device)
        return F.binary_cross_entropy_with_logits(tap / temperature, drawn, reduction="sum")
    noise = torch.randn(tap.shape, generator=random).to(tap.device)
    total: Tensor = (tap * noise).sum() / scale**0.5
    return total


def measure(
    module: OnnxModule,
    heads: tuple[Head, ...],
    request: RetrainRequest,
    batch_size: int,
    chunk: int | None,
    temperature: float,
) -> dict[str, Array]:
    """See `evonnx.adapter.MeasuresSensitivities`.

    Args:
        module: the network, masked.
        heads: the outputs that count.
        request: what the adapter was asked.
        batch_size: examples per gradient.
        chunk: most examples per forward pass.
        temperature: see `surprise`.

    Raises:
        AdapterError: a masked tensor is none that the network trains, or there is no data.
    """
    missing = sorted(set(request.masks) - set(module.weights))
    if missing:
        raise AdapterError(
            f"{missing[0]!r} is not stored as floating-point weights that training could change, so its "
            "gradient can't be measured. Choose an encoding that reads weights, such as adaptive."
        )
    module.eval()
    random = torch.Generator().manual_seed(request.seed)
    weights = {name: module.weights[name] for name in request.masks}
    found = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in weights.items()}
    taps = tuple(head.tap for head in heads)
    by_tap: dict[str, float] | None = None
    seen = 0
    order = np.random.default_rng([request.seed, 2])
    for batch in request.task.batches("train", batch_size, order):
        for part in chunks(module, batch, chunk):
            outputs = module(part.inputs, taps)
            by_tap = by_tap or scales(heads, {tap: outputs[tap].detach() for tap in taps})
            losses = [
                surprise(head, outputs[head.tap], by_tap[head.tap], temperature, random) for head in heads
            ]
            loss = torch.stack(losses).sum() / batch.size
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, weight in weights.items():
                if weight.grad is not None:
                    found[name] += (weight * weight.grad).square()
            for parameter in module.parameters():
                parameter.grad = None
        seen += 1
        if seen == BATCHES:
            break
    if seen == 0:
        raise AdapterError(f"Task {request.task.name!r} has no training examples to measure gradients on.")
    return {name: (total / seen).contiguous().cpu().numpy() for name, total in found.items()}
