"""A stack of transformer blocks over the tokens of a grid, conditioned by adaptive norms or not at all."""

from collections.abc import Sequence
from typing import Literal

import torch
from timm.layers import LayerNorm, Mlp
from torch import Tensor, nn

from ulzoo.media.captions import Text
from ulzoo.nn.attention import Attention, AttentionKind, Reach, reaches
from ulzoo.nn.grid import zero_init
from ulzoo.nn.text_conditioning import CrossAttention

Positions = Literal["rotary", "learned"]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


class Block(nn.Module):
    """Attention and MLP, each a residual branch behind a norm, with shift, scale and gate from outside or without.

    Between them, with `text_width`, a residual branch of cross-attention to a text, behind a norm only.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float, modulated: bool, text_width: int):
        super().__init__()
        self.norm = LayerNorm(width, affine=False)
        self.attention = Attention(width, heads, dropout)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=dropout)
        self.cross_attention = CrossAttention(width, text_width, heads, dropout) if text_width else None
        if not modulated:
            zero_init(self.attention.proj)
            zero_init(self.mlp.fc2)

    def forward(self, x: Tensor, reach: Reach, modulation: Sequence[Tensor] | None, text: Text | None) -> Tensor:
        if modulation is None:
            x = self._read(x + self.attention(self.norm(x), reach), text)
            return x + self.mlp(self.norm(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation  # each (B, 1, width)
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm(x), shift1, scale1), reach))
        x = self._read(x, text)
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm(x), shift2, scale2)))

    def _read(self, x: Tensor, text: Text | None) -> Tensor:
        if self.cross_attention is None:
            return x
        assert text is not None
        return x + self.cross_attention(self.norm(x), text)


class Transformer(nn.Module):
    """`depth` blocks over the tokens of a grid, (B, N, width) -> (B, N, width).

    With `cond_width` the blocks have adaLN-zero modulation (arXiv 2212.09748); its projection is shared by the stack
    and each block adds an offset of its own (adaLN-single, arXiv 2310.00426), which keeps small models small.
    With `text_width` every block reads a text of that width, which `TextTokens` makes.
    Over (t, h, w), factorised attention is by turns over the tokens of a frame and over a place's in all frames.
    """

    def __init__(
        self,
        size: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        *,
        cond_width: int = 0,
        text_width: int = 0,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        positions: Positions = "rotary",
        attention: AttentionKind = "full",
        causal: bool = False,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, dropout, cond_width > 0, text_width) for _ in range(depth)
        )
        rotary = positions == "rotary"
        self.reaches = nn.ModuleList(reaches(size, width // heads if rotary else 0, attention, causal))
        tokens = torch.Size(size).numel()
        self.positions = None if rotary else nn.Parameter(torch.randn(tokens, width) * 0.02)
        if cond_width:
            self.modulation = zero_init(nn.Linear(cond_width, 6 * width))
            self.offsets = nn.Parameter(torch.zeros(depth, 6 * width))

    def forward(self, tokens: Tensor, cond: Tensor | None = None, text: Text | None = None) -> Tensor:
        if self.positions is not None:
            tokens = tokens + self.positions
        shared = None if cond is None else self.modulation(cond)  # (B, 6 · width)
        for i, block in enumerate(self.blocks):
            modulation = None if shared is None else (shared + self.offsets[i]).unsqueeze(1).chunk(6, dim=-1)
            tokens = block(tokens, self.reaches[i % len(self.reaches)], modulation, text)
        return tokens


class ModulatedOutput(nn.Module):
    """Adaptive norm, then a linear layer that starts at zero, so a fresh denoiser predicts zero."""

    def __init__(self, width: int, cond_width: int, out_width: int):
        super().__init__()
        self.norm = LayerNorm(width, affine=False)
        self.modulation = zero_init(nn.Linear(cond_width, 2 * width))
        self.proj = zero_init(nn.Linear(width, out_width))

    def forward(self, tokens: Tensor, cond: Tensor) -> Tensor:
        shift, scale = self.modulation(cond).unsqueeze(1).chunk(2, dim=-1)
        return self.proj(modulate(self.norm(tokens), shift, scale))
