"""Networks that join and divide branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.parts import Classifier, conv


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    """DenseNet (Huang et al., 2017): two blocks with a transition."""
    layers: list[nn.Module] = [nn.Conv2d(3, 12, 3, 2, 1, bias=False)]
    channels = 12
    for block in range(2):
        for _ in range(3):
            layers.append(DenseLayer(channels, 6))
            channels += 6
        if block == 0:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 14, 1), nn.AvgPool2d(2)]
            channels = 14
    return Classifier(nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU()), channels)


class InceptionBlock(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.point = conv(inputs, width)
        self.small = nn.Sequential(conv(inputs, width), conv(width, width + 2, 3))
        self.large = nn.Sequential(conv(inputs, width // 2), conv(width // 2, width, 5))
        self.pooled = conv(inputs, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(F.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.point(x), self.small(x), self.large(x), pooled], 1)


def inception() -> nn.Module:
    """GoogLeNet's blocks (Szegedy et al., 2015)."""
    blocks = (InceptionBlock(12, 8), nn.MaxPool2d(2), InceptionBlock(30, 8))
    return Classifier(nn.Sequential(conv(3, 12, 3, 2), *blocks), 30)


class HighResolution(nn.Module):
    """HRNet (Wang et al., 2021): two resolutions that exchange by sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 12, 3, 2)
        self.down = conv(12, 20, 3, 2)
        self.high = nn.ModuleList(conv(12, 12, 3) for _ in range(2))
        self.low = nn.ModuleList(conv(20, 20, 3) for _ in range(2))
        self.raise_ = nn.ModuleList(conv(20, 12, act=nn.Identity) for _ in range(2))
        self.lower = nn.ModuleList(conv(12, 20, 3, 2, act=nn.Identity) for _ in range(2))
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem(x)
        low = self.down(high)
        for deep, shallow, up, down in zip(self.high, self.low, self.raise_, self.lower, strict=True):
            high, low = deep(high), shallow(low)
            high, low = (
                F.relu(high + F.interpolate(up(low), scale_factor=2, mode="nearest")),
                F.relu(low + down(high)),
            )
        low = F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(torch.cat([high, low], 1))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs, 3), conv(outputs, outputs, 3, act=nn.Identity))
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, act=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Tree(nn.Module):
    """Deep layer aggregation (Yu et al., 2018): roots join both subtrees and what came before."""

    def __init__(self, inputs: int, outputs: int, depth: int, before: int = 0) -> None:
        super().__init__()
        self.depth = depth
        if depth == 1:
            self.left, self.right = Residual(inputs, outputs), Residual(outputs, outputs)
            self.root = conv(2 * outputs + before, outputs)
        else:
            self.left = Tree(inputs, outputs, depth - 1)
            self.right = Tree(outputs, outputs, depth - 1, before + outputs)

    def forward(self, x: Tensor, before: tuple[Tensor, ...] = ()) -> Tensor:
        left = self.left(x)
        if self.depth > 1:
            return self.right(left, (*before, left))
        return self.root(torch.cat([self.right(left), left, *before], 1))


def dla() -> nn.Module:
    """DLA of two levels."""
    return Classifier(nn.Sequential(conv(3, 8, 3, 2), Tree(8, 12, 1), nn.MaxPool2d(2), Tree(12, 16, 2)), 16)
