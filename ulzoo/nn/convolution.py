"""Convolutions and norms over (h, w) and (t, h, w): full or factorised in time, causal or not.

Over a grid of one frame nothing is convolved in time, so the layers of such a video are those of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.nn.grid import CONV, zero_init

ConvolutionKind = Literal["full", "factorised"]


@dataclass(frozen=True)
class Convolutions:
    """How the convolutions of a network treat time.

    Attributes:
        kind: "full" kernels of 3×3×3, or "factorised", 1×3×3 and then 3×1×1 (arXiv 1711.11248).
        causal: no output depends on later frames than its own: time is padded at its beginning only.
    """

    kind: ConvolutionKind = "full"
    causal: bool = False

    def same(self, size: Sequence[int], in_channels: int, out_channels: int) -> nn.Module:
        """A convolution of width 3 that keeps the grid `size`."""
        if len(size) == 2:
            return nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if size[0] == 1:
            return nn.Conv3d(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1))
        past = [nn.ConstantPad3d((0, 0, 0, 0, 2, 0), 0.0)] if self.causal else []  # else the convolution pads itself
        around = 0 if self.causal else 1
        if self.kind == "full":
            return nn.Sequential(*past, nn.Conv3d(in_channels, out_channels, 3, padding=(around, 1, 1)))
        in_time = nn.Conv3d(out_channels, out_channels, (3, 1, 1), padding=(around, 0, 0))
        with torch.no_grad():  # starts as the frame itself, so that the network starts as one of images on every frame
            nn.init.dirac_(in_time.weight[:, :, 1:] if self.causal else in_time.weight)
            if self.causal:
                in_time.weight[:, :, 0] = 0
        in_space = nn.Conv3d(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1))
        return nn.Sequential(in_space, *past, in_time)

    def norm(self, size: Sequence[int], channels: int, affine: bool = True) -> nn.GroupNorm:
        """Groups of 16 channels or, where that does not divide, of the largest divisor up to 16."""
        kind = FrameNorm if self.causal and len(size) == 3 else nn.GroupNorm
        return kind(channels // gcd(channels, 16), channels, affine=affine)


class FrameNorm(nn.GroupNorm):
    """Group norm of each frame separately, (B, C, T, H, W): statistics over time would leak the future."""

    def forward(self, x: Tensor) -> Tensor:
        frames = super().forward(x.transpose(1, 2).flatten(0, 1))  # (B · T, C, H, W)
        return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


def downsample_conv(in_channels: int, out_channels: int, factor: Sequence[int], overlap: int = 0) -> nn.Module:
    """A convolution that makes the grid coarser by whole factors.

    Its kernels are as large as the factors, and in space larger by `overlap` on each side.
    """
    conv: type[nn.Module] = CONV[len(factor)]
    margins = (*[0] * (len(factor) - 2), overlap, overlap)
    kernel = tuple(side + 2 * margin for side, margin in zip(factor, margins, strict=True))
    return conv(in_channels, out_channels, kernel, stride=tuple(factor), padding=margins)


def zero_output(layer: nn.Module) -> nn.Module:
    """Zero the output of a convolution of `Convolutions.same`, keeping the gradient of its first part."""
    last = layer[-1] if isinstance(layer, nn.Sequential) else layer
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return layer


IMAGE = Convolutions()


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, added to the input; a condition scales and shifts after the second norm.

    Args:
        size: the grid, (h, w) or (t, h, w).
        convolutions: how the convolutions treat time.
    """

    def __init__(
        self,
        size: Sequence[int],
        in_channels: int,
        out_channels: int,
        cond_width: int = 0,
        dropout: float = 0.0,
        convolutions: Convolutions = IMAGE,
    ):
        super().__init__()
        self.norm1 = convolutions.norm(size, in_channels)
        self.norm2 = convolutions.norm(size, out_channels, affine=cond_width == 0)
        self.conv1 = convolutions.same(size, in_channels, out_channels)
        self.conv2 = zero_output(convolutions.same(size, out_channels, out_channels))
        self.modulation = zero_init(nn.Linear(cond_width, 2 * out_channels)) if cond_width else None
        self.dropout = nn.Dropout(dropout)
        same_width = in_channels == out_channels
        self.skip = nn.Identity() if same_width else CONV[len(size)](in_channels, out_channels, 1)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.modulation is not None:
            h = scale_and_shift(h, self.modulation(cond))
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


def scale_and_shift(h: Tensor, modulation: Tensor) -> Tensor:
    """h · (1 + scale) + shift, (B, C, ...), by the shift and scale of each channel, (B, 2C)."""
    shift, scale = modulation.reshape(len(h), -1, *[1] * (h.ndim - 2)).chunk(2, dim=1)
    return h * (1 + scale) + shift


PIXEL_BLOCKS = 2
"""Residual blocks of a `PixelHead`; with one, the borders of patches are still faintly visible."""


class PixelHead(nn.Module):
    """Convolutions from features of every pixel, and x_t, to a prediction; it starts at zero.

    Features that a linear layer unfolds from the tokens of patches know nothing of neighbouring patches; the
    convolutions reach across their borders, and see x_t in full resolution. Not in the paper.

    Args:
        size: the grid of pixels, (h, w) or (t, h, w).
        channels: of x_t and of the prediction.
        width: channels of the features.
        cond_width: channels of the condition.
        convolutions: how the convolutions treat time.
    """

    def __init__(
        self,
        size: Sequence[int],
        channels: tuple[int, int],
        width: int,
        cond_width: int,
        convolutions: Convolutions = IMAGE,
    ):
        super().__init__()
        self.stem = convolutions.same(size, channels[0], width)
        self.blocks = nn.ModuleList(
            ResBlock(size, width, width, cond_width, convolutions=convolutions) for _ in range(PIXEL_BLOCKS)
        )
        self.norm = convolutions.norm(size, width)
        self.out = zero_output(convolutions.same(size, width, channels[1]))

    def forward(self, features: Tensor, x_t: Tensor, cond: Tensor) -> Tensor:
        layout = torch.channels_last if x_t.ndim == 4 else torch.channels_last_3d  # convolutions are fastest in it
        h = features.contiguous(memory_format=layout) + self.stem(x_t.contiguous(memory_format=layout))
        for block in self.blocks:
            h = block(h, cond)
        return self.out(F.silu(self.norm(h)))
