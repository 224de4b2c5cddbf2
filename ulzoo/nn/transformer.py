"""Transformer blocks over the tokens of a grid: attention in space and time, adaptive norms, cross-attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.media.captions import Text
from ulzoo.nn.grid import rotary_angles, zero_init
from ulzoo.nn.layers import LayerNorm, Mlp
from ulzoo.nn.skeleton import table

AttentionKind = Literal["full", "factorised"]
Positions = Literal["rotary", "learned"]


class AttentionPattern(nn.Module):
    """Which tokens of a grid attend to each other: "all", those of one frame ("space"), or of one place ("time").

    Args:
        size: the grid, (h, w) or (t, h, w); only the latter has frames.
        head_width: channels of a head, split over the axes by rotary positions; 0 for no rotary positions.
        axes: which tokens attend to each other.
        causal: no token attends to a later frame.
    """

    cos: Tensor | None
    sin: Tensor | None
    mask: Tensor | None

    def __init__(self, size: Sequence[int], head_width: int, axes: Literal["all", "space", "time"], causal: bool):
        super().__init__()
        frames = size[0] if len(size) == 3 else 1
        places = torch.Size(size).numel() // frames
        self.axes, self.frames, self.places = axes, frames, places
        cos = sin = mask = None
        if head_width:
            angles = rotary_angles(size, head_width)  # (frames · places, head_width / 2)
            if axes == "space":
                angles = angles[:places]
            elif axes == "time":
                angles = angles[::places]
            shape = (len(angles), head_width)
            cos = table(shape, lambda: torch.cat([angles.cos(), angles.cos()], dim=1))
            sin = table(shape, lambda: torch.cat([-angles.sin(), angles.sin()], dim=1))
        if causal and frames > 1 and axes != "space":
            tokens = frames * (places if axes == "all" else 1)
            mask = table((tokens, tokens), self._causal_mask, torch.bool)
        for name, buffer in (("cos", cos), ("sin", sin), ("mask", mask)):
            self.register_buffer(name, buffer, persistent=False)

    def _causal_mask(self) -> Tensor:
        """Whether a token may attend to another: not to those of later frames, (queries, keys)."""
        time = torch.arange(self.frames).repeat_interleave(self.places if self.axes == "all" else 1)
        return time[:, None] >= time[None, :]

    def split(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (groups, tokens of a group, C)."""
        if self.axes == "all":
            return tokens
        grid = tokens.unflatten(1, (self.frames, self.places))
        return (grid.transpose(1, 2) if self.axes == "time" else grid).flatten(0, 1)

    def join(self, tokens: Tensor) -> Tensor:
        """The inverse of `split`."""
        if self.axes == "all":
            return tokens
        if self.axes == "space":
            return tokens.unflatten(0, (-1, self.frames)).flatten(1, 2)
        return tokens.unflatten(0, (-1, self.places)).transpose(1, 2).flatten(1, 2)


def attention_patterns(
    size: Sequence[int], head_width: int, kind: AttentionKind, causal: bool
) -> list[AttentionPattern]:
    """The patterns that the blocks of a stack alternate between: all tokens, or space and time.

    The blocks of a single frame are those of an image.
    """
    if kind == "factorised" and len(size) == 3 and size[0] > 1:
        return [AttentionPattern(size, head_width, "space", causal), AttentionPattern(size, head_width, "time", causal)]
    return [AttentionPattern(size, head_width, "all", causal)]


