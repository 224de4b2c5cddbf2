"""Self-attention over a grid: which tokens meet (all, a frame's, or a place's over time), and where they stand."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from torch import Tensor, nn

from ulzoo.nn.grid import rotary_angles

AttentionKind = Literal["full", "factorised"]


class Reach(nn.Module):
    """Which tokens of a grid attend to each other: "all", those of one frame ("space"), or of one place ("time").

    Args:
        size: the grid, (h, w) or (t, h, w); only the latter has frames.
        head_width: channels of a head, shared out over the axes by rotary positions; 0 for no such positions.
        axes: who meets.
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
            cos = torch.cat([angles.cos(), angles.cos()], dim=1)
            sin = torch.cat([-angles.sin(), angles.sin()], dim=1)
        if causal and frames > 1 and axes != "space":
            time = torch.arange(frames).repeat_interleave(places if axes == "all" else 1)
            mask = time[:, None] >= time[None, :]  # (tokens that ask, tokens that answer)
        for name, buffer in (("cos", cos), ("sin", sin), ("mask", mask)):
            self.register_buffer(name, buffer, persistent=False)

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


def reaches(size: Sequence[int], head_width: int, kind: AttentionKind, causal: bool) -> list[Reach]:
    """What a stack's blocks take turns in: all tokens, or space and time one after the other.

    A single frame has no time to attend over, so its blocks are those of an image.
    """
    if kind == "factorised" and len(size) == 3 and size[0] > 1:
        return [Reach(size, head_width, "space", causal), Reach(size, head_width, "time", causal)]
    return [Reach(size, head_width, "all", causal)]


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

    def forward(self, x: Tensor, reach: Reach) -> Tensor:
        x = reach.split(x)
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, head_width)
        qk, v = qkv.split([2, 1])
        qk = self.norm(qk)
        if reach.cos is not None and reach.sin is not None:
            qk = rotate(qk, reach.cos, reach.sin)
        q, k = qk.unbind()
        x = attend(q * self.temperature.to(q.dtype), k, v.squeeze(0), reach.mask)
        return reach.join(self.dropout(self.proj(x.transpose(1, 2).reshape(B, N, -1))))


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
