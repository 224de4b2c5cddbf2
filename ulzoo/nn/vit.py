"""Vision transformers: the paper's prior (one level) and base (two levels), §5.1, and an encoder."""

import math

from torch import Tensor, nn

from ulzoo.nn.conditioning import (
    NO_CONDITIONS,
    DenoiserInputs,
    GatedInputSkip,
    LatentProjection,
    NetworkConditions,
    RateControlEmbedding,
    TextTokens,
    VectorConditioning,
    concat_frames,
)
from ulzoo.nn.convolution import Convolutions, PixelHead, downsample_conv
from ulzoo.nn.grid import divide, in_space, patch_sides, patchify, to_grid, to_tokens, unpatchify
from ulzoo.nn.layers import LayerNorm
from ulzoo.nn.transformer import AttentionKind, BlockOptions, ModulatedOutput, Positions, Transformer


class ViT(nn.Module):
    """Denoiser with one level of transformer blocks over patches of x_t.

    A latent z_0 is added to the tokens; captions are read by cross-attention.

    Args:
        patch: patches that become tokens: side in space, or one per axis; 1 makes every latent position a token.
        width: channels of the tokens.
        depth: transformer blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the perceptrons over `width`.
        dropout: dropout on both residual branches.
        positions: rotary or learned position encoding.
        attention: for video: full, or factorised into attention within a frame and over time, in alternating blocks.
        causal: for video: no frame depends on later frames, except those of its own patch.
        carry: add x_t to the prediction, times a gain per channel that depends on the conditions. The default of a
            diffusion decoder is true if a patch holds more values than `width`.
        pixel_channels: width of a convolutional head over pixels, without which the borders of the patches are visible;
            null: the prediction is linear in the tokens.
    """

    def __init__(
        self,
        inputs: DenoiserInputs,
        *,
        patch: int | tuple[int, ...] = 1,
        width: int = 1024,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        positions: Positions = "rotary",
        attention: AttentionKind = "full",
        causal: bool = False,
        carry: bool = False,
        pixel_channels: int | None = None,
    ):
        super().__init__()
        if pixel_channels is not None and pixel_channels < 1:
            raise ValueError(f"pixel_channels must be positive or null, got {pixel_channels}")
        self.patch = patch_sides(patch, len(inputs.size))
        self.size = divide(inputs.size, self.patch, "patch")
        patch_channels = (pixel_channels or inputs.channels) * math.prod(self.patch)
        self.num_classes = inputs.num_classes
        self.cond = VectorConditioning(inputs, width)
        self.embed = nn.Linear(inputs.input_channels * math.prod(self.patch), width)
        self.context = LatentProjection(inputs, self.size, width) if inputs.latent_channels else None
        self.transformer = Transformer(
            self.size,
            width,
            depth,
            heads,
            BlockOptions(mlp_ratio, dropout, positions, attention, causal),
            cond_width=width,
            text_width=width if inputs.text_width else 0,
        )
        self.out = ModulatedOutput(width, width, patch_channels)
        self.head: PixelHead | None = None
        if pixel_channels:
            convolutions, channels = Convolutions(causal=causal), (inputs.input_channels, inputs.channels)
            self.head = PixelHead(inputs.size, channels, pixel_channels, width, convolutions)
        self.carry = GatedInputSkip(inputs.channels, width) if carry else None
        self.text = TextTokens(inputs, width) if inputs.text_width else None

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions = NO_CONDITIONS) -> Tensor:
        cond = self.cond(logsnr, conditions)  # (B, width)
        x_t_and_frames = concat_frames(x_t, conditions.context_frames)
        tokens = self.embed(to_tokens(patchify(x_t_and_frames, self.patch)))  # (B, N, width)
        if self.context is not None:
            tokens = tokens + to_tokens(self.context(conditions.latent))
        text = None if self.text is None else self.text(conditions.text, len(x_t))
        tokens = self.transformer(tokens, cond, text)
        prediction = unpatchify(to_grid(self.out(tokens, cond), self.size), self.patch)
        if self.head is not None:
            prediction = self.head(prediction, x_t_and_frames, cond)
        return prediction if self.carry is None else prediction + self.carry(cond, x_t)


