"""A stack of transformer blocks over the tokens of a grid, conditioned by adaptive norms or not at all."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, Mlp
from torch import Tensor, nn

from ulzoo.nn.grid import rotary_angles, zero_init

Positions = Literal["rotary", "learned"]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


class Attention(nn.Module):
    """Multi-head self-attention with QK-norm (arXiv 2302.05442), a learned temperature per head and, where angles are
    given, rotary positions."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads {heads} does not divide the width {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm = LayerNorm(width // heads, affine=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        B, N, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, head_width)
        q, k = self.norm(q) * self.temperature.to(q.dtype), self.norm(k)
        if rotary is not None:
            q, k = _rotate(q, *rotary), _rotate(k, *rotary)
        x = _attend(q, k, v)
        return self.dropout(self.proj(x.transpose(1, 2).reshape(B, N, -1)))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention; written out where PyTorch's fused CPU kernel is much slower (few tokens)."""
    if q.device.type == "cpu" and q.shape[-2] <= 256:
        return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + half}); `cos` and `sin` are (N, head_width) with the sign folded into `sin`."""
    half = x.shape[-1] // 2
    return x * cos.to(x.dtype) + torch.cat([x[..., half:], x[..., :half]], dim=-1) * sin.to(x.dtype)


class Block(nn.Module):
    """Attention and MLP, each a residual branch behind a norm, with shift, scale and gate from outside or without."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float, modulated: bool):
        super().__init__()
        self.norm = LayerNorm(width, affine=False)
        self.attention = Attention(width, heads, dropout)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=dropout)
        if not modulated:
            zero_init(self.attention.proj)
            zero_init(self.mlp.fc2)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, modulation: Sequence[Tensor] | None) -> Tensor:
        if modulation is None:
            x = x + self.attention(self.norm(x), rotary)
            return x + self.mlp(self.norm(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation  # each (B, 1, width)
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm(x), shift1, scale1), rotary))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm(x), shift2, scale2)))


class Transformer(nn.Module):
    """`depth` blocks over the tokens of a grid, (B, N, width) -> (B, N, width).

    With `cond_width` the blocks have adaLN-zero modulation (arXiv 2212.09748); its projection is shared by the stack
    and each block adds an offset of its own (adaLN-single, arXiv 2310.00426), which keeps small models small.
    """

    def __init__(
        self,
        size: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        *,
        cond_width: int = 0,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        positions: Positions = "rotary",
    ):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout, cond_width > 0) for _ in range(depth))
        self.cos: Tensor | None
        self.sin: Tensor | None
        if positions == "rotary":
            angles = rotary_angles(size, width // heads)
            self.register_buffer("cos", torch.cat([angles.cos(), angles.cos()], dim=1), persistent=False)
            self.register_buffer("sin", torch.cat([-angles.sin(), angles.sin()], dim=1), persistent=False)
            self.positions = None
        else:
            self.cos = self.sin = None
            tokens = torch.Size(size).numel()
            self.positions = nn.Parameter(torch.randn(tokens, width) * 0.02)
        if cond_width:
            self.modulation = zero_init(nn.Linear(cond_width, 6 * width))
            self.offsets = nn.Parameter(torch.zeros(depth, 6 * width))

    def forward(self, tokens: Tensor, cond: Tensor | None = None) -> Tensor:
        if self.positions is not None:
            tokens = tokens + self.positions
        rotary = None if self.cos is None or self.sin is None else (self.cos, self.sin)
        shared = None if cond is None else self.modulation(cond)  # (B, 6 · width)
        for i, block in enumerate(self.blocks):
            modulation = None if shared is None else (shared + self.offsets[i]).unsqueeze(1).chunk(6, dim=-1)
            tokens = block(tokens, rotary, modulation)
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
