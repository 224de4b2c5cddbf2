"""What measures the latent's rate in stage 1, and what of it the encoder is trained on (L_z; Tables 5 and 6)."""

from dataclasses import dataclass
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.diffusion import ElboWeighting, GaussianDiffusion, Noise, normal_kl, randn_like
from ulzoo.model.contract import Sampling
from ulzoo.model.denoisers import NO_DROPOUT, Conditions, DiffusionModel, Dropout


@dataclass(frozen=True)
class Posterior:
    """z_clean given x: `mean` where the variance is fixed at nothing, else N(mean, σ_z²).

    Attributes:
        mean: (B, c, ...).
        log_variance: log σ_z², of the same shape; None for a point.
    """

    mean: Tensor
    log_variance: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor, learned: bool, logsnr: float) -> "Posterior":
        """From the encoder's channels: c of a point; 2c, mean and log variance, where that is learned.

        An encoder that says 0 has the variance e^{-λ_z(0)}, that of the fixed noise against the signal.
        """
        if not learned:
            return cls(features)
        mean, log_variance = features.chunk(2, dim=1)
        return cls(mean, log_variance - logsnr)

    def sample(self, generator: Noise | None = None) -> Tensor:
        """z_clean, (B, c, ...), reparametrised."""
        if self.log_variance is None:
            return self.mean
        return self.mean + (self.log_variance / 2).exp() * randn_like(self.mean, generator)

    def entropy(self, logsnr: Tensor | float) -> Tensor | float:
        """Eq. 5's term L_e = -½ log(σ_z² e^λ + 1), summed over dimensions, (B,); 0 of a point.

        With it the ELBO of a drawn z_clean bounds KL(p(z_0|x) ‖ p(z_0)): what the draw itself adds is no information.

        Args:
            logsnr: of the latent z_0, a number or (B,).
        """
        if self.log_variance is None:
            return 0.0
        level = torch.as_tensor(logsnr, dtype=self.mean.dtype, device=self.mean.device)
        level = level.reshape(-1, *[1] * (self.mean.ndim - 1))
        return -F.softplus(self.log_variance + level).flatten(1).sum(1) / 2

    def repeat(self, times: int) -> "Posterior":
        """The same, `times` times over in the batch."""

        def again(x: Tensor) -> Tensor:
            return x.repeat(times, *[1] * (x.ndim - 1))

        return Posterior(again(self.mean), None if self.log_variance is None else again(self.log_variance))


class DiffusionPrior(DiffusionModel):
    """The paper's prior: a diffusion model whose unweighted ELBO is the rate.

    Args:
        network, diffusion: see `DiffusionModel`; the schedule's λ(0) is the latent's log-SNR.
        stop_gradient: keep the rate's gradient from the encoder (Table 6, A): the prior still measures the bits.
        normal_kl: weight of KL(N(α_0 z_clean, σ_0² I) ‖ N(0, I)), which keeps such an encoder within bounds.
        takes_text: whether it is told of captions.
        dropout: see `Conditional`.
    """

    def __init__(
        self,
        network: nn.Module,
        diffusion: GaussianDiffusion,
        stop_gradient: bool = False,
        normal_kl: float = 0.0,
        takes_text: bool = False,
        dropout: Dropout = NO_DROPOUT,
    ):
        super().__init__(network, diffusion, ElboWeighting(), dropout, takes_text)
        self.stop_gradient, self.normal_kl = stop_gradient, normal_kl

    def objective(
        self,
        z_clean: Tensor,
        entropy: Tensor | float,
        generator: Noise | None = None,
        logsnr_max: Tensor | None = None,
        gradient: float = 1.0,
        **conditions: Unpack[Conditions],
    ) -> tuple[Tensor, Tensor]:
        """The rate, and the term of the loss in its place, in nats per example, (B,) each.

        Args:
            entropy: what an encoder with a variance of its own takes off the rate (Eq. 5); 0 without one.
            logsnr_max: (B,), the latent's log-SNR; λ(0) if None.
            gradient: scale of the rate's gradient to the encoder.
        """
        scale = 0.0 if self.stop_gradient else gradient
        rate = self.rate(scale_gradient(z_clean, scale), generator, logsnr_max, **conditions)
        if isinstance(entropy, Tensor):
            rate = rate + scale_gradient(entropy, scale)
        if not self.normal_kl:
            return rate, rate
        level = self.diffusion.schedule.logsnr_max if logsnr_max is None else logsnr_max
        return rate, rate + self.normal_kl * normal_kl(z_clean, level)


class NormalPrior(nn.Module):
    """A standard normal prior, as in a VAE: the rate is KL(N(α_0 z_clean, σ_0² I) ‖ N(0, I)) (Table 5).

    Args:
        logsnr: λ_z(0).
        weight: of the rate in the loss, β in the literature; the rate is reported without it.
    """

    num_classes = 0
    takes_text = False

    def __init__(self, logsnr: float, weight: float = 1.0):
        super().__init__()
        self.logsnr, self.weight = logsnr, weight

    def rate(
        self,
        x: Tensor,
        generator: Noise | None = None,
        logsnr_max: Tensor | None = None,
        **conditions: Unpack[Conditions],
    ) -> Tensor:
        """Nats per example, (B,), without noise of its own."""
        return normal_kl(x, self.logsnr if logsnr_max is None else logsnr_max)

    def objective(
        self,
        z_clean: Tensor,
        entropy: Tensor | float,
        generator: Noise | None = None,
        logsnr_max: Tensor | None = None,
        gradient: float = 1.0,
        **conditions: Unpack[Conditions],
    ) -> tuple[Tensor, Tensor]:
        """As `DiffusionPrior.objective`."""
        rate = self.rate(scale_gradient(z_clean, gradient), logsnr_max=logsnr_max)
        if isinstance(entropy, Tensor):
            rate = rate + scale_gradient(entropy, gradient)
        return rate, self.weight * rate

    def sample(
        self,
        shape: tuple[int, ...],
        sampling: Sampling,
        generator: torch.Generator | None,
        device: torch.device,
        **conditions: Unpack[Conditions],
    ) -> Tensor:
        """z_0 ~ N(0, I)."""
        return torch.randn(shape, device=device, generator=generator)


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x, with its gradient times `scale`."""
    if scale == 0:
        return x.detach()
    return x if scale == 1 else x.detach() + scale * (x - x.detach())
