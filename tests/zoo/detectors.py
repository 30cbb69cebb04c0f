"""CSP backbones and YOLO detectors with their heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.parts import Classifier, conv


def silu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return conv(inputs, outputs, kernel, stride, groups=groups, act=nn.SiLU)


class Bottleneck(nn.Module):
    def __init__(self, channels: int, add: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.add = silu(channels, channels), silu(channels, channels, 3), add

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x))
        return x + out if self.add else out


class C3(nn.Module):
    """Cross-stage partial block: one branch convolved, one passed by."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, add: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.left, self.right = silu(inputs, half), silu(inputs, half)
        self.body = nn.Sequential(*(Bottleneck(half, add) for _ in range(depth)))
        self.join = silu(2 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.body(self.left(x)), self.right(x)], 1))


class Partial(nn.Module):
    """CSPNet's own form (Wang et al., 2020): the feature map is cut in two by index."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.expand = conv(channels, channels, act=lambda: nn.LeakyReLU(0.1))
        self.body = nn.Sequential(Bottleneck(self.half), Bottleneck(self.half))
        self.join = conv(channels, channels, act=lambda: nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        left, right = x[:, : self.half], x[:, self.half :]
        return self.join(torch.cat([self.body(right), left], 1))


def csp_darknet() -> nn.Module:
    """CSPDarknet with Mish."""
    stem = conv(3, 12, 3, act=nn.Mish)
    return Classifier(
        nn.Sequential(stem, silu(12, 16, 3, 2), Partial(16), silu(16, 24, 3, 2), Partial(24)), 24
    )


class Focus(nn.Module):
    """Every second pixel in four phases, joined as channels."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = silu(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        phases = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.conv(torch.cat(phases, 1))


