"""Single-level vision transformers: a denoiser (the paper's prior, §4) and an encoder."""

import math

from timm.layers import LayerNorm
from torch import Tensor, nn

from ulzoo.media.captions import Text
from ulzoo.nn.conditioning import (
    ContextProjection,
    DenoiserInputs,
    GatedInputSkip,
    TextTokens,
    VectorConditioning,
    with_given,
)
from ulzoo.nn.grid import divide, in_space, patch_sides, patchify, to_grid, to_tokens, unpatchify
from ulzoo.nn.transformer import AttentionKind, ModulatedOutput, Positions, Transformer


class ViT(nn.Module):
    """Denoiser with one level of transformer blocks over patches of x_t; a context is added to the tokens, a text is
    attended to.

    Args:
        patch: patches that become tokens: side in space, or one per axis; 1 makes every latent position a token.
        width: channels of the tokens.
        depth: transformer blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the perceptrons over `width`.
        dropout: dropout on both residual branches.
        positions: rotary or learned position encoding.
        attention: over video: full, or factorised, by turns over a frame's tokens and over a place's in all frames.
        causal: over video: no frame depends on later ones (than those of its own patch, in time).
        carry: add x_t to the prediction, times a gain for every channel that depends on the conditions: for
            patches of more values than `width`.
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
    ):
        super().__init__()
        self.patch = patch_sides(patch, len(inputs.size))
        self.size = divide(inputs.size, self.patch, "patch")
        patch_channels = inputs.channels * math.prod(self.patch)
        self.num_classes = inputs.num_classes
        self.cond = VectorConditioning(inputs, width)
        self.embed = nn.Linear(inputs.all_channels * math.prod(self.patch), width)
        self.context = ContextProjection(inputs, self.size, width) if inputs.context_channels else None
        self.transformer = Transformer(
            self.size,
            width,
            depth,
            heads,
            cond_width=width,
            text_width=width if inputs.text_width else 0,
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            positions=positions,
            attention=attention,
            causal=causal,
        )
        self.out = ModulatedOutput(width, width, patch_channels)
        self.carry = GatedInputSkip(inputs.channels, width) if carry else None
        self.text = TextTokens(inputs, width) if inputs.text_width else None

    def forward(
        self,
        x_t: Tensor,
        logsnr: Tensor,
        context: Tensor | None = None,
        labels: Tensor | None = None,
        given: Tensor | None = None,
        text: Text | None = None,
        context_logsnr: Tensor | None = None,
    ) -> Tensor:
        cond = self.cond(logsnr, labels, given, context_logsnr)  # (B, width)
        tokens = self.embed(to_tokens(patchify(with_given(x_t, given), self.patch)))  # (B, N, width)
        if self.context is not None:
            assert context is not None
            tokens = tokens + to_tokens(self.context(context))
        read = None if self.text is None else self.text(text, len(x_t))
        tokens = self.transformer(tokens, cond, read)
        prediction = unpatchify(to_grid(self.out(tokens, cond), self.size), self.patch)
        return prediction if self.carry is None else prediction + self.carry(cond, x_t)


class ViTEncoder(nn.Module):
    """Encoder with transformer blocks over patches as large as the latent's downsampling, x -> z_clean.

    Not in the paper, whose encoder is a ResNet: on small images and few cores this one trains faster.

    Args:
        width: channels of the tokens.
        depth: transformer blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the perceptrons over `width`.
        positions: rotary or learned position encoding.
        attention: over video: full, or factorised, by turns over a frame's tokens and over a place's in all frames.
        causal: over video: no frame depends on later ones (than those of its own patch, in time).
    """

    def __init__(
        self,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        downsample: tuple[int, ...],
        *,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        positions: Positions = "learned",
        attention: AttentionKind = "full",
        causal: bool = False,
    ):
        super().__init__()
        self.patch = tuple(downsample)
        self.size = divide(size, self.patch, "latent.downsample")
        self.embed = nn.Linear(in_channels * math.prod(self.patch), width)
        self.transformer = Transformer(
            self.size,
            width,
            depth,
            heads,
            mlp_ratio=mlp_ratio,
            positions=positions,
            attention=attention,
            causal=causal,
        )
        self.norm = LayerNorm(width, affine=False)
        self.out = nn.Linear(width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.transformer(self.embed(to_tokens(patchify(x, self.patch))))
        return to_grid(self.out(self.norm(tokens)), self.size)  # (B, c, *size / downsample)


class HierarchicalViT(nn.Module):
    """Denoiser with one level of transformer blocks per entry of `channels`, each on a grid half as fine as the last.

    Half of an outer level's blocks run before the coarser levels and half after them, with a residual skip across;
    merging and splitting of 2×2 tokens are linear, and the frames of a video keep their number. A text is attended to
    in every block of every level. Not in the paper: how its [6, 16] blocks are shared out, the skip, and the text.

    Args:
        patch: patches of x_t that become tokens of the first level: side in space, or one per axis.
        channels: width of the tokens, finest level first.
        blocks: transformer blocks of each level; even for all but the last.
        head_width: channels of one attention head.
        mlp_ratio: hidden width of the perceptrons over the level's width.
        dropout: dropout on both residual branches.
        positions: rotary or learned position encoding.
        attention: over video: full, or factorised, by turns over a frame's tokens and over a place's in all frames.
        causal: over video: no frame depends on later ones (than those of its own patch, in time).
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
                cond_width=cond_width,
                text_width=cond_width if inputs.text_width else 0,
                mlp_ratio=mlp_ratio,
                dropout=dropout,
                positions=positions,
                attention=attention,
                causal=causal,
            )

        cond_width, fold = channels[-1], math.prod(self.merge)
        patch_channels = inputs.channels * math.prod(self.patch)
        outer = range(len(channels) - 1)
        self.num_classes = inputs.num_classes
        self.cond = VectorConditioning(inputs, cond_width)
        self.embed = nn.Linear(inputs.all_channels * math.prod(self.patch), channels[0])
        self.context = ContextProjection(inputs, self.sizes[0], channels[0]) if inputs.context_channels else None
        self.down = nn.ModuleList(stack(i, blocks[i] // 2) for i in outer)
        self.merges = nn.ModuleList(nn.Linear(fold * channels[i], channels[i + 1]) for i in outer)
        self.middle = stack(len(channels) - 1, blocks[-1])
        self.splits = nn.ModuleList(nn.Linear(channels[i + 1], fold * channels[i]) for i in outer)
        self.up = nn.ModuleList(stack(i, blocks[i] // 2) for i in outer)
        self.out = ModulatedOutput(channels[0], cond_width, patch_channels)
        self.text = TextTokens(inputs, cond_width) if inputs.text_width else None

    def forward(
        self,
        x_t: Tensor,
        logsnr: Tensor,
        context: Tensor | None = None,
        labels: Tensor | None = None,
        given: Tensor | None = None,
        text: Text | None = None,
        context_logsnr: Tensor | None = None,
    ) -> Tensor:
        cond = self.cond(logsnr, labels, given, context_logsnr)
        read = None if self.text is None else self.text(text, len(x_t))
        tokens = self.embed(to_tokens(patchify(with_given(x_t, given), self.patch)))  # (B, N_0, channels[0])
        if self.context is not None:
            assert context is not None
            tokens = tokens + to_tokens(self.context(context))
        skips = []
        for level, (stack, merge) in enumerate(zip(self.down, self.merges, strict=True)):
            tokens = stack(tokens, cond, read)
            skips.append(tokens)
            tokens = merge(to_tokens(patchify(to_grid(tokens, self.sizes[level]), self.merge)))
        tokens = self.middle(tokens, cond, read)
        for level in reversed(range(len(skips))):
            finer = unpatchify(to_grid(self.splits[level](tokens), self.sizes[level + 1]), self.merge)
            tokens = self.up[level](skips[level] + to_tokens(finer), cond, read)
        return unpatchify(to_grid(self.out(tokens, cond), self.sizes[0]), self.patch)
