"""U-ViT: convolutional stages around a transformer, the paper's decoder (arXiv 2301.11093)."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.nn.conditioning import (
    NO_CONDITIONS,
    DenoiserInputs,
    LatentProjection,
    NetworkConditions,
    TextTokens,
    VectorConditioning,
    concat_frames,
)
from ulzoo.nn.convolution import ConvolutionKind, Convolutions, ResBlock, downsample_conv, zero_output
from ulzoo.nn.grid import CONV, divide, patch_sides, patchify, to_grid, to_tokens, unpatchify, upsample
from ulzoo.nn.transformer import AttentionKind, BlockOptions, Positions, Transformer


class ConvStage(nn.ModuleList):
    """Residual blocks one after the other."""

    def forward(self, h: Tensor, cond: Tensor) -> Tensor:
        for block in self:
            h = block(h, cond)
        return h


class UViT(nn.Module):
    """Denoiser: patches, convolution stages down, a transformer in the middle, the same stages up.

    Each stage ends by halving the grid, and its features before that are added back after the matching doubling (one
    residual skip per stage, as in SiD2, arXiv 2410.19324). The latent z_0 is added after the first convolution and to
    the middle's tokens, which also read the caption. For video the first stages halve time too, until it is as coarse
    as the latent's. Not in the paper: blocks per stage, how time and z_0 enter, and what happens to the frames.

    Args:
        patch: patches of pixels folded into channels before the first convolution: side in space, or one per axis.
        channels: width of each convolution stage, finest first.
        blocks: residual blocks of each stage, on the way down and again on the way up.
        width: channels of the middle's tokens.
        depth: transformer blocks of the middle.
        heads: attention heads.
        mlp_ratio: hidden width of the middle's perceptrons over `width`.
        dropout: dropout in the middle and in the coarsest convolution stage.
        positions: rotary or learned position encoding of the middle.
        convolution: for video: full 3×3×3 kernels, or factorised into 1×3×3 and 3×1×1.
        attention: for video: full, or factorised into attention within a frame and over time, in alternating blocks.
        causal: for video: no frame depends on later frames, except those that share a token of the middle.
    """

    def __init__(
        self,
        inputs: DenoiserInputs,
        *,
        patch: int | tuple[int, ...] = 2,
        channels: tuple[int, ...] = (128, 256, 512),
        blocks: tuple[int, ...] = (2, 2, 2),
        width: int = 1024,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        positions: Positions = "rotary",
        convolution: ConvolutionKind = "full",
        attention: AttentionKind = "full",
        causal: bool = False,
    ):
        super().__init__()
        if not channels or len(channels) != len(blocks):
            raise ValueError(f"channels {list(channels)} and blocks {list(blocks)} must have one entry per stage")
        dims = len(inputs.size)
        convolutions = Convolutions(convolution, causal)
        self.patch = patch_sides(patch, dims)
        sizes = [divide(inputs.size, self.patch, "patch")]
        self.halvings = _halvings(sizes[0], inputs.latent_size, len(channels))
        total = [math.prod(factors) for factors in zip(*self.halvings, strict=True)]
        self.size = divide(sizes[0], total, f"the halving by {len(channels)} stages")
        for halving in self.halvings:
            sizes.append(divide(sizes[-1], halving, "the halving"))
        patch_channels = math.prod(self.patch)

        def stage(i: int) -> ConvStage:
            rate = dropout if i == len(channels) - 1 else 0.0
            return ConvStage(
                ResBlock(sizes[i], channels[i], channels[i], width, rate, convolutions) for _ in range(blocks[i])
            )

        coarser = [*channels[1:], width]
        self.num_classes = inputs.num_classes
        self.cond = VectorConditioning(inputs, width)
        self.stem = convolutions.same(sizes[0], inputs.input_channels * patch_channels, channels[0])
        has_context = inputs.latent_channels > 0
        self.context_fine = LatentProjection(inputs, sizes[0], channels[0]) if has_context else None
        self.down = nn.ModuleList(stage(i) for i in range(len(channels)))
        self.coarsen = nn.ModuleList(
            downsample_conv(c, d, halving) for c, d, halving in zip(channels, coarser, self.halvings, strict=True)
        )
        self.context_middle = LatentProjection(inputs, self.size, width) if has_context else None
        self.middle = Transformer(
            self.size,
            width,
            depth,
            heads,
            BlockOptions(mlp_ratio, dropout, positions, attention, causal),
            cond_width=width,
            text_width=width if inputs.text_width else 0,
        )
        self.grow = nn.ModuleList(CONV[dims](d, c, 1) for c, d in zip(channels, coarser, strict=True))
        self.up = nn.ModuleList(stage(i) for i in range(len(channels)))
        self.norm = convolutions.norm(sizes[0], channels[0])
        self.out = zero_output(convolutions.same(sizes[0], channels[0], inputs.channels * patch_channels))
        self.text = TextTokens(inputs, width) if inputs.text_width else None

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions = NO_CONDITIONS) -> Tensor:
        cond = self.cond(logsnr, conditions)  # (B, width)
        x_t_and_frames = concat_frames(x_t, conditions.context_frames)
        h = self.stem(patchify(x_t_and_frames, self.patch))  # (B, channels[0], *size / patch)
        if self.context_fine is not None:
            h = h + self.context_fine(conditions.latent)
        skips = []
        for stage, coarsen in zip(self.down, self.coarsen, strict=True):
            h = stage(h, cond)
            skips.append(h)
            h = coarsen(h)
        if self.context_middle is not None:
            h = h + self.context_middle(conditions.latent)
        text = None if self.text is None else self.text(conditions.text, len(x_t))
        h = to_grid(self.middle(to_tokens(h), cond, text), self.size)
        for i in reversed(range(len(skips))):
            h = self.up[i](skips[i] + upsample(self.grow[i](h), self.halvings[i]), cond)
        return unpatchify(self.out(F.silu(self.norm(h))), self.patch)


def _halvings(size: Sequence[int], latent_size: Sequence[int], stages: int) -> list[tuple[int, ...]]:
    """Factors by which each stage divides the grid: 2 in space, and 2 in time while time is finer than the latent's."""
    halvings, frames = [], size[0]
    for _ in range(stages):
        in_time = ()
        if len(size) == 3:
            finer = bool(latent_size) and frames > latent_size[0] and frames % 2 == 0
            in_time = (2,) if finer else (1,)
            frames //= in_time[0]
        halvings.append((*in_time, 2, 2))
    return halvings
