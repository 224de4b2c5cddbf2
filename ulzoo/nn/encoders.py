"""The paper's ResNet encoder, and the identity in its place for pixel diffusion."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.nn.conditioning import RateControlEmbedding
from ulzoo.nn.convolution import ConvolutionKind, Convolutions, ResBlock, downsample_conv
from ulzoo.nn.grid import divide, patch_sides, patchify


class ResNetEncoder(nn.Module):
    """The paper's encoder, x -> z_clean: patches, then one stage of residual blocks per entry of `channels`.

    The grid is halved between stages. Every axis is halved in the first steps until latent.downsample is reached, so
    time and space may have different factors and the last stages may share a grid. If latent.downsample asks for more
    halvings than there are steps, further stages follow with the last width and the blocks of the last stage but one,
    so one spec serves every shape of the latent (paper, Table 4; not in the paper: how). In a variable-rate model the
    rate controls scale and shift after each block's second norm.

    Args:
        patch: patches of pixels folded into channels before the first convolution: side in space, or one per axis.
        channels: width of each stage, finest first.
        blocks: residual blocks of each stage; the last entry is always that of the last stage.
        convolution: for video: full 3×3×3 kernels, or factorised into 1×3×3 and 3×1×1.
        causal: for video: no frame of the latent depends on frames of x after its own.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        downsample: tuple[int, ...],
        rate_controls: int = 0,
        *,
        patch: int | tuple[int, ...] = 2,
        channels: tuple[int, ...] = (128, 256, 512, 512),
        blocks: tuple[int, ...] = (2, 2, 2, 3),
        convolution: ConvolutionKind = "full",
        causal: bool = False,
    ):
        super().__init__()
        if not channels or len(channels) != len(blocks):
            raise ValueError(f"channels {list(channels)} and blocks {list(blocks)} must have one entry per stage")
        divide(size, downsample, "latent.downsample")
        self.patch = patch_sides(patch, len(size))
        grid = divide(size, self.patch, "patch")
        convolutions = Convolutions(convolution, causal)
        cond_width = channels[-1] if rate_controls else 0
        self.rate_control = RateControlEmbedding(rate_controls, cond_width) if rate_controls else None
        width = channels[0]
        layers: list[nn.Module] = [convolutions.same(grid, in_channels * math.prod(self.patch), width)]
        halvings = _halvings(downsample, self.patch, len(channels) - 1)
        further = len(halvings) - (len(channels) - 1)
        widths = [*channels, *channels[-1:] * further]
        depths = [*blocks[:-1], *blocks[-2:][:1] * further, blocks[-1]]
        for factor, stage_width, depth in zip([(1,) * len(size), *halvings], widths, depths, strict=True):
            if max(factor) > 1:
                grid = divide(grid, factor, "latent.downsample")
                layers.append(downsample_conv(width, width, factor))
            for _ in range(depth):
                layers.append(ResBlock(grid, width, stage_width, cond_width, convolutions=convolutions))
                width = stage_width
        self.layers = nn.Sequential(*layers)
        self.norm = convolutions.norm(grid, width)
        self.out = convolutions.same(grid, width, out_channels)

    def forward(self, x: Tensor, rate_control: Tensor | None = None) -> Tensor:
        cond = None if self.rate_control is None else self.rate_control(rate_control)  # (B, cond_width)
        h = patchify(x, self.patch)
        for layer in self.layers:
            h = layer(h, cond) if isinstance(layer, ResBlock) else layer(h)
        return self.out(F.silu(self.norm(h)))  # (B, c, *size / downsample)


def _halvings(downsample: Sequence[int], patch: Sequence[int], least: int) -> list[tuple[int, ...]]:
    """Factors, 1 or 2 per axis, of each step; with the patch they multiply to `downsample`. At least `least` steps."""
    counts = [(factor // side).bit_length() - 1 for factor, side in zip(downsample, patch, strict=True)]
    reached = [side * 2**count for side, count in zip(patch, counts, strict=True) if count >= 0]
    if reached != list(downsample):
        raise ValueError(
            f"patch {list(patch)} times powers of two does not reach it: latent.downsample asks for {list(downsample)}"
        )
    return [tuple(2 if step < count else 1 for count in counts) for step in range(max(least, *counts))]


class IdentityEncoder(nn.Module):
    """Pixel diffusion: z_clean = x, and decoding returns z unchanged, so that the base samples x.

    The baseline of the paper's text-to-image comparison (Table 1). It has neither parameters nor keys; a spec sets
    `prior: null` and `decoder: null` with it.

    Raises:
        ValueError: the latent differs from the data in channels or grid.
    """

    def __init__(self, size: tuple[int, ...], in_channels: int, out_channels: int, downsample: tuple[int, ...]):
        super().__init__()
        if out_channels != in_channels:
            raise ValueError(
                f"latent.channels {out_channels} are not the data's {in_channels}, which the identity keeps: "
                f"set latent.channels to {in_channels}"
            )
        ones = [1] * len(size)
        if list(downsample) != ones:
            raise ValueError(
                f"latent.downsample {list(downsample)} is not the identity's: set latent.downsample to {ones}"
            )

    def forward(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        """z -> x, (B, C, *size)."""
        return z
