"""One variance-preserving Gaussian diffusion process and its loss in nats (the paper's L_z and L_x)."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ulzoo.diffusion.adaptive import AdaptiveSchedule
from ulzoo.diffusion.noise import Noise, low_discrepancy_times, randn, randn_like
from ulzoo.diffusion.samplers import GRIDS, SAMPLERS, Guidance
from ulzoo.diffusion.schedules import Schedule, alpha_sigma, expand_like, levels_like, time_of
from ulzoo.diffusion.weightings import ElboWeighting, Weighting

Prediction = Literal["x", "eps", "v"]
Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), logsnr (B,)) -> prediction (B, ...)

_ELBO = ElboWeighting()


def normal_kl(x: Tensor, logsnr: Tensor | float) -> Tensor:
    """KL(N(α x, σ² I) ‖ N(0, I)) in nats per example, (B,), of x (B, ...) noised to `logsnr`, a number or (B,)."""
    level = levels_like(logsnr, x)
    per_dimension = (torch.sigmoid(level) * (x.square() - 1) + F.softplus(level)) / 2
    return per_dimension.flatten(1).sum(1)


class GaussianDiffusion:
    """x_t = α x + σ ε with α² = sigmoid(λ), σ² = sigmoid(-λ), and a network that predicts x, ε or v = α ε - σ x.

    Args:
        schedule: λ(t).
        prediction: what the denoiser returns.
        final_prediction: samples are x̂ of the last evaluation, as is usual, instead of x_0 with the noise of λ(0).
    """

    def __init__(self, schedule: Schedule, prediction: Prediction = "x", final_prediction: bool = False):
        if prediction not in get_args(Prediction):
            raise ValueError(f"prediction must be one of {', '.join(get_args(Prediction))}, got {prediction!r}")
        self.schedule, self.prediction, self.final_prediction = schedule, prediction, final_prediction

    def add_noise(self, x: Tensor, *, logsnr: Tensor, noise: Tensor) -> Tensor:
        """x_t at log-SNR `logsnr` (B,)."""
        alpha, sigma = alpha_sigma(expand_like(logsnr, x))
        return alpha * x + sigma * noise

    def denoise_scaled(self, denoiser: Denoiser, x_t: Tensor, *, logsnr: Tensor, gain: Tensor) -> Tensor:
        """The prediction for noised data g x, of a denoiser of x: up to a factor it is x noised to λ + 2 log g.

        Args:
            denoiser: (x_t, logsnr (B,)) -> prediction.
            x_t: noised g x, (B, ...), at log-SNR `logsnr` (B,).
            gain: g, (B,).
        """
        g, (alpha, sigma) = expand_like(gain, x_t), alpha_sigma(expand_like(logsnr, x_t))
        norm = (alpha**2 * g**2 + sigma**2).sqrt()
        prediction = denoiser(x_t / norm, logsnr + 2 * gain.log()).to(x_t.dtype)
        if self.prediction == "x":
            return g * prediction
        if self.prediction == "eps":
            return prediction
        return alpha * sigma * (1 - g**2) / norm**2 * x_t + g / norm * prediction  # v = (α x_t - g x̂) / σ

    def to_x(self, prediction: Tensor, *, x_t: Tensor, logsnr: Tensor) -> Tensor:
        """The denoised x̂ that a prediction at `x_t` stands for."""
        if self.prediction == "x":
            return prediction
        alpha, sigma = alpha_sigma(expand_like(logsnr, x_t))
        if self.prediction == "eps":
            return (x_t - sigma * prediction) / alpha
        return alpha * x_t - sigma * prediction

    def _target(self, x: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
        if self.prediction == "x":
            return x
        if self.prediction == "eps":
            return noise
        alpha, sigma = alpha_sigma(expand_like(logsnr, x))
        return alpha * noise - sigma * x

    def _loss_weight(self, logsnr: Tensor, weighting: Weighting) -> Tensor:
        """w(λ) e^λ ‖x - x̂‖² = w(λ) ‖ε - ε̂‖² = w(λ) α² ‖v - v̂‖², so no parametrisation divides by α or σ."""
        if self.prediction == "x":
            return weighting.times_snr(logsnr)
        if self.prediction == "eps":
            return weighting(logsnr)
        return weighting(logsnr) * torch.sigmoid(logsnr)

    def loss(
        self,
        denoiser: Denoiser,
        x: Tensor,
        *,
        weighting: Weighting | None = None,
        generator: Noise | None = None,
        logsnr_max: Tensor | None = None,
        adaptive: AdaptiveSchedule | None = None,
    ) -> Tensor:
        """Monte-Carlo estimate of E_t[-λ'(t) e^λ/2 w(λ) ‖x - x̂(x_t, t)‖²] (Eq. 4), without the terminal KL of L_z.

        Args:
            denoiser: (x_t, logsnr (B,)) -> prediction, of the shape of `x`.
            x: clean data, (B, ...); the gradient reaches it through x_t and through the target.
            weighting: w(λ); the ELBO's w = 1 if None.
            generator: source of t and ε, on the device of `x`.
            logsnr_max: (B,), the log-SNR at which the process of each example begins; λ(0) if None.
            adaptive: the schedule, if t is to be drawn by its learned density, which learns from these losses in
                training mode. The expectation is the same.

        Returns:
            nats per example, summed over dimensions, (B,).
        """
        t = low_discrepancy_times(len(x), generator, x.device)
        span: Tensor | float = 1.0
        if logsnr_max is not None:
            start = time_of(self.schedule, logsnr_max)
            span = 1 - start
            t = start + span * t
        if adaptive is not None:
            assert logsnr_max is None
            t, span = adaptive.draw(t)
        logsnr = self.schedule.logsnr(t)
        noise = randn_like(x, generator)
        prediction = denoiser(self.add_noise(x, logsnr=logsnr, noise=noise), logsnr)
        error = (self._target(x, noise, logsnr) - prediction).float().square().flatten(1).sum(1)
        weight = self._loss_weight(logsnr, weighting or _ELBO)
        nats = -self.schedule.dlogsnr_dt(t) * span * weight / 2 * error  # (B,)
        if adaptive is not None and adaptive.training:
            adaptive.record(t, nats.detach() / span)
        return nats

    def terminal_kl(self, x: Tensor) -> Tensor:
        """KL(N(α_1 x, σ_1² I) ‖ N(0, I)) in nats per example, (B,): the information about x that is left at t = 1."""
        return normal_kl(x, self.schedule.logsnr_min)

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        shape: tuple[int, ...],
        steps: int,
        sampler: str = "ddim",
        generator: Noise | None = None,
        device: torch.device | str | None = None,
        guidance: Guidance | None = None,
    ) -> Tensor:
        """Run the process backwards from x_1 ~ N(0, I). Log-SNRs stay on the host, so no step waits for the device.

        Args:
            denoiser: (x_t, logsnr (B,)) -> prediction.
            shape: (B, ...) of the sample.
            steps: network evaluations.
            sampler: "ddpm" (ancestral) or "ddim" (deterministic), of first order; "dpmpp_2m" (deterministic) or
                "dpmpp_2m_sde" (stochastic), of second order with a log-SNR grid of their own.
            generator: source of x_1 and of the ancestral noise, on `device`; for all examples, or one per example.
            guidance: replaces the denoiser at the levels where it applies.

        Returns:
            x_0 at log-SNR λ(0): signal and the noise that belongs there, (B, ...); x̂ with `final_prediction`.
        """
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")

        def denoise(x_t: Tensor, level: Tensor) -> Tensor:
            network = guidance if guidance and guidance.applies(level.item()) else denoiser
            logsnr = torch.full((len(x_t),), level.item(), device=x_t.device, dtype=torch.float32)
            return self.to_x(network(x_t, logsnr).to(x_t.dtype), x_t=x_t, logsnr=level)

        x_1 = randn(shape, generator, device)
        logsnrs = GRIDS[sampler](self.schedule, steps)
        if self.final_prediction:
            return denoise(SAMPLERS[sampler](denoise, x_1, logsnrs[:-1], generator), logsnrs[-2])
        return SAMPLERS[sampler](denoise, x_1, logsnrs, generator)
