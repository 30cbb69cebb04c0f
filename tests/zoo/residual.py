"""Residual networks: option-A shortcuts, groups, gates, chains of splits, standardised weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.parts import Classifier, SqueezeExcite, conv


class OptionA(nn.Module):
    """Shortcut without weights: every second pixel, and zero channels on both sides."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pad = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3, act=nn.Identity)
        )
        self.shortcut = nn.Identity() if stride == 1 else OptionA(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet_option_a() -> nn.Module:
    """ResNet for small images (He et al., 2016), section 4.2."""
    blocks = (BasicBlock(8, 8), BasicBlock(8, 16, 2), BasicBlock(16, 16), BasicBlock(16, 32, 2))
    return Classifier(nn.Sequential(conv(3, 8, 3), *blocks), 32)


class Bottleneck(nn.Module):
    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        stride: int = 1,
        groups: int = 1,
        gate: Callable[[int], nn.Module] | None = None,
        act: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        act = act or (lambda _: nn.ReLU())
        self.body = nn.Sequential(
            conv(inputs, middle, act=lambda: act(middle)),
            conv(middle, middle, 3, stride, groups=groups, act=lambda: act(middle)),
            conv(middle, outputs, act=nn.Identity),
        )
        self.gate = gate(outputs) if gate else nn.Identity()
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else conv(inputs, outputs, 1, stride, act=nn.Identity)
        self.act = act(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.gate(self.body(x)) + self.shortcut(x))


def resnext() -> nn.Module:
    """ResNeXt (Xie et al., 2017): grouped convolutions."""
    blocks = (Bottleneck(16, 16, 32, 1, 4), Bottleneck(32, 16, 32, 1, 4), Bottleneck(32, 32, 48, 2, 4))
    return Classifier(nn.Sequential(conv(3, 16, 3, 2), *blocks), 48)


def senet() -> nn.Module:
    """SE-ResNet (Hu et al., 2018)."""
    gate = lambda channels: SqueezeExcite(channels, channels // 4)  # noqa: E731
    blocks = (Bottleneck(16, 8, 32, gate=gate), Bottleneck(32, 8, 32, gate=gate), Bottleneck(32, 16, 48, 2))
    return Classifier(nn.Sequential(conv(3, 16, 3, 2), *blocks), 48)


def prelu_net() -> nn.Module:
    """A face-recognition style residual network: a PReLU slope per channel."""
    blocks = (Bottleneck(16, 8, 16, act=nn.PReLU), Bottleneck(16, 8, 32, 2, act=nn.PReLU))
    return Classifier(nn.Sequential(conv(3, 16, 3, 2, act=lambda: nn.PReLU(16)), *blocks), 32)


class Res2NetBlock(nn.Module):
    """Res2Net (Gao et al., 2021): each quarter is convolved together with the one before it."""

    def __init__(self, channels: int, width: int, scales: int = 4) -> None:
        super().__init__()
        self.width = width
        self.reduce = conv(channels, width * scales)
        self.convs = nn.ModuleList(conv(width, width, 3) for _ in range(scales - 1))
        self.expand = conv(width * scales, channels, act=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.reduce(x), self.width, 1)
        done = [self.convs[0](parts[0])]
        for layer, part in zip(self.convs[1:], parts[1:-1], strict=True):
            done.append(layer(done[-1] + part))
        return F.relu(x + self.expand(torch.cat([*done, parts[-1]], 1)))


def res2net() -> nn.Module:
    """Res2Net of two blocks."""
    return Classifier(nn.Sequential(conv(3, 24, 3, 2), Res2NetBlock(24, 6), Res2NetBlock(24, 8)), 24)


class StandardConv(nn.Conv2d):
    """Convolution whose weight is standardised per filter when it runs (Brock et al., 2021)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), keepdim=True, unbiased=False)
        scale = torch.rsqrt(variance * self.weight[0].numel() + 1e-4) * self.gain
        return F.conv2d(
            x, (self.weight - mean) * scale, self.bias, self.stride, self.padding, groups=self.groups
        )


class NFBlock(nn.Module):
    def __init__(self, channels: int, middle: int, beta: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                StandardConv(channels, middle, 1),
                StandardConv(middle, middle, 3, groups=2),
                StandardConv(middle, channels, 1),
            ]
        )
        self.gate = SqueezeExcite(channels, 4)
        self.gain = nn.Parameter(torch.zeros(()))
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(x) * self.beta
        for layer in self.convs[:-1]:
            out = F.silu(layer(out))
        return x + 2 * self.gate(self.convs[-1](out)) * self.gain * 0.2


def nfnet() -> nn.Module:
    """NFNet (Brock et al., 2021): no norms."""
    return Classifier(nn.Sequential(StandardConv(3, 16, 3, 2), NFBlock(16, 8, 1.0), NFBlock(16, 8, 0.9)), 16)


def groupnorm_net() -> nn.Module:
    """A residual network with GroupNorm and LeakyReLU."""
    norm = lambda channels: nn.GroupNorm(4, channels)  # noqa: E731

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                conv(channels, 24, 3, norm=norm, act=nn.LeakyReLU),
                conv(24, channels, 3, norm=norm, act=nn.Identity),
            )

        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(x + self.body(x))

    return Classifier(nn.Sequential(conv(3, 16, 3, 2, norm=norm), Block(16), Block(16)), 16)
