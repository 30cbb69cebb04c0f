"""Full-size architectures for the benchmarks: hand-written torch modules, and models of the transformers
library as their configurations come. Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Width = Callable[[int], int]
"""From a published number of channels to the one that is built."""


def published(channels: int) -> int:
    return channels


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Branches(nn.Module):
    """Hierarchical 3 x 3 convolutions of Res2Net: each reads its own slice plus the result of the one
    before."""

    def __init__(self, width: int, scale: int, stride: int) -> None:
        super().__init__()
        self.width, self.stride = width, stride
        self.convs = nn.ModuleList(conv_bn(width, width, 3, stride) for _ in range(scale - 1))
        self.pool = nn.AvgPool2d(3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = torch.split(x, self.width, 1)
        made: list[Tensor] = []
        for part, conv in zip(parts, self.convs, strict=True):
            joined = part + made[-1] if made and self.stride == 1 else part
            made.append(functional.relu(conv(joined)))
        return torch.cat([*made, self.pool(last) if self.stride > 1 else last], 1)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (plain, grouped or in branches), 1 x 1, and a shortcut."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int, scale: int) -> None:
        super().__init__()
        self.reduce = conv_bn(inputs, width * scale)
        if scale > 1:
            self.middle: nn.Module = Branches(width, scale, stride)
        else:
            self.middle = conv_bn(width, width, 3, stride, groups)
        self.expand = conv_bn(width * scale, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.middle(functional.relu(self.reduce(x))))
        return functional.relu(self.expand(y) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-50 (He et al., 2016, with the stride in the 3 x 3), ResNeXt-50 (`groups` 32, `width` 128) and
    Res2Net-50 (`scale` 4, `width` 26)."""

    def __init__(self, width: int = 64, groups: int = 1, scale: int = 1, made: Width = published) -> None:
        super().__init__()
        inputs = made(64)
        layers: list[nn.Module] = [conv_bn(3, inputs, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                outputs = made(256 << stage)
                layers.append(Bottleneck(inputs, made(width << stage), outputs, stride, groups, scale))
                inputs = outputs
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.BatchNorm2d(inputs), conv_bn(inputs, 4 * growth)
        self.grow = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.reduce(functional.relu(self.norm(x))))
        return torch.cat([x, self.grow(y)], 1)


class DenseNet(nn.Module):
    """DenseNet-121."""

    def __init__(self, blocks: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for number, depth in enumerate(blocks):
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            if number + 1 < len(blocks):
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Inverted(nn.Module):
    """MobileNetV2's block: widen, depthwise, narrow."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = [conv_bn(inputs, hidden), nn.ReLU6()] if hidden != inputs else []
        deep = [conv_bn(hidden, hidden, 3, stride, hidden), nn.ReLU6(), conv_bn(hidden, outputs)]
        self.layers = nn.Sequential(*wide, *deep)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet_v2(made: Width = published) -> nn.Module:
    """Sandler et al., 2018."""
    layers: list[nn.Module] = [conv_bn(3, made(32), 3, 2), nn.ReLU6()]
    inputs = 32
    for widen, outputs, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            hidden = made(inputs * widen)
            layers.append(Inverted(made(inputs), hidden, made(outputs), 1 if block else stride))
            inputs = outputs
    layers += [conv_bn(made(320), made(1280)), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(made(1280), 1000))


class Shuffled(nn.Module):
    """ShuffleNetV2's block: half of the channels pass by, then all are shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        source = inputs if stride > 1 else half
        self.main = nn.Sequential(
            conv_bn(source, half),
            nn.ReLU(),
            conv_bn(half, half, 3, stride, half),
            conv_bn(half, half),
            nn.ReLU(),
        )
        if stride > 1:
            self.side = nn.Sequential(
                conv_bn(inputs, inputs, 3, stride, inputs), conv_bn(inputs, half), nn.ReLU()
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            y = torch.cat([self.side(x), self.main(x)], 1)
        else:
            stays, goes = x.chunk(2, 1)
            y = torch.cat([stays, self.main(goes)], 1)
        batch, channels, height, width = y.shape
        shuffled = y.reshape(batch, 2, channels // 2, height, width).transpose(1, 2)
        return shuffled.reshape(batch, channels, height, width)


def shufflenet_v2() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 24
    for outputs, blocks in ((116, 4), (232, 8), (464, 4)):
        layers += [
            Shuffled(inputs if not block else outputs, outputs, 1 if block else 2) for block in range(blocks)
        ]
        inputs = outputs
    layers += [conv_bn(464, 1024), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]
    return nn.Sequential(*layers)


class Attention(nn.Module):
    """Queries, keys and values from one matrix, as timm writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5
        mixed = scores.softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Transformer(nn.Module):
    """ViT-B/16 with a class token."""

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width), mlp(width, 4 * width)]
            )
            for _ in range(depth)
        )
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for before, attention, between, dense in self.blocks:
            x = x + attention(before(x))
            x = x + dense(between(x))
        return self.classifier(self.norm(x)[:, 0])


def mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Mixer(nn.Module):
    """MLP-Mixer S/16."""

    def __init__(self, width: int = 512, depth: int = 8, tokens: int = 196) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.LayerNorm(width), mlp(tokens, 256), nn.LayerNorm(width), mlp(width, 2048)])
            for _ in range(depth)
        )
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for before, across, between, along in self.blocks:
            x = x + across(before(x).transpose(1, 2)).transpose(1, 2)
            x = x + along(between(x))
        return self.classifier(self.norm(x).mean(1))


class UNet(nn.Module):
    """Four levels down and up, with skip connections."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(self.twice(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * one, one, 2, 2) for one in widths[-2::-1])
        self.join = nn.ModuleList(self.twice(2 * one, one) for one in widths[-2::-1])
        self.head = nn.Conv2d(width, 2, 1)

    @staticmethod
    def twice(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(inputs, outputs, 3), nn.ReLU(), conv_bn(outputs, outputs, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for number, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if number else x)
            levels.append(x)
        for up, join, skipped in zip(self.up, self.join, levels[-2::-1], strict=True):
            x = join(torch.cat([skipped, up(x)], 1))
        return self.head(x)


class Detector(nn.Module):
    """A one-stage detector of today's make: split stages with SiLU, pooling at several reaches, a pyramid up
    and down, and box and class maps at three strides."""

    def __init__(self, width: int = 32, classes: int = 80) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.stem = self.layer(3, widths[0], 3, 2)
        stages = zip(widths, widths[1:], (1, 2, 2, 1), strict=False)
        self.stages = nn.ModuleList(
            nn.Sequential(self.layer(a, b, 3, 2), Split(b, b, depth)) for a, b, depth in stages
        )
        self.reach = self.layer(4 * widths[4], widths[4], 1)
        self.up = nn.ModuleList(
            [Split(widths[4] + widths[3], widths[3], 1), Split(widths[3] + widths[2], widths[2], 1)]
        )
        self.shrink = nn.ModuleList(
            [self.layer(widths[2], widths[2], 3, 2), self.layer(widths[3], widths[3], 3, 2)]
        )
        self.down = nn.ModuleList(
            [Split(widths[2] + widths[3], widths[3], 1), Split(widths[3] + widths[4], widths[4], 1)]
        )
        self.boxes = nn.ModuleList(self.head(one, 64) for one in widths[2:])
        self.kinds = nn.ModuleList(self.head(one, classes) for one in widths[2:])

    @staticmethod
    def layer(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(conv_bn(inputs, outputs, kernel, stride), nn.SiLU())

    def head(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(self.layer(inputs, inputs, 3), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, levels = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        pooled = [x]
        for _ in range(3):
            pooled.append(functional.max_pool2d(pooled[-1], 5, 1, 2))
        top = self.reach(torch.cat(pooled, 1))
        middle = self.up[0](torch.cat([functional.interpolate(top, scale_factor=2.0), levels[2]], 1))
        fine = self.up[1](torch.cat([functional.interpolate(middle, scale_factor=2.0), levels[1]], 1))
        middle = self.down[0](torch.cat([self.shrink[0](fine), middle], 1))
        top = self.down[1](torch.cat([self.shrink[1](middle), top], 1))
        maps = (fine, middle, top)
        return tuple(
            torch.cat([box(one), kind(one)], 1).flatten(2)
            for one, box, kind in zip(maps, self.boxes, self.kinds, strict=True)
        )


class Split(nn.Module):
    """Half of the channels go through blocks with shortcuts, and every stop on the way is kept."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.half = outputs // 2
        self.before = Detector.layer(inputs, outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(Detector.layer(self.half, self.half, 3), Detector.layer(self.half, self.half, 3))
            for _ in range(depth)
        )
        self.after = Detector.layer((2 + depth) * self.half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.before(x).split(self.half, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.after(torch.cat(parts, 1))


class Logits(nn.Module):
    """A model of the transformers library with a tensor in and a tensor out."""

    def __init__(self, family: str, head: str = "ForImageClassification") -> None:
        super().__init__()
        import transformers

        config: Any = getattr(transformers, f"{family}Config")()
        self.model = getattr(transformers, f"{family}{head}")(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


@dataclass(frozen=True)
class Architecture:
    build: Callable[[], nn.Module]
    side: int = 224
    """Of the square image that it is traced with."""


ARCHITECTURES: dict[str, Architecture] = {
    "resnet50": Architecture(ResNet),
    "densenet121": Architecture(DenseNet),
    "vit-b16": Architecture(Transformer),
    "mobilenetv2": Architecture(mobilenet_v2),
    "shufflenetv2": Architecture(shufflenet_v2),
    "resnext50": Architecture(lambda: ResNet(width=128, groups=32)),
    "res2net50": Architecture(lambda: ResNet(width=26, scale=4)),
    "yolo-like": Architecture(Detector, side=320),
    "mlp-mixer-s16": Architecture(Mixer),
    "unet": Architecture(UNet, side=128),
    "transformers-vit": Architecture(lambda: Logits("ViT")),
    "transformers-swin": Architecture(lambda: Logits("Swin")),
    "transformers-convnext": Architecture(lambda: Logits("ConvNext")),
    "transformers-segformer": Architecture(lambda: Logits("Segformer", "ForSemanticSegmentation")),
}
