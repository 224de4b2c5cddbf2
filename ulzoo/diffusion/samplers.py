"""Samplers: from x_1 at the first log-SNR of a rising grid to x_0 at its last, given a denoiser that returns x̂.

Each ends *at* the last log-SNR, noise included: the latent z_0 is what the decoder was trained on, not a final ẑ.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ulzoo.diffusion.noise import alpha_sigma, randn_like

DenoiseToX = Callable[[Tensor, Tensor], Tensor]  # (x_t, logsnr ()) -> x̂


def ddpm(denoise: DenoiseToX, x: Tensor, logsnrs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Ancestral sampling from q(x_s | x_t, x = x̂), the posterior whose KL the ELBO sums (arXiv 2107.00630, App. A)."""
    for t, s in pairwise(logsnrs):
        alpha_t, _ = alpha_sigma(t)
        alpha_s, sigma_s = alpha_sigma(s)
        x_hat = denoise(x, t)
        c = -torch.expm1(t - s)  # 1 - e^{λ_t - λ_s}
        mean = alpha_s * (x * (1 - c) / alpha_t + c * x_hat)
        x = mean + (c.sqrt() * sigma_s) * randn_like(x, generator)
    return x


def ddim(denoise: DenoiseToX, x: Tensor, logsnrs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Deterministic first-order steps that keep ε̂ fixed (arXiv 2010.02502, η = 0)."""
    for t, s in pairwise(logsnrs):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
        x_hat = denoise(x, t)
        x = alpha_s * x_hat + sigma_s * (x - alpha_t * x_hat) / sigma_t
    return x


def dpmpp_2m(denoise: DenoiseToX, x: Tensor, logsnrs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """DPM-Solver++(2M): the same step with x̂ extrapolated from the last two evaluations (arXiv 2211.01095, Alg. 2).

    Its time is h = Δλ/2, half a log-SNR difference; the first step is DDIM's. Where steps grow, as they do towards λ(0)
    under the cosine schedules, x̂ is extrapolated as if they did not: the full ratio overshoots by more than DDIM errs.
    """
    previous: Tensor | None = None
    h_previous = logsnrs.new_zeros(())
    for t, s in pairwise(logsnrs):
        (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
        h = (s - t) / 2
        x_hat = denoise(x, t)
        direction = x_hat if previous is None else x_hat + (x_hat - previous) * (h / h_previous).clamp(max=1) / 2
        x = (sigma_s / sigma_t) * x - alpha_s * torch.expm1(-h) * direction
        previous, h_previous = x_hat, h
    return x


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m}
