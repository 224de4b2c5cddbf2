"""Convolutional residual blocks, and the paper's ResNet encoder."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.nn.convolution import ConvolutionKind, Convolutions, ResBlock, downsample_conv
from ulzoo.nn.grid import divide, patch_sides, patchify


class ResNetEncoder(nn.Module):
    """Patches, then one stage of residual blocks per entry of `channels`, the grid halved in between, x -> z_clean.

    Every axis is halved by the first of the steps between stages until latent.downsample is reached, so that time and
    space may be downsampled by different factors and the last stages may share a grid. Where latent.downsample asks for
    more halvings than there are steps, the last width goes on in further stages, each with the blocks of the last but
    one, so that one spec serves every shape of the latent (paper, Table 4; how, is not in the paper).

    Args:
        patch: patches of pixels folded into channels before the first convolution: side in space, or one per axis.
        channels: width of each stage, finest first.
        blocks: residual blocks of each stage; the last entry is the last stage's, however many there are.
        convolution: over video: full 3×3×3 kernels, or factorised into 1×3×3 and 3×1×1.
        causal: over video: no frame of the latent depends on frames of x after those that it stands for.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        downsample: tuple[int, ...],
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
                layers.append(ResBlock(grid, width, stage_width, convolutions=convolutions))
                width = stage_width
        self.layers = nn.Sequential(*layers)
        self.norm = convolutions.norm(grid, width)
        self.out = convolutions.same(grid, width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.norm(self.layers(patchify(x, self.patch)))))  # (B, c, *size / downsample)


def _halvings(downsample: Sequence[int], patch: Sequence[int], least: int) -> list[tuple[int, ...]]:
    """What each step divides each axis by, 1 or 2, so that with the patch it comes to `downsample`; `least` steps."""
    counts = [(factor // side).bit_length() - 1 for factor, side in zip(downsample, patch, strict=True)]
    reached = [side * 2**count for side, count in zip(patch, counts, strict=True) if count >= 0]
    if reached != list(downsample):
        raise ValueError(
            f"patch {list(patch)} times powers of two does not come to what is wanted: "
            f"latent.downsample asks for {list(downsample)}"
        )
    return [tuple(2 if step < count else 1 for count in counts) for step in range(max(least, *counts))]


class IdentityEncoder(nn.Module):
    """Pixel diffusion: z_clean = x, and decoding gives z back as it is, so that the base samples x.

    The baseline of the paper's text-to-image comparison (Table 1) on the same code. It has neither parameters nor keys;
    a spec has `prior: null` and `decoder: null` beside it.

    Raises:
        ValueError: the latent has not the data's own channels and grid.
    """

    def __init__(self, size: tuple[int, ...], in_channels: int, out_channels: int, downsample: tuple[int, ...]):
        super().__init__()
        if out_channels != in_channels:
            raise ValueError(
                f"latent.channels {out_channels} are not the data's {in_channels}, which the identity keeps: "
                f"set latent.channels to {in_channels}"
            )
        whole = [1] * len(size)
        if list(downsample) != whole:
            raise ValueError(
                f"latent.downsample {list(downsample)} is not the identity's: set latent.downsample to {whole}"
            )

    def forward(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        """z -> x, (B, C, *size)."""
        return z
