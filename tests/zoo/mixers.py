"""Hand-written networks that mix tokens: MLP-Mixer, EdgeNeXt, attention by einsum."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.parts import Classifier, LayerNorm2d


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, channels: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        mlp = lambda size, wide: nn.Sequential(nn.Linear(size, wide), nn.GELU(), nn.Linear(wide, size))  # noqa: E731
        self.tokens, self.channels = mlp(tokens, hidden[0]), mlp(channels, hidden[1])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


class MlpMixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al., 2021)."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 8, 8)
        self.blocks = nn.Sequential(*(MixerBlock(16, channels, (12, 32)) for _ in range(2)))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class CrossCovariance(nn.Module):
    """Attention between channels instead of tokens (El-Nouby et al., 2021)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, channels // self.heads).permute(2, 0, 3, 4, 1)
        q, k, v = F.normalize(qkv[0], dim=-1), F.normalize(qkv[1], dim=-1), qkv[2]
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.project((weights @ v).permute(0, 3, 1, 2).reshape(n, tokens, channels))


class SplitDepthwise(nn.Module):
    """EdgeNeXt's encoder (Maaz et al., 2022): depthwise convolutions in a chain of splits, then attention."""

    def __init__(self, channels: int, heads: int = 2, scales: int = 3) -> None:
        super().__init__()
        width = channels // scales
        self.width = width
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(scales - 1)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.attention = CrossCovariance(channels, heads)
        self.expand, self.project = nn.Linear(channels, 32), nn.Linear(32, channels)
        self.scales = nn.ParameterList(nn.Parameter(torch.full((channels,), 0.5)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.width, 1)
        done = [self.convs[0](parts[0])]
        for layer, part in zip(self.convs[1:], parts[1:-1], strict=True):
            done.append(layer(done[-1] + part))
        out = torch.cat([*done, parts[-1]], 1)
        n, channels, height, width = out.shape
        tokens = out.reshape(n, channels, height * width).permute(0, 2, 1)
        tokens = tokens + self.scales[0] * self.attention(self.norms[0](tokens))
        tokens = self.scales[1] * self.project(F.gelu(self.expand(self.norms[1](tokens))))
        return x + tokens.reshape(n, height, width, channels).permute(0, 3, 1, 2)


class ConvEncoder(nn.Module):
    """ConvNeXt's block: depthwise, LayerNorm, inverted bottleneck with channels last."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand, self.project = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.project(F.gelu(self.expand(out))).permute(0, 3, 1, 2)


def edgenext() -> nn.Module:
    """EdgeNeXt of two stages."""
    stem = (nn.Conv2d(3, 12, 4, 4), LayerNorm2d(12), ConvEncoder(12, 24))
    down = (LayerNorm2d(12), nn.Conv2d(12, 18, 2, 2))
    return Classifier(nn.Sequential(*stem, *down, SplitDepthwise(18)), 18)


class EinsumAttention(nn.Module):
    """Attention written with einsum throughout, on patches."""

    def __init__(self, channels: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, channels, 8, 8)
        self.norm = nn.LayerNorm(channels)
        self.q, self.k, self.v = (nn.Linear(channels, channels) for _ in range(3))
        self.project = nn.Parameter(torch.randn(heads, channels // heads, channels) * 0.2)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        q, k, v = (layer(normed).unflatten(-1, (self.heads, -1)) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bihd,bjhd->bhij", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
        out = torch.einsum("bhij,bjhd->bihd", weights, v)
        tokens = tokens + torch.einsum("bihd,hdc->bic", out, self.project)
        return self.head(tokens.mean(1))
