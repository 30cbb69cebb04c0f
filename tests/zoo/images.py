"""Networks from images to images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.parts import conv


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015): skips by Concat; up by ConvTranspose or Resize."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        widths = (8, 12, 16)
        self.downs = nn.ModuleList(
            nn.Sequential(conv(i, o, 3), conv(o, o, 3))
            for i, o in zip((3, *widths[:-1]), widths, strict=True)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.raises = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 2, 2)
            if transposed
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(i, o))
            for i, o in pairs
        )
        self.ups = nn.ModuleList(nn.Sequential(conv(2 * o, o, 3), conv(o, o, 3)) for _, o in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, down in enumerate(self.downs):
            x = down(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for lift, up, skip in zip(self.raises, self.ups, skips[-2::-1], strict=True):
            x = up(torch.cat([skip, lift(x)], 1))
        return self.head(x)


def unet_transposed() -> nn.Module:
    return UNet(transposed=True)


def unet_resize() -> nn.Module:
    return UNet(transposed=False)


class DeepLab(nn.Module):
    """DeepLabV3+ (Chen et al., 2018): dilated pyramid, image pooling, low-level skip."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.low = nn.Sequential(conv(3, 12, 3, 2), conv(12, 16, 3, 2))
        self.deep = nn.Sequential(
            conv(16, 24, 3, 2), conv(24, 24, 3, dilation=2), conv(24, 24, 3, dilation=4)
        )
        self.pyramid = nn.ModuleList(
            [conv(24, 8), *(conv(24, 8, 3, dilation=rate) for rate in (2, 3)), conv(24, 8)]
        )
        self.join, self.skip = conv(32, 16), conv(16, 8)
        self.head = nn.Sequential(conv(24, 16, 3), nn.Conv2d(16, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        deep = self.deep(low)
        parts = [branch(deep) for branch in self.pyramid[:-1]]
        pooled = self.pyramid[-1](F.adaptive_avg_pool2d(deep, 1))
        parts.append(F.interpolate(pooled, size=deep.shape[2:], mode="bilinear"))
        joined = F.interpolate(self.join(torch.cat(parts, 1)), size=low.shape[2:], mode="bilinear")
        out = self.head(torch.cat([joined, self.skip(low)], 1))
        return F.interpolate(out, size=x.shape[2:], mode="bilinear")


class SuperResolution(nn.Module):
    """Sub-pixel convolution (Shi et al., 2016) with residual blocks, and pixels folded in at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)
        self.first = nn.Conv2d(12, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1))
            for _ in range(2)
        )
        self.wide = nn.Conv2d(16, 32, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.narrow = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.first(self.fold(x))
        for block in self.blocks:
            out = out + 0.1 * block(out)
        out = F.relu(self.shuffle(self.wide(out)))
        return self.shuffle(self.narrow(out))


class Stylizer(nn.Module):
    """Style transfer (Johnson et al., 2016): reflected borders, InstanceNorm, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        norm = lambda channels: nn.InstanceNorm2d(channels, affine=True)  # noqa: E731
        self.down = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), norm(8), nn.ReLU())
        self.deeper = conv(8, 16, 3, 2, norm=norm)
        self.body = nn.Sequential(conv(16, 12, 3, norm=norm), conv(12, 16, 3, norm=norm, act=nn.Identity))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), conv(16, 8, 3, norm=norm))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.deeper(self.down(x))
        return torch.tanh(self.last(self.up(out + self.body(out))))
