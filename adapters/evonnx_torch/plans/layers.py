"""What is known of torch's own layers: where their channels lie, which attributes count them, how a
normalisation behind one is folded into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evonnx.module_plan import TensorPlan
from evonnx.module_plan.plan import ClassIds

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR = (nn.Linear,)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORM_VECTORS = ("weight", "bias", "running_mean", "running_var")
RESIZED = (*CONVOLUTIONS, *TRANSPOSED, *LINEAR, *NORMS, nn.Embedding, nn.PReLU)
"""Layers of torch whose parameters can be cut; what mixes channels (LayerNorm, GroupNorm) or has sizes of its
own (attention, recurrence) keeps its widths."""


def keeps_widths(owner: nn.Module) -> bool:
    """Whether a module is one of torch's own whose widths cannot be changed from outside."""
    return type(owner).__module__.startswith("torch.") and not isinstance(owner, RESIZED)


def output_classes(owner: nn.Module, weight: TensorPlan, *, transposed: bool) -> ClassIds | None:
    """Classes of a layer's output channels, shape (O,); None where nothing is known of them.

    Args:
        owner: the layer.
        weight: what its weight is in the ancestor.
        transposed: whether the ancestor stores the weight the other way round.
    """
    if isinstance(owner, (*CONVOLUTIONS, *LINEAR)):
        return weight.axes.get(1 if transposed else 0)
    if isinstance(owner, TRANSPOSED):
        ids = weight.axes.get(1)
        return None if ids is None else ids.reshape(-1)
    return None


def output_axis(owner: nn.Module) -> int | None:
    """Axis of a layer's output that carries its channels; None: not known."""
    if isinstance(owner, LINEAR):
        return -1
    return 1 if isinstance(owner, (*CONVOLUTIONS, *TRANSPOSED, *NORMS)) else None


def sizes_after(owner: nn.Module, name: str, shape: Sequence[int], groups: int) -> Iterator[tuple[str, int]]:
    """(attribute, value) of a layer whose parameter `name` now has a shape and falls into groups."""
    if isinstance(owner, CONVOLUTIONS) and name == "weight":
        yield from (("out_channels", shape[0]), ("in_channels", shape[1] * groups), ("groups", groups))
    elif isinstance(owner, TRANSPOSED) and name == "weight":
        yield from (("in_channels", shape[0]), ("out_channels", shape[1] * groups), ("groups", groups))
    elif isinstance(owner, LINEAR) and name == "weight":
        yield from (("out_features", shape[0]), ("in_features", shape[1]))
    elif isinstance(owner, NORMS):
        yield "num_features", shape[0]
    elif isinstance(owner, nn.Embedding):
        yield from (("num_embeddings", shape[0]), ("embedding_dim", shape[1]))
    elif isinstance(owner, nn.PReLU):
        yield "num_parameters", shape[0]


def outputs_of(layer: nn.Module) -> int:
    """Output channels of a layer that a normalisation may be folded into; 0 for others."""
    if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
        return layer.out_channels
    return layer.out_features if isinstance(layer, LINEAR) else 0


@dataclass(frozen=True)
class Pair:
    """A layer and the normalisation that an exporter folded into it: y = (W x + b - mean) s + shift."""

    layer: Any
    """A convolution, transposed convolution or linear layer."""
    norm: Any
    """A BatchNorm with running statistics."""

    def scale(self) -> Tensor:
        """s = gamma / sqrt(variance + eps), shape (O,)."""
        gamma = _numbers(self.norm.weight)
        return 1 / self._deviation() if gamma is None else gamma / self._deviation()

    def spread(self, vector: Tensor) -> Tensor:
        """A vector over output channels, shaped to be multiplied with the layer's weight."""
        weight: Tensor = self.layer.weight
        rest = [1] * (weight.ndim - 2)
        if not isinstance(self.layer, TRANSPOSED):
            return vector.reshape(-1, 1, *rest)
        per_group = vector.reshape(self.layer.groups, 1, -1, *rest)
        inputs = weight.shape[0] // self.layer.groups
        return per_group.expand(-1, inputs, *per_group.shape[2:]).flatten(0, 1)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as an exporter writes them: W s, (b - mean) s + shift."""
        weight, shift, scale = _numbers(self.layer.weight), _numbers(self.norm.bias), self.scale()
        assert weight is not None
        bias = self._offset() * scale
        return weight * self.spread(scale), bias if shift is None else bias + shift

    def unfolded(self, weight: Tensor, bias: Tensor) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """(module, parameter, value) such that the pair computes a folded layer's function.

        Scale, variance and mean stay as they are, so that the pair can be trained on; where the scale is
        zero, it becomes one.
        """
        scale, gamma = self.scale(), _numbers(self.norm.weight)
        dead = scale == 0
        scale = torch.where(dead, torch.ones_like(scale), scale)
        yield self.layer, "weight", weight / self.spread(scale)
        if gamma is not None and dead.any():
            yield self.norm, "weight", torch.where(dead, self._deviation(), gamma)
        if self.norm.bias is not None:
            yield self.norm, "bias", bias - self._offset() * scale
        else:
            yield self.norm, "running_mean", self._offset() + _mean(self.norm) - bias / scale

    def _deviation(self) -> Tensor:
        variance = _numbers(self.norm.running_var)
        assert variance is not None
        deviation: Tensor = (variance + self.norm.eps).sqrt()
        return deviation

    def _offset(self) -> Tensor:
        """b - mean, shape (O,)."""
        bias = _numbers(self.layer.bias)
        return -_mean(self.norm) if bias is None else bias - _mean(self.norm)


def _numbers(given: Tensor | None) -> Tensor | None:
    """Where numpy and torch can both reach them."""
    return None if given is None else given.detach().cpu()


def _mean(norm: Any) -> Tensor:
    mean: Tensor | None = _numbers(norm.running_mean)
    assert mean is not None
    return mean


def pairs_of(module: nn.Module) -> Iterator[tuple[str, list[tuple[str, Pair]]]]:
    """For each layer its name and the normalisations that may stand behind it, the next one first."""
    named = list(module.named_modules())
    norms = [
        (place, name, norm)
        for place, (name, norm) in enumerate(named)
        if isinstance(norm, NORMS) and norm.running_var is not None
    ]
    for place, (name, layer) in enumerate(named):
        outputs = outputs_of(layer)
        fitting = [one for one in norms if outputs and one[2].num_features == outputs]
        ordered = sorted(fitting, key=lambda one: (one[0] < place, abs(one[0] - place)))
        if ordered:
            yield name, [(other, Pair(layer, norm)) for _, other, norm in ordered]


def to_array(tensor: Tensor, dtype: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """A tensor as the ancestor stores it."""
    return tensor.detach().cpu().double().numpy().astype(dtype)  # numpy alone knows no bfloat16
