"""Classifier-free guidance (arXiv 2207.12598) within an interval of log-SNR (arXiv 2404.07724)."""

import torch
from torch import Tensor

from ulzoo.diffusion.gaussian import Denoiser
from ulzoo.diffusion.noise import expand_like


def guided(
    conditional: Denoiser, unconditional: Denoiser, scale: float, interval: tuple[float, float] | None = None
) -> Denoiser:
    """unconditional + scale · (conditional - unconditional) where log-SNR is within `interval`, conditional elsewhere.

    At one noise level x̂, ε̂ and v̂ are affine in each other, so the formula means the same in each of them.

    Args:
        scale: 1 leaves the conditional model as it is; more follows the condition more closely.
        interval: (lowest, highest) log-SNR that is guided; None guides everywhere.
    """
    if interval is not None and interval[0] > interval[1]:
        raise ValueError(f"the guidance interval must rise, got {interval[0]} to {interval[1]}")
    if scale == 1:
        return conditional

    def denoiser(x_t: Tensor, logsnr: Tensor) -> Tensor:
        cond = conditional(x_t, logsnr)
        if interval is not None:
            inside = (logsnr >= interval[0]) & (logsnr <= interval[1])
            if not inside.any():
                return cond
            weight = torch.where(inside, scale, 1.0)
        else:
            weight = torch.full_like(logsnr, scale)
        uncond = unconditional(x_t, logsnr)
        return uncond + expand_like(weight, cond) * (cond - uncond)

    return denoiser
