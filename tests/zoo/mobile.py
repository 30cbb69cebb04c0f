"""Networks for phones: depthwise convolutions, gates, shuffles, cheap channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.parts import Activation, Classifier, SqueezeExcite, conv


class InvertedResidual(nn.Module):
    """Expand, depthwise, gate, project (Howard et al., 2019)."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int, act: Activation, gate: Activation | None
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, middle, act=act),
            conv(middle, middle, 3, stride, groups=middle, act=act),
            SqueezeExcite(middle, 4, gate) if gate else nn.Identity(),
            conv(middle, outputs, act=nn.Identity),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v3() -> nn.Module:
    """MobileNetV3: Hardswish, Hardsigmoid gates."""
    return Classifier(
        nn.Sequential(
            conv(3, 8, 3, 2, act=nn.Hardswish),
            InvertedResidual(8, 24, 12, 2, nn.ReLU, None),
            InvertedResidual(12, 32, 12, 1, nn.Hardswish, nn.Hardsigmoid),
            InvertedResidual(12, 32, 16, 1, nn.Hardswish, nn.Hardsigmoid),
            conv(16, 32, act=nn.Hardswish),
        ),
        32,
    )


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle with shapes read at run time, as exporters see it."""
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleV1Unit(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        made = outputs - inputs if stride == 2 else outputs
        self.first = conv(inputs, middle, groups=groups)
        self.depthwise = conv(middle, middle, 3, stride, groups=middle, act=nn.Identity)
        self.last = conv(middle, made, groups=groups, act=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        out = self.last(self.depthwise(shuffle(self.first(x), self.groups)))
        if self.stride == 2:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), out], 1))
        return F.relu(x + out)


def shufflenet_v1() -> nn.Module:
    """ShuffleNet (Zhang et al., 2018)."""
    units = (
        ShuffleV1Unit(12, 12, 36, 2, 3),
        ShuffleV1Unit(36, 12, 36, 1, 3),
        ShuffleV1Unit(36, 18, 36, 1, 3),
    )
    return Classifier(nn.Sequential(conv(3, 12, 3, 2), *units), 36)


class ShuffleV2Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        branch = inputs if stride == 2 else half
        self.right = nn.Sequential(
            conv(branch, half), conv(half, half, 3, stride, groups=half, act=nn.Identity), conv(half, half)
        )
        self.left = nn.Sequential(
            conv(inputs, inputs, 3, stride, groups=inputs, act=nn.Identity), conv(inputs, half)
        )
        if stride == 1:
            self.left = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.stride == 1 else (x, x)
        return shuffle(torch.cat([self.left(left), self.right(right)], 1), 2)


def shufflenet_v2() -> nn.Module:
    """ShuffleNetV2 (Ma et al., 2018)."""
    units = (
        ShuffleV2Unit(12, 24, 2),
        ShuffleV2Unit(24, 24, 1),
        ShuffleV2Unit(24, 24, 1),
        ShuffleV2Unit(24, 32, 2),
    )
    return Classifier(nn.Sequential(conv(3, 12, 3), *units, conv(32, 48)), 48)


class Ghost(nn.Module):
    """Half of the channels by a convolution, the rest cheaply from those, cut to size."""

    def __init__(self, inputs: int, outputs: int, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.outputs = outputs
        half = (outputs + 1) // 2
        self.primary = conv(inputs, half, act=act)
        self.cheap = conv(half, half, 3, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], 1)[:, : self.outputs]


class GhostBottleneck(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int, stride: int) -> None:
        super().__init__()
        down = conv(middle, middle, 3, stride, groups=middle, act=nn.Identity)
        self.body = nn.Sequential(
            Ghost(inputs, middle),
            down if stride == 2 else nn.Identity(),
            SqueezeExcite(middle, 4, nn.Hardsigmoid),
            Ghost(middle, outputs, nn.Identity),
        )
        self.shortcut = nn.Sequential(
            conv(inputs, inputs, 3, stride, groups=inputs, act=nn.Identity),
            conv(inputs, outputs, act=nn.Identity),
        )
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def ghostnet() -> nn.Module:
    """GhostNet (Han et al., 2020)."""
    blocks = (GhostBottleneck(12, 24, 15, 2), GhostBottleneck(15, 30, 15, 1), GhostBottleneck(15, 32, 20, 2))
    return Classifier(nn.Sequential(conv(3, 12, 3, 2), *blocks, conv(20, 32)), 32)


class RepMixer(nn.Module):
    """FastViT's token mixer, merged as for deployment: one depthwise convolution, then an FFN."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mixer = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.local = conv(channels, channels, 7, groups=channels, act=nn.Identity)
        self.expand, self.project = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x)
        return x + self.scale * self.project(F.gelu(self.expand(self.local(x))))


def fastvit() -> nn.Module:
    """FastViT-like (Vasu et al., 2023)."""
    stem = (conv(3, 12, 3, 2, act=nn.GELU), conv(12, 12, 3, 2, groups=12, act=nn.GELU), conv(12, 16))
    down = (conv(16, 16, 7, 2, groups=16, act=nn.GELU), conv(16, 24, act=nn.GELU))
    return Classifier(nn.Sequential(*stem, RepMixer(16, 32), *down, RepMixer(24, 48)), 24)
