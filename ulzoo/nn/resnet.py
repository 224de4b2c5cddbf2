"""Convolutional residual blocks, and the paper's ResNet encoder (paper §4)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.nn.grid import CONV, divide, patchify, zero_init


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Groups of 16 channels or, where that does not divide, of the largest divisor up to 16."""
    return nn.GroupNorm(channels // math.gcd(channels, 16), channels, affine=affine)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, added to the input; a condition scales and shifts after the second norm."""

    def __init__(self, dims: int, in_channels: int, out_channels: int, cond_width: int = 0, dropout: float = 0.0):
        super().__init__()
        conv = CONV[dims]
        self.norm1, self.norm2 = group_norm(in_channels), group_norm(out_channels, affine=cond_width == 0)
        self.conv1 = conv(in_channels, out_channels, 3, padding=1)
        self.conv2 = zero_init(conv(out_channels, out_channels, 3, padding=1))
        self.modulation = zero_init(nn.Linear(cond_width, 2 * out_channels)) if cond_width else None
        self.dropout = nn.Dropout(dropout)
        self.skip = conv(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.modulation is not None:
            shift, scale = self.modulation(cond).reshape(*x.shape[:1], -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class ResNetEncoder(nn.Module):
    """Patches, then one stage of residual blocks per entry of `channels`, the grid halved in between, x -> z_clean.

    Args:
        patch: side of the pixel patches folded into channels before the first convolution.
        channels: width of each stage, finest first.
        blocks: residual blocks of each stage.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        downsample: tuple[int, ...],
        *,
        patch: int = 2,
        channels: tuple[int, ...] = (128, 256, 512, 512),
        blocks: tuple[int, ...] = (2, 2, 2, 3),
    ):
        super().__init__()
        if not channels or len(channels) != len(blocks):
            raise ValueError(f"channels {list(channels)} and blocks {list(blocks)} must have one entry per stage")
        reached = patch * 2 ** (len(channels) - 1)
        if any(factor != reached for factor in downsample):
            raise ValueError(
                f"patch {patch} and {len(channels)} stages downsample by {reached}, "
                f"latent.downsample asks for {list(downsample)}"
            )
        dims = len(size)
        divide(size, downsample, "latent.downsample")
        conv = CONV[dims]
        self.patch = (patch,) * dims
        width = channels[0]
        layers: list[nn.Module] = [conv(in_channels * patch**dims, width, 3, padding=1)]
        for stage, (stage_width, depth) in enumerate(zip(channels, blocks, strict=True)):
            if stage > 0:
                layers.append(conv(width, width, 2, stride=2))
            for _ in range(depth):
                layers.append(ResBlock(dims, width, stage_width))
                width = stage_width
        self.layers = nn.Sequential(*layers)
        self.norm = group_norm(width)
        self.out = conv(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.norm(self.layers(patchify(x, self.patch)))))  # (B, c, *size / downsample)