class SPPF(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = silu(inputs, inputs // 2), silu(inputs * 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return self.last(torch.cat(parts, 1))


def grid(height: int, width: int) -> Tensor:
    """Cell coordinates, shape (height, width, 2)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], 2).float()


class Yolo5(nn.Module):
    """YOLOv5-like: two scales, anchors, boxes decoded in the graph."""

    def __init__(self, classes: int = 3, anchors: int = 2) -> None:
        super().__init__()
        self.anchors, self.values = anchors, classes + 5
        self.focus = Focus(8)
        self.p3 = nn.Sequential(silu(8, 12, 3, 2), C3(12, 12))
        self.p4 = nn.Sequential(silu(12, 16, 3, 2), C3(16, 16), SPPF(16, 16))
        self.lateral = silu(16, 12)
        self.up = C3(24, 12, add=False)
        self.down, self.deep = silu(12, 12, 3, 2), C3(24, 16, add=False)
        self.heads = nn.ModuleList(nn.Conv2d(c, anchors * self.values, 1) for c in (12, 16))
        self.register_buffer("sizes", torch.rand(2, anchors, 2) * 16 + 4)

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.p3(self.focus(x))
        lateral = self.lateral(self.p4(p3))
        up = self.up(torch.cat([F.interpolate(lateral, scale_factor=2.0), p3], 1))
        maps = (up, self.deep(torch.cat([self.down(up), lateral], 1)))
        found = []
        for level, (head, features) in enumerate(zip(self.heads, maps, strict=True)):
            out = head(features)
            n, _, height, width = out.shape
            out = out.view(n, self.anchors, self.values, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            place, size, rest = out.split((2, 2, self.values - 4), 4)
            place = (place * 2 - 0.5 + grid(height, width)) * (4 * 2**level)
            size = (size * 2) ** 2 * self.sizes[level].view(1, self.anchors, 1, 1, 2)
            found.append(torch.cat([place, size, rest], 4).view(n, -1, self.values))
        return torch.cat(found, 1)


class C2f(nn.Module):
    """Each bottleneck's result is kept; all are joined."""

    def __init__(self, inputs: int, outputs: int, depth: int = 2, add: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.first = silu(inputs, 2 * half)
        self.body = nn.ModuleList(Bottleneck(half, add) for _ in range(depth))
        self.last = silu((2 + depth) * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for layer in self.body:
            parts.append(layer(parts[-1]))
        return self.last(torch.cat(parts, 1))


class PositionAttention(nn.Module):
    """YOLO11's attention over pixels, with a depthwise positional term from v."""

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.size = heads, channels // heads
        self.key = self.size // 2
        self.qkv = conv(channels, channels + 2 * heads * self.key, act=nn.Identity)
        self.position = conv(channels, channels, 3, groups=channels, act=nn.Identity)
        self.project = conv(channels, channels, act=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(x).view(n, self.heads, 2 * self.key + self.size, h * w)
        q, k, v = qkv.split([self.key, self.key, self.size], 2)
        weights = (q.transpose(-2, -1) @ k * self.key**-0.5).softmax(-1)
        out = (v @ weights.transpose(-2, -1)).view(n, c, h, w)
        return self.project(out + self.position(v.reshape(n, c, h, w)))


class C2PSA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.half = half
        self.first, self.last = silu(channels, channels), silu(channels, channels)
        self.attention = PositionAttention(half)
        self.mlp = nn.Sequential(silu(half, 2 * half), conv(2 * half, half, act=nn.Identity))

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).split((self.half, self.half), 1)
        right = right + self.attention(right)
        return self.last(torch.cat([left, right + self.mlp(right)], 1))


class Yolo8(nn.Module):
    """YOLOv8-like: no anchors, box sides as distributions whose mean a fixed convolution takes."""

    bins = 8

    def __init__(self, classes: int = 3, attention: bool = False) -> None:
        super().__init__()
        self.classes = classes
        self.p3 = nn.Sequential(silu(3, 8, 3, 2), silu(8, 12, 3, 2), C2f(12, 12))
        self.p4 = nn.Sequential(silu(12, 16, 3, 2), C2f(16, 16, 1), SPPF(16, 16))
        self.attention = C2PSA(16) if attention else nn.Identity()
        self.up = C2f(28, 12, 1, add=False)
        self.down, self.deep = silu(12, 12, 3, 2), C2f(28, 16, 1, add=False)
        box = lambda c: nn.Sequential(silu(c, 12, 3), nn.Conv2d(12, 4 * self.bins, 1))  # noqa: E731
        name = lambda c: nn.Sequential(silu(c, c, 3, groups=c), silu(c, 8), nn.Conv2d(8, classes, 1))  # noqa: E731
        self.boxes = nn.ModuleList(box(c) for c in (12, 16))
        self.names = nn.ModuleList(name(c) for c in (12, 16))
        self.mean = nn.Conv2d(self.bins, 1, 1, bias=False)
        self.mean.weight.data = torch.arange(self.bins).float().view(1, self.bins, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.p3(x)
        p4 = self.attention(self.p4(p3))
        up = self.up(torch.cat([F.interpolate(p4, scale_factor=2.0), p3], 1))
        maps = (up, self.deep(torch.cat([self.down(up), p4], 1)))
        joined, centres, strides = [], [], []
        for level, (box, name, features) in enumerate(zip(self.boxes, self.names, maps, strict=True)):
            out = torch.cat([box(features), name(features)], 1)
            joined.append(out.view(out.shape[0], 4 * self.bins + self.classes, -1))
            cells = grid(out.shape[2], out.shape[3]).view(-1, 2) + 0.5
            centres.append(cells)
            strides.append(torch.full((cells.shape[0], 1), 4.0 * 2**level))
        boxes, scores = torch.cat(joined, 2).split((4 * self.bins, self.classes), 1)
        n, _, cells = boxes.shape
        sides = boxes.view(n, 4, self.bins, cells).transpose(2, 1).softmax(1)
        near, far = self.mean(sides).view(n, 4, cells).chunk(2, 1)
        centre, stride = torch.cat(centres).t()[None], torch.cat(strides).t()[None]
        first, last = centre - near, centre + far
        found = torch.cat([(first + last) / 2, last - first], 1) * stride
        return torch.cat([found, scores.sigmoid()], 1)


def yolo11() -> nn.Module:
    """YOLO11-like: as YOLOv8, with attention on the last map."""
    return Yolo8(attention=True)
