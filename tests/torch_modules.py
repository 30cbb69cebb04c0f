"""Small torch modules of five families, as users write them, for plans of one's own model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def _norm(channels: int) -> nn.BatchNorm2d:
    """A normalisation that looks trained: statistics and scales of their own."""
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.3, 0.3)
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
    return norm


class Residual(nn.Module):
    """Two convolutions beside a shortcut, projected where widths differ."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = _norm(outputs)
        self.downsample = (
            None
            if stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + shortcut)


class TinyResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1, bias=False), _norm(12), nn.ReLU())
        self.layers = nn.Sequential(Residual(12, 12), Residual(12, 20, 2), Residual(20, 20))
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(self.stem(x)).mean((2, 3)))


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 6, 1)
        self.expand = nn.Conv2d(6, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(functional.relu(self.reduce(pooled))))


class Inverted(nn.Module):
    """Expand, filter each channel, excite, project."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 2 * inputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            _norm(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            _norm(hidden),
            nn.ReLU6(),
            Squeeze(hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            _norm(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class TinyMobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 10, 3, 2, 1, bias=False),
            _norm(10),
            nn.ReLU6(),
            Inverted(10, 10, 1),
            Inverted(10, 14, 2),
            Inverted(14, 14, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(14, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


class Attention(nn.Module):
    """Self-attention with queries, keys and values from one matrix, sizes kept as attributes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).reshape(batch, tokens, -1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, attention: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TinyViT(nn.Module):
    def __init__(self, attention: Callable[[int, int], nn.Module] = Attention) -> None:
        super().__init__()
        width = 24
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, 17, width) * 0.2)
        self.blocks = nn.ModuleList(Block(width, 4, attention) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), _norm(outputs), nn.ReLU()),
        *(nn.Conv2d(outputs, outputs, 3, padding=1), _norm(outputs), nn.ReLU()),
    )


class TinyUNet(nn.Module):
    """One step up by a transposed convolution, the other by resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _double(3, 8), _double(8, 12), _double(12, 16)
        self.up2 = nn.ConvTranspose2d(16, 12, 2, 2)
        self.join2, self.join1 = _double(24, 12), _double(20, 8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        low = self.bottom(functional.max_pool2d(two, 2))
        low = self.join2(torch.cat([two, self.up2(low)], 1))
        up = functional.interpolate(low, scale_factor=2, mode="nearest")
        return self.last(self.join1(torch.cat([up, one], 1)))


class ConvUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.bn(self.conv(x)))


class PartialStage(nn.Module):
    """Two branches of a stage, one with a residual, put side by side (C2f without a split, as CSP)."""

    def __init__(self, width: int, *, split: bool = False) -> None:
        super().__init__()
        self.split, self.half = split, width // 2
        if split:
            self.enter = ConvUnit(width, width, 1)
        else:
            self.left, self.right = ConvUnit(width, width // 2, 1), ConvUnit(width, width // 2, 1)
        self.one, self.two = ConvUnit(width // 2, width // 2), ConvUnit(width // 2, width // 2)
        self.leave = ConvUnit(3 * (width // 2), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).chunk(2, 1) if self.split else (self.left(x), self.right(x))
        return self.leave(torch.cat([left, right, right + self.two(self.one(right))], 1))


class TinyYolo(nn.Module):
    """Two scales, a stage of each sort, pooled pyramid and one head per scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(3, 8, 3, 2)
        self.stage1 = PartialStage(8)
        self.down = ConvUnit(8, 16, 3, 2)
        self.stage2 = PartialStage(16, split=True)
        self.pool_in, self.pool_out = ConvUnit(16, 8, 1), ConvUnit(16, 16, 1)
        self.neck = ConvUnit(24, 12)
        self.heads = nn.ModuleList(
            nn.Sequential(ConvUnit(width, 8), nn.Conv2d(8, 3 * 7, 1)) for width in (12, 16)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        fine = self.stage1(self.stem(x))
        coarse = self.pool_in(self.stage2(self.down(fine)))
        coarse = self.pool_out(torch.cat([coarse, functional.max_pool2d(coarse, 5, 1, 2)], 1))
        fine = self.neck(torch.cat([functional.interpolate(coarse, scale_factor=2.0), fine], 1))
        return tuple(
            head(feature).flatten(2).transpose(1, 2)
            for head, feature in zip(self.heads, (fine, coarse), strict=True)
        )


MODULES: dict[str, Callable[[], nn.Module]] = {
    "resnet": TinyResNet,
    "mobilenet": TinyMobileNet,
    "vit": TinyViT,
    "unet": TinyUNet,
    "yolo": TinyYolo,
}
"""By family; all read images of (N, 3, 16, 16)."""