class HierarchicalViT(nn.Module):
    """The paper's base: one level of transformer blocks per entry of `channels`, each on a grid half as fine.

    Half of an outer level's blocks run before the coarser levels and half after them, with a residual skip across.
    Merging and splitting of 2×2 tokens are linear; the number of frames of a video stays the same. Every block of every
    level reads the caption. Not in the paper: how its [6, 16] blocks are split, the skip, and the captions.

    Args:
        patch: patches of x_t that become tokens of the first level: side in space, or one per axis.
        channels: width of the tokens, finest level first.
        blocks: transformer blocks of each level; even for all but the last.
        head_width: channels of one attention head.
        mlp_ratio: hidden width of the perceptrons over the level's width.
        dropout: dropout on both residual branches.
        positions: rotary or learned position encoding.
        attention: for video: full, or factorised into attention within a frame and over time, in alternating blocks.
        causal: for video: no frame depends on later frames, except those of its own patch.
    """

    def __init__(
        self,
        inputs: DenoiserInputs,
        *,
        patch: int | tuple[int, ...] = 1,
        channels: tuple[int, ...] = (512, 1024),
        blocks: tuple[int, ...] = (6, 16),
        head_width: int = 64,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        positions: Positions = "rotary",
        attention: AttentionKind = "full",
        causal: bool = False,
    ):
        super().__init__()
        if not channels or len(channels) != len(blocks):
            raise ValueError(f"channels {list(channels)} and blocks {list(blocks)} must have one entry per level")
        if any(depth % 2 for depth in blocks[:-1]):
            raise ValueError(f"blocks {list(blocks)}: all but the last level are split in halves and must be even")
        if any(head_width < 1 or width % head_width for width in channels):
            raise ValueError(f"head_width {head_width} does not divide all of channels {list(channels)}")
        dims = len(inputs.size)
        self.patch, self.merge = patch_sides(patch, dims), in_space(2, dims)
        self.sizes = [divide(inputs.size, self.patch, "patch")]
        for _ in channels[1:]:
            self.sizes.append(divide(self.sizes[-1], self.merge, "the merging of 2×2 tokens"))

        def stack(level: int, depth: int) -> Transformer:
            return Transformer(
                self.sizes[level],
                channels[level],
                depth,
                channels[level] // head_width,
                BlockOptions(mlp_ratio, dropout, positions, attention, causal),
                cond_width=cond_width,
                text_width=cond_width if inputs.text_width else 0,
            )

        cond_width, fold = channels[-1], math.prod(self.merge)
        patch_channels = inputs.channels * math.prod(self.patch)
        outer = range(len(channels) - 1)
        self.num_classes = inputs.num_classes
        self.cond = VectorConditioning(inputs, cond_width)
        self.embed = nn.Linear(inputs.input_channels * math.prod(self.patch), channels[0])
        self.context = LatentProjection(inputs, self.sizes[0], channels[0]) if inputs.latent_channels else None
        self.down = nn.ModuleList(stack(i, blocks[i] // 2) for i in outer)
        self.merges = nn.ModuleList(nn.Linear(fold * channels[i], channels[i + 1]) for i in outer)
        self.middle = stack(len(channels) - 1, blocks[-1])
        self.splits = nn.ModuleList(nn.Linear(channels[i + 1], fold * channels[i]) for i in outer)
        self.up = nn.ModuleList(stack(i, blocks[i] // 2) for i in outer)
        self.out = ModulatedOutput(channels[0], cond_width, patch_channels)
        self.text = TextTokens(inputs, cond_width) if inputs.text_width else None

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions = NO_CONDITIONS) -> Tensor:
        cond = self.cond(logsnr, conditions)
        text = None if self.text is None else self.text(conditions.text, len(x_t))
        x_t_and_frames = concat_frames(x_t, conditions.context_frames)
        tokens = self.embed(to_tokens(patchify(x_t_and_frames, self.patch)))  # (B, N_0, channels[0])
        if self.context is not None:
            tokens = tokens + to_tokens(self.context(conditions.latent))
        skips = []
        for level, (stack, merge) in enumerate(zip(self.down, self.merges, strict=True)):
            tokens = stack(tokens, cond, text)
            skips.append(tokens)
            tokens = merge(to_tokens(patchify(to_grid(tokens, self.sizes[level]), self.merge)))
        tokens = self.middle(tokens, cond, text)
        for level in reversed(range(len(skips))):
            finer = unpatchify(to_grid(self.splits[level](tokens), self.sizes[level + 1]), self.merge)
            tokens = self.up[level](skips[level] + to_tokens(finer), cond, text)
        return unpatchify(to_grid(self.out(tokens, cond), self.sizes[0]), self.patch)


class ViTEncoder(nn.Module):
    """Encoder with transformer blocks over patches as large as the latent's downsampling, x -> z_clean.

    Not in the paper, whose encoder is a ResNet: on small images and few cores this one trains faster. In a
    variable-rate model the rate controls modulate its blocks.

    Args:
        width: channels of the tokens.
        depth: transformer blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the perceptrons over `width`.
        positions: rotary or learned position encoding.
        attention: for video: full, or factorised into attention within a frame and over time, in alternating blocks.
        causal: for video: no frame depends on later frames, except those of its own patch.
        patch_overlap: pixels by which the patches reach into their neighbours, on each side in space, as in a lapped
            transform: borders of patches are less visible in reconstructions; null: none.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        downsample: tuple[int, ...],
        rate_controls: int = 0,
        *,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        positions: Positions = "learned",
        attention: AttentionKind = "full",
        causal: bool = False,
        patch_overlap: int | None = None,
    ):
        super().__init__()
        if patch_overlap is not None and patch_overlap < 1:
            raise ValueError(f"patch_overlap must be positive or null, got {patch_overlap}")
        self.patch = tuple(downsample)
        self.size = divide(size, self.patch, "latent.downsample")
        self.rate_control = RateControlEmbedding(rate_controls, width) if rate_controls else None
        self.embed = (
            downsample_conv(in_channels, width, self.patch, patch_overlap)
            if patch_overlap
            else nn.Linear(in_channels * math.prod(self.patch), width)
        )
        self.transformer = Transformer(
            self.size,
            width,
            depth,
            heads,
            BlockOptions(mlp_ratio, 0.0, positions, attention, causal),
            cond_width=width if rate_controls else 0,
        )
        self.norm = LayerNorm(width)
        self.out = nn.Linear(width, out_channels)

    def forward(self, x: Tensor, rate_control: Tensor | None = None) -> Tensor:
        cond = None if self.rate_control is None else self.rate_control(rate_control)  # (B, width)
        linear = isinstance(self.embed, nn.Linear)
        tokens = self.embed(to_tokens(patchify(x, self.patch))) if linear else to_tokens(self.embed(x))  # (B, N, width)
        tokens = self.transformer(tokens, cond)
        return to_grid(self.out(self.norm(tokens)), self.size)  # (B, c, *size / downsample)
