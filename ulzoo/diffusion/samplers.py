"""Samplers: from x_1 at the first log-SNR of a rising grid to x_0 at its last, given a denoiser that returns x̂.

Every sampler ends *at* the last log-SNR, noise included: the decoder was trained on the noisy latent z_0, not on a
final ẑ. Classifier-free guidance is a denoiser that combines two predictions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ulzoo.diffusion.noise import Noise, randn_like
from ulzoo.diffusion.schedules import Schedule, alpha_sigma

DenoiseToX = Callable[[Tensor, Tensor], Tensor]  # (x_t, logsnr ()) -> x̂


def ddpm(denoise: DenoiseToX, x: Tensor, logsnrs: Tensor, generator: Noise | None = None) -> Tensor:
    """Ancestral sampling from q(x_s | x_t, x = x̂), the posterior whose KL the ELBO sums (arXiv 2107.00630, App. A)."""
    for t, s in pairwise(logsnrs):
        alpha_t, _ = alpha_sigma(t)
        alpha_s, sigma_s = alpha_sigma(s)
        x_hat = denoise(x, t)
        c = -torch.expm1(t - s)  # 1 - e^{λ_t - λ_s}
        mean = alpha_s * (x * (1 - c) / alpha_t + c * x_hat)
        x = mean + (c.sqrt() * sigma_s) * randn_like(x, generator)
    return x


def ddim(denoise: DenoiseToX, x: Tensor, logsnrs: Tensor, generator: Noise | None = None) -> Tensor:
    """Deterministic first-order steps that keep ε̂ fixed (arXiv 2010.02502, η = 0)."""
    for t, s in pairwise(logsnrs):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
        x_hat = denoise(x, t)
        x = alpha_s * x_hat + sigma_s * (x - alpha_t * x_hat) / sigma_t
    return x


def dpmpp_2m(denoise: DenoiseToX, x: Tensor, logsnrs: Tensor, generator: Noise | None = None) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, Alg. 2): DDIM's step with x̂ extrapolated from the last two evaluations.

    Its time is h = Δλ/2, half a log-SNR difference; the first step is DDIM's.
    """
    extrapolated = _Extrapolated(denoise)
    for t, s in pairwise(logsnrs):
        (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
        x_hat = extrapolated(x, t, s)
        x = (sigma_s / sigma_t) * x - alpha_s * torch.expm1((t - s) / 2) * x_hat
    return x


def dpmpp_2m_sde(denoise: DenoiseToX, x: Tensor, logsnrs: Tensor, generator: Noise | None = None) -> Tensor:
    """SDE-DPM-Solver++(2M) (arXiv 2211.01095, App. B): DDPM's step with x̂ extrapolated from the last two evaluations.

    The fresh noise of every step reduces the errors of the steps before it.
    """
    extrapolated = _Extrapolated(denoise)
    for t, s in pairwise(logsnrs):
        (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
        x_hat = extrapolated(x, t, s)
        c = -torch.expm1(t - s)  # 1 - e^{-2h}
        x = (sigma_s / sigma_t) * torch.exp((t - s) / 2) * x + alpha_s * c * x_hat
        x = x + (c.sqrt() * sigma_s) * randn_like(x, generator)
    return x


class _Extrapolated:
    """x̂ for the step from t to s, extrapolated by half a step on the line through the last two evaluations.

    The ratio of step lengths is clamped to 1: where steps grow, the full ratio overshoots by more than the error of a
    first-order step.
    """

    def __init__(self, denoise: DenoiseToX):
        self.denoise = denoise
        self.last: tuple[Tensor, Tensor] | None = None  # x̂ and the length of its step

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x_hat, last = self.denoise(x, t), self.last
        self.last = x_hat, s - t
        if last is None:
            return x_hat
        return x_hat + ((s - t) / last[1]).clamp(max=1) / 2 * (x_hat - last[0])


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": dpmpp_2m_sde}


def even_times(schedule: Schedule, steps: int) -> Tensor:
    """Log-SNRs at the boundaries of equal steps in t, (steps + 1,)."""
    return schedule.logsnr(torch.linspace(1, 0, steps + 1, dtype=torch.float32))


def even_roots(schedule: Schedule, steps: int) -> Tensor:
    """Log-SNRs between the schedule's ends at which (σ/α)^{1/7} falls by equal steps (EDM, arXiv 2206.00364, Eq. 5).

    Consecutive steps in log-SNR differ little in length, which a second-order solver needs. Shape (steps + 1,).
    """
    ends = torch.tensor([schedule.logsnr_min, schedule.logsnr_max], dtype=torch.float64)
    noisiest, cleanest = torch.exp(-ends / 14)
    logsnrs = -14 * torch.lerp(noisiest, cleanest, torch.linspace(0, 1, steps + 1, dtype=torch.float64)).log()
    logsnrs[0], logsnrs[-1] = ends
    return logsnrs.float()


GRIDS: dict[str, Callable[[Schedule, int], Tensor]] = {
    "ddpm": even_times,
    "ddim": even_times,
    "dpmpp_2m": even_roots,
    "dpmpp_2m_sde": even_roots,
}


CfgDenoiser = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (arXiv 2207.12598) within an interval of log-SNR (arXiv 2404.07724).

    It predicts unconditional + scale · (conditional - unconditional). At one noise level x̂, ε̂ and v̂ are affine in
    each other, so the formula is the same in every parametrisation.

    Args:
        denoiser: (x_t, logsnr (B,)) -> the conditional and the unconditional prediction, in one pass over both.
        scale: 1 is the conditional model; larger values follow the condition more closely.
        interval: (lowest, highest) log-SNR that is guided; None guides at every level.
    """

    denoiser: CfgDenoiser
    scale: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"the guidance interval must rise, got {self.interval[0]} to {self.interval[1]}")

    def applies(self, logsnr: float) -> bool:
        """Whether this level is guided; elsewhere the conditional network alone predicts."""
        return self.scale != 1 and (self.interval is None or self.interval[0] <= logsnr <= self.interval[1])

    def __call__(self, x_t: Tensor, logsnr: Tensor) -> Tensor:
        conditional, unconditional = self.denoiser(x_t, logsnr)
        return unconditional + self.scale * (conditional - unconditional)
