"""Operations on a grid of any number of spatial dimensions: (h, w) for images, (t, h, w) for video."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ulzoo.nn.skeleton import table

CONV = {2: nn.Conv2d, 3: nn.Conv3d}


def divide(size: Sequence[int], by: Sequence[int], what: str) -> tuple[int, ...]:
    """size / by, elementwise; a remainder is a ValueError that names `what`."""
    if len(size) != len(by):
        raise ValueError(f"{what} {list(by)} has {len(by)} dimensions, the grid {list(size)} has {len(size)}")
    if any(b < 1 or s % b for s, b in zip(size, by, strict=True)):
        raise ValueError(f"{what} {list(by)} does not divide the grid {list(size)}")
    return tuple(s // b for s, b in zip(size, by, strict=True))


def in_space(factor: int, dims: int) -> tuple[int, ...]:
    """(factor, factor) for (h, w), (1, factor, factor) for (t, h, w)."""
    return (1,) * (dims - 2) + (factor,) * 2


def patch_sides(patch: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """A patch's extent along every axis: a single number is its side in space, and one frame in time."""
    return in_space(patch, dims) if isinstance(patch, int) else tuple(patch)


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *size) -> (B, C · prod(patch), *size / patch), channels last in memory, as convolutions are fastest."""
    n = len(patch)
    split = [extent for s, p in zip(x.shape[2:], patch, strict=True) for extent in (s // p, p)]
    inner = [3 + 2 * i for i in range(n)]
    outer = [2 + 2 * i for i in range(n)]
    x = x.reshape(*x.shape[:2], *split).permute(0, *outer, 1, *inner)  # (B, *size / patch, C, *patch)
    return x.flatten(1 + n).contiguous().movedim(-1, 1)


def unpatchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C · prod(patch), *size) -> (B, C, *size · patch), the inverse of `patchify`."""
    n = len(patch)
    size = x.shape[2:]
    channels = x.shape[1] // math.prod(patch)
    x = x.reshape(x.shape[0], channels, *patch, *size)
    interleaved = [axis for i in range(n) for axis in (2 + n + i, 2 + i)]
    x = x.permute(0, 1, *interleaved)
    return x.reshape(x.shape[0], channels, *(s * p for s, p in zip(size, patch, strict=True)))


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, *size) -> (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def to_grid(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """(B, N, C) -> (B, C, *size)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *size)


def upsample(x: Tensor, factor: Sequence[int]) -> Tensor:
    """Nearest-neighbour upsampling by whole factors, (B, C, *size) -> (B, C, *size · factor)."""
    for axis, f in enumerate(factor):
        if f > 1:
            x = x.repeat_interleave(f, dim=2 + axis)
    return x


def zero_init(layer: nn.Module) -> nn.Module:
    """Zero a layer's parameters, so that a residual branch or an output starts as the identity or as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def rotary_angles(size: Sequence[int], head_width: int, theta: float = 100.0) -> Tensor:
    """Angles of axial rotary positions (arXiv 2104.09864, one share of the head per axis), (N, head_width / 2).

    An axis of extent 1 has no positions to tell apart and gets no share. Pairs that are left when the axes do not share
    the head evenly get angle 0.
    """
    dims = max(sum(extent > 1 for extent in size), 1)
    pairs = head_width // (2 * dims)
    if pairs == 0 or head_width % 2:
        raise ValueError(
            f"positions: rotary ones in {dims} dimensions need an even head width of at least {2 * dims}, "
            f"got {head_width}"
        )
    tokens = math.prod(size)

    def compute() -> Tensor:
        frequencies = theta ** (-torch.arange(pairs) / pairs)  # (pairs,)
        axes = torch.meshgrid(*(torch.arange(s, dtype=torch.float32) for s in size), indexing="ij")
        angles = [
            axis.reshape(-1, 1) * frequencies for axis, extent in zip(axes, size, strict=True) if extent > 1
        ]  # dims × (N, pairs)
        rest = torch.zeros(tokens, head_width // 2 - pairs * len(angles))
        return torch.cat([*angles, rest], dim=1)

    return table((tokens, head_width // 2), compute)