class Attention(nn.Module):
    """Multi-head self-attention with QK-norm (arXiv 2302.05442), a learned temperature per head and, where angles are
    given, rotary positions."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads {heads} does not divide the width {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm = LayerNorm(width // heads)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, pattern: AttentionPattern) -> Tensor:
        x = pattern.split(x)
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, head_width)
        qk, v = qkv.split([2, 1])
        qk = self.norm(qk)
        if pattern.cos is not None and pattern.sin is not None:
            qk = rotate(qk, pattern.cos, pattern.sin)
        q, k = qk.unbind()
        x = attend(q * self.temperature.to(q.dtype), k, v.squeeze(0), pattern.mask)
        return pattern.join(self.dropout(self.proj(x.transpose(1, 2).reshape(B, N, -1))))


class CrossAttention(nn.Module):
    """The tokens of a grid attend to those of a caption, (B, N, width) -> (B, N, width); it starts at zero.

    Heads, QK-norm and learned temperature are those of self-attention. Keys and values come from the caption alone.

    Args:
        width: channels of the grid's tokens.
        text_width: channels of the text's tokens, as `TextTokens` makes them.
        heads: attention heads.
        dropout: on the output.
    """

    def __init__(self, width: int, text_width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(text_width, 2 * width, bias=False)
        self.norm = LayerNorm(width // heads)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.proj = zero_init(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        B, N, _ = x.shape
        q = self.q(x).reshape(B, N, self.heads, -1).transpose(1, 2)  # (B, heads, N, head_width)
        k, v = self.kv(text.tokens).reshape(B, text.tokens.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.norm(q) * self.temperature.to(q.dtype), self.norm(k)
        x = attend(q, k, v, text.mask[:, None, None, :])
        return self.dropout(self.proj(x.transpose(1, 2).reshape(B, N, -1)))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; written out where PyTorch's fused CPU kernel is slower (few tokens in bf16)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] <= 512:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return torch.softmax(scores, dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, mask)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + half}); `cos` and `sin` are (N, head_width) with the sign folded into `sin`."""
    swapped = x.roll(x.shape[-1] // 2, -1)
    return (x * cos.to(x.dtype)).addcmul_(swapped, sin.to(x.dtype))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


class Block(nn.Module):
    """Attention and MLP, each a residual branch behind a norm, optionally modulated by shift, scale and gate.

    With `text_width` there is a residual branch of cross-attention between them, behind a norm only.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float, modulated: bool, text_width: int):
        super().__init__()
        self.norm = LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp = Mlp(width, int(width * mlp_ratio), dropout)
        self.cross_attention = CrossAttention(width, text_width, heads, dropout) if text_width else None
        if not modulated:
            zero_init(self.attention.proj)
            zero_init(self.mlp.fc2)

    def forward(
        self, x: Tensor, pattern: AttentionPattern, modulation: Sequence[Tensor] | None, text: Text | None
    ) -> Tensor:
        if modulation is None:
            x = self._attend_to_text(x + self.attention(self.norm(x), pattern), text)
            return x + self.mlp(self.norm(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation  # each (B, 1, width)
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm(x), shift1, scale1), pattern))
        x = self._attend_to_text(x, text)
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm(x), shift2, scale2)))

    def _attend_to_text(self, x: Tensor, text: Text | None) -> Tensor:
        if self.cross_attention is None:
            return x
        assert text is not None
        return x + self.cross_attention(self.norm(x), text)


@dataclass(frozen=True)
class BlockOptions:
    """What the blocks of a stack share besides their sizes; `ViT` documents each of them."""

    mlp_ratio: float = 4.0
    dropout: float = 0.0
    positions: Positions = "rotary"
    attention: AttentionKind = "full"
    causal: bool = False


DEFAULT_BLOCKS = BlockOptions()


class Transformer(nn.Module):
    """`depth` blocks over the tokens of a grid, (B, N, width) -> (B, N, width).

    With `cond_width` the blocks have adaLN-zero modulation (arXiv 2212.09748); its projection is shared by the stack
    and each block adds an offset of its own (adaLN-single, arXiv 2310.00426), which keeps small models small.
    With `text_width` every block attends to the tokens of a caption, which `TextTokens` provides.
    Over (t, h, w), factorised attention alternates between the tokens of a frame and those of a place over time.
    """

    def __init__(
        self,
        size: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        options: BlockOptions = DEFAULT_BLOCKS,
        *,
        cond_width: int = 0,
        text_width: int = 0,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, options.mlp_ratio, options.dropout, cond_width > 0, text_width) for _ in range(depth)
        )
        rotary = options.positions == "rotary"
        self.patterns = nn.ModuleList(
            attention_patterns(size, width // heads if rotary else 0, options.attention, options.causal)
        )
        tokens = torch.Size(size).numel()
        self.positions = (
            None if rotary else nn.Parameter(table((tokens, width), lambda: torch.randn(tokens, width) * 0.02))
        )
        if cond_width:
            self.modulation = zero_init(nn.Linear(cond_width, 6 * width))
            self.offsets = nn.Parameter(torch.zeros(depth, 6 * width))

    def forward(self, tokens: Tensor, cond: Tensor | None = None, text: Text | None = None) -> Tensor:
        if self.positions is not None:
            tokens = tokens + self.positions
        shared = None if cond is None else self.modulation(cond)  # (B, 6 · width)
        for i, block in enumerate(self.blocks):
            modulation = None if shared is None else (shared + self.offsets[i]).unsqueeze(1).chunk(6, dim=-1)
            tokens = block(tokens, self.patterns[i % len(self.patterns)], modulation, text)
        return tokens


class ModulatedOutput(nn.Module):
    """Adaptive norm, then a linear layer that starts at zero, so a fresh denoiser predicts zero."""

    def __init__(self, width: int, cond_width: int, out_width: int):
        super().__init__()
        self.norm = LayerNorm(width)
        self.modulation = zero_init(nn.Linear(cond_width, 2 * width))
        self.proj = zero_init(nn.Linear(width, out_width))

    def forward(self, tokens: Tensor, cond: Tensor) -> Tensor:
        shift, scale = self.modulation(cond).unsqueeze(1).chunk(2, dim=-1)
        return self.proj(modulate(self.norm(tokens), shift, scale))
