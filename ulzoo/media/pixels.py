"""The two pixel ranges, uint8 [0, 255] on disk and float [-1, 1] in a model, and the PSNR between images."""

from __future__ import annotations

import torch
from torch import Tensor

PSNR_CAP = 58.92  # dB; 10 log10(255² / (1/12)), the PSNR of an image against itself rounded to uint8


def from_uint8(pixels: Tensor, *, out: Tensor | None = None) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1], any shape; written to `out` if given."""
    assert pixels.dtype == torch.uint8, pixels.dtype
    x = pixels.float() if out is None else out.copy_(pixels)
    return x.div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Float in [-1, 1] to uint8 in [0, 255], rounded to the nearest and clamped; the inverse of `from_uint8`."""
    assert x.is_floating_point(), x.dtype
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each example in dB, on uint8-rounded pixels in [0, 255].

    The squared error is averaged over all dimensions but the first and clamped from below to 1/12, the variance of the
    rounding itself. Identical images thus have 58.92 dB, not infinity, and one blank image cannot dominate a mean.

    Args:
        x, y: float in [-1, 1], both (B, ...).

    Returns:
        (B,) float32.
    """
    assert x.shape == y.shape, (x.shape, y.shape)
    error = (to_uint8(x).float() - to_uint8(y).float()).square().flatten(1).mean(1)  # (B,)
    return 10 * torch.log10(255**2 / error.clamp(min=1 / 12))


def frame_psnr(x: Tensor, y: Tensor) -> Tensor:
    """`psnr` of each frame of clips: x and y (B, C, T, H, W), the result (B, T)."""
    assert x.shape == y.shape and x.ndim == 5, (x.shape, y.shape)
    frames, others = (clips.transpose(1, 2).flatten(0, 1) for clips in (x, y))  # (B · T, C, H, W)
    return psnr(frames, others).reshape(len(x), -1)
