"""DetectNet: GoogLeNet up to inception_5b without the poolings after stride 16, and two 1x1 convolutions.

Channels as in table 1 of Szegedy et al. (2015), times a width multiplier; batch normalisation behind each
convolution in place of local response normalisation, as the ancestor is trained from scratch.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

STRIDE = 16
"""Pixels per cell: conv1, and three poolings."""

INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; behind the pooling."""


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side: 1x1, 3x3, 5x5, and a pooling with 1x1."""

    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = channels
        self.one = Unit(inputs, one, 1)
        self.reduce3, self.three = Unit(inputs, reduce3, 1), Unit(reduce3, three, 3)
        self.reduce5, self.five = Unit(inputs, reduce5, 1), Unit(reduce5, five, 5)
        self.pooled = Unit(inputs, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = F.max_pool2d(x, 3, 1, 1)
        branches = [self.one(x), self.three(self.reduce3(x)), self.five(self.reduce5(x)), self.pooled(pool)]
        return torch.cat(branches, 1)


class DetectNet(nn.Module):
    """Images [N, 3, H, W] in [0, 1] to coverage [N, classes, H/16, W/16] in [0, 1] and boxes, 4 channels.

    Args:
        classes: how many kinds of objects.
        width: multiplies every number of channels; 1 is GoogLeNet.
    """

    def __init__(self, classes: int = 1, width: float = 1.0) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(4, round(channels * width))

        self.conv1 = Unit(3, scaled(64), 7, 2)
        self.reduce2 = Unit(scaled(64), scaled(64), 1)
        self.conv2 = Unit(scaled(64), scaled(192), 3)
        inputs = scaled(192)
        self.inceptions = nn.ModuleDict()
        for name, channels in INCEPTIONS.items():
            thinner = tuple(scaled(one) for one in channels)
            self.inceptions[name] = Inception(inputs, thinner)
            inputs = sum(thinner[branch] for branch in (0, 2, 4, 5))
        self.coverage = nn.Conv2d(inputs, classes, 1)
        self.boxes = nn.Conv2d(inputs, 4, 1)
        # Few cells hold objects: starting near that rate keeps the first steps calm (Lin et al., 2017).
        nn.init.constant_(self.coverage.bias, -3.0)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.max_pool2d(self.conv1(image), 3, 2, 1)
        x = F.max_pool2d(self.conv2(self.reduce2(x)), 3, 2, 1)
        for name, inception in self.inceptions.items():
            if name == "4a":
                x = F.max_pool2d(x, 3, 2, 1)
            x = inception(x)
        return torch.sigmoid(self.coverage(x)), self.boxes(x)
