"""One variance-preserving Gaussian diffusion process and its loss in nats (paper §1, §2)."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ulzoo.diffusion.noise import alpha_sigma, expand_like, randn_like
from ulzoo.diffusion.samplers import SAMPLERS
from ulzoo.diffusion.schedules import Schedule
from ulzoo.diffusion.weightings import ElboWeighting, Weighting

Prediction = Literal["x", "eps", "v"]
Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), logsnr (B,)) -> prediction (B, ...)

_ELBO = ElboWeighting()


def low_discrepancy_times(
    n: int, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """n times in [0, 1), each uniform, together one per stratum of width 1/n (VDM, arXiv 2107.00630, App. I.1)."""
    offset = torch.rand((), generator=generator, device=device)
    return (offset + torch.arange(n, device=device) / n) % 1  # (n,)


class GaussianDiffusion:
    """x_t = α x + σ ε with α² = sigmoid(λ), σ² = sigmoid(-λ), and a network that predicts x, ε or v = α ε - σ x.

    With a data_std s other than 1, v = (α s ε - σ x / s) / √D, where D = α² s² + σ²: the preconditioning of EDM (arXiv
    2206.00364) in these terms, x̂ = α s²/D x_t - s σ/√D v̂. For data of variance s² both v and x_t / √D have variance 1,
    and v̂ = 0 is the best denoiser that knows no more than s.

    Args:
        schedule: λ(t).
        prediction: what the denoiser returns.
        data_std: s, the standard deviation of x that v is made for.
    """

    def __init__(self, schedule: Schedule, prediction: Prediction = "x", data_std: float = 1.0):
        if prediction not in get_args(Prediction):
            raise ValueError(f"prediction must be one of {', '.join(get_args(Prediction))}, got {prediction!r}")
        if not data_std > 0:
            raise ValueError(f"data_std must be positive, got {data_std}")
        if data_std != 1 and prediction != "v":
            raise ValueError(f"data_std scales v only, the prediction is {prediction!r}: leave it at 1")
        self.schedule, self.prediction, self.data_std = schedule, prediction, data_std

    def add_noise(self, x: Tensor, logsnr: Tensor, noise: Tensor) -> Tensor:
        """x_t at log-SNR `logsnr` (B,)."""
        alpha, sigma = alpha_sigma(expand_like(logsnr, x))
        return alpha * x + sigma * noise

    def to_x(self, prediction: Tensor, x_t: Tensor, logsnr: Tensor) -> Tensor:
        """The denoised x̂ that a prediction at `x_t` stands for."""
        if self.prediction == "x":
            return prediction
        alpha, sigma = alpha_sigma(expand_like(logsnr, x_t))
        if self.prediction == "eps":
            return (x_t - sigma * prediction) / alpha
        s, total = self.data_std, self._variance(alpha, sigma)
        return alpha * s**2 / total * x_t - s * sigma / total.sqrt() * prediction

    def _variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """D = α² s² + σ², the variance of x_t for data of variance s²."""
        return (alpha * self.data_std) ** 2 + sigma**2

    def _target(self, x: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
        if self.prediction == "x":
            return x
        if self.prediction == "eps":
            return noise
        alpha, sigma = alpha_sigma(expand_like(logsnr, x))
        return (alpha * self.data_std * noise - sigma / self.data_std * x) / self._variance(alpha, sigma).sqrt()

    def _loss_weight(self, logsnr: Tensor, weighting: Weighting) -> Tensor:
        """w(λ) e^λ ‖x - x̂‖² = w(λ) ‖ε - ε̂‖² = w(λ) α² s²/D ‖v - v̂‖², so no parametrisation divides by α or σ."""
        if self.prediction == "x":
            return weighting.times_snr(logsnr)
        if self.prediction == "eps":
            return weighting(logsnr)
        alpha, sigma = alpha_sigma(logsnr)
        return weighting(logsnr) * (alpha * self.data_std) ** 2 / self._variance(alpha, sigma)

    def loss(
        self,
        denoiser: Denoiser,
        x: Tensor,
        weighting: Weighting | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Monte-Carlo estimate of E_t[-λ'(t) e^λ/2 w(λ) ‖x - x̂(x_t, t)‖²] (paper §2; L_z without its terminal KL).

        Args:
            denoiser: (x_t, logsnr (B,)) -> prediction, of the shape of `x`.
            x: clean data, (B, ...); gradients reach it both through x_t and through the target.
            weighting: w(λ); the ELBO's w = 1 if None.
            generator: source of t and ε, on the device of `x`.

        Returns:
            nats per example, summed over dimensions, (B,).
        """
        t = low_discrepancy_times(len(x), generator, x.device)
        logsnr = self.schedule.logsnr(t)
        noise = randn_like(x, generator)
        prediction = denoiser(self.add_noise(x, logsnr, noise), logsnr)
        error = (self._target(x, noise, logsnr) - prediction).float().square().flatten(1).sum(1)
        weight = self._loss_weight(logsnr, weighting or _ELBO)
        return -self.schedule.dlogsnr_dt(t) * weight / 2 * error  # (B,)

    def terminal_kl(self, x: Tensor) -> Tensor:
        """KL(N(α_1 x, σ_1² I) ‖ N(0, I)) in nats per example, (B,): what is still visible of x at t = 1."""
        logsnr = torch.tensor(self.schedule.logsnr_min, dtype=x.dtype, device=x.device)
        per_dimension = (torch.sigmoid(logsnr) * (x.square() - 1) + F.softplus(logsnr)) / 2
        return per_dimension.flatten(1).sum(1)

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        shape: tuple[int, ...],
        steps: int,
        sampler: str = "ddim",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Run the process backwards from x_1 ~ N(0, I) over `steps` equal steps of t.

        Args:
            denoiser: (x_t, logsnr (B,)) -> prediction.
            shape: (B, ...) of the sample.
            steps: network evaluations.
            sampler: "ddpm" (ancestral), "ddim" (deterministic) or "dpmpp_2m" (second order, deterministic).
            generator: source of x_1 and of the ancestral noise, on `device`.

        Returns:
            x_0 at log-SNR λ(0): signal and the noise that belongs there, (B, ...).
        """
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")

        def denoise(x_t: Tensor, logsnr: Tensor) -> Tensor:
            logsnr = logsnr.expand(len(x_t))
            return self.to_x(denoiser(x_t, logsnr).to(x_t.dtype), x_t, logsnr)

        x_1 = torch.randn(shape, device=device, generator=generator)
        logsnrs = self.schedule.logsnr(torch.linspace(1, 0, steps + 1, device=device))
        return SAMPLERS[sampler](denoise, x_1, logsnrs, generator)
