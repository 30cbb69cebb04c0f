"""Optimizers and weight averaging, over flat lists of tensors.

torch.optim is not used: importing it takes as long as importing torch, and masks, rollback and averaging need
the state at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evonnx.errors import AdapterError
from evonnx_training.schedule import OPTIMIZERS

_MOMENTUM = 0.9
_BETAS = (0.9, 0.999)
_EPS = 1e-8

Factor = float | Tensor
"""A number that changes from step to step. As a scalar tensor on the parameters' device it may be read by
work that is captured once and replayed; results then differ by rounding."""


class Optimizer:
    """SGD with Nesterov momentum, or Adam with decoupled weight decay; masked entries are exact zeros after
    each step.

    Args:
        parameters: what to train.
        masks: per parameter, a float tensor of 0 and 1, or None where all entries are free.
        decayed: per parameter, whether weight decay applies.
        decay: weight decay.
        kind: "sgd" or "adam".
        clip: largest norm of all gradients together; 0: no clipping.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        decayed: Sequence[bool],
        decay: float,
        kind: str,
        clip: float,
    ) -> None:
        if kind not in OPTIMIZERS:
            raise AdapterError(f"Unknown optimizer {kind!r}; the torch adapter has {', '.join(OPTIMIZERS)}.")
        self.kind, self.clip = kind, clip
        self.parameters = list(parameters)
        self._masked_at = [i for i, mask in enumerate(masks) if mask is not None]
        self._masked = [self.parameters[i] for i in self._masked_at]
        self._masks = [mask for mask in masks if mask is not None]
        self._decay = decay
        self._decayed = [i for i, chosen in enumerate(decayed) if chosen and decay > 0]
        self._first = [torch.zeros_like(p) for p in self.parameters]
        self._second = [torch.zeros_like(p) for p in self.parameters] if kind == "adam" else []
        self.count = 0
        self.apply_masks()

    def momenta(self) -> dict[str, Tensor]:
        """What it remembers of earlier steps, beside `count`: the tensors themselves."""
        return {
            f"{order}/{index}": tensor
            for order, tensors in (("first", self._first), ("second", self._second))
            for index, tensor in enumerate(tensors)
        }

    def restart(self) -> None:
        """Forget momenta; the tensors stay where they are, because captured work may write to them."""
        for tensor in (*self._first, *self._second):
            tensor.zero_()
        self.count = 0

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set masked entries to exact zeros."""
        if self._masked:
            torch._foreach_mul_(self._masked, self._masks)

    def step(self, rate: float) -> None:
        """Update from `.grad` and drop the gradients."""
        self.update(self.factors(rate))

    def factors(self, rate: float) -> tuple[float, ...]:
        """Count a step, and give the numbers that its `update` needs."""
        if self.kind == "sgd":
            return (rate,)
        self.count += 1
        first, second = _BETAS
        return (
            1 - rate * self._decay,
            math.sqrt(1 - second**self.count),
            rate / (1 - first**self.count),
        )

    @torch.no_grad()
    def update(self, factors: Sequence[Factor]) -> None:
        """The work of a step on the device: nothing in it waits for the device or depends on values."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        if self._masked:
            torch._foreach_mul_([gradients[i] for i in self._masked_at], self._masks)
        if self.clip > 0:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            torch._foreach_mul_(gradients, torch.clamp(self.clip / (norm + 1e-6), max=1.0))
        if self.kind == "sgd":
            self._sgd(gradients, *factors)
        else:
            self._adam(gradients, *factors)
        self.apply_masks()
        for parameter in self.parameters:
            parameter.grad = None

    def _sgd(self, gradients: list[Tensor], rate: Factor) -> None:
        if self._decayed:
            weights = [self.parameters[i] for i in self._decayed]
            torch._foreach_add_([gradients[i] for i in self._decayed], weights, alpha=self._decay)
        torch._foreach_mul_(self._first, _MOMENTUM)
        torch._foreach_add_(self._first, gradients)
        torch._foreach_add_(gradients, self._first, alpha=_MOMENTUM)
        if isinstance(rate, Tensor):
            torch._foreach_mul_(gradients, rate)
            torch._foreach_sub_(self.parameters, gradients)
        else:
            torch._foreach_add_(self.parameters, gradients, alpha=-rate)

    def _adam(self, gradients: list[Tensor], shrink: Factor, scale: Factor, rate: Factor) -> None:
        first, second = _BETAS
        torch._foreach_lerp_(self._first, gradients, 1 - first)
        torch._foreach_mul_(self._second, second)
        torch._foreach_addcmul_(self._second, gradients, gradients, 1 - second)
        if self._decayed:
            torch._foreach_mul_([self.parameters[i] for i in self._decayed], shrink)
        divisor = torch._foreach_sqrt(self._second)
        torch._foreach_div_(divisor, scale)
        torch._foreach_add_(divisor, _EPS)
        if isinstance(rate, Tensor):
            steps = torch._foreach_div(self._first, divisor)
            torch._foreach_mul_(steps, rate)
            torch._foreach_sub_(self.parameters, steps)
        else:
            torch._foreach_addcdiv_(self.parameters, self._first, divisor, -rate)


class Average:
    """Exponential moving average of parameters; young averages follow faster."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.values = [p.detach().clone() for p in self.parameters]
        self.count = 0

    def named(self) -> dict[str, Tensor]:
        """The averages themselves."""
        return {str(index): value for index, value in enumerate(self.values)}

    def update(self) -> None:
        """Take in the parameters as they stand."""
        self.take(self.share())

    def share(self) -> float:
        """Count an update, and give the share of the new values in it."""
        self.count += 1
        return 1 - min(self.decay, (1 + self.count) / (10 + self.count))

    @torch.no_grad()
    def take(self, share: Factor) -> None:
        """The work of an update on the device."""
        if isinstance(share, Tensor):
            towards = torch._foreach_sub([p.detach() for p in self.parameters], self.values)
            torch._foreach_mul_(towards, share)
            torch._foreach_add_(self.values, towards)
        else:
            torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], share)

    @torch.no_grad()
    def store(self) -> None:
        """Write the average into the parameters."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, to come back to."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def restore(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Write saved copies back in place."""
    for name, tensor in tensors.items():
        tensor.copy_(saved[name])
