"""Single-level vision transformers: a denoiser (the paper's prior, §4) and an encoder."""

import math

from timm.layers import LayerNorm
from torch import Tensor, nn

from ulzoo.media.captions import Text
from ulzoo.nn.attention import AttentionKind
from ulzoo.nn.conditioning import Carry, ContextProjection, DenoiserInputs, VectorConditioning, with_given
from ulzoo.nn.grid import divide, patch_sides, patchify, to_grid, to_tokens, unpatchify
from ulzoo.nn.text_conditioning import TextTokens
from ulzoo.nn.transformer import ModulatedOutput, Positions, Transformer


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
        self.carry = Carry(inputs.channels, width) if carry else None
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
