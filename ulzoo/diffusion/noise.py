"""The variance-preserving noise of one level: α, σ from a log-SNR, and ε."""

import torch
from torch import Tensor


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """α = √sigmoid(λ) and σ = √sigmoid(-λ), elementwise."""
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def expand_like(per_example: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...) with as many dimensions as `x`."""
    return per_example.reshape(-1, *[1] * (x.ndim - 1))


def randn_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `x`."""
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
