"""The rate of the latent: the encoder's posterior and the priors that measure its bits (L_z; Tables 5 and 6)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.diffusion import (
    ElboWeighting,
    GaussianDiffusion,
    Noise,
    TruncatedLogistic,
    expand_like,
    independent_randn_like,
    normal_kl,
    randn,
)
from ulzoo.diffusion.schedules import levels_like
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Sampling
from ulzoo.model.denoisers import NO_DROPOUT, ConditionDropout, DiffusionModel
from ulzoo.nn.conditioning import NO_CONDITIONS, NetworkConditions

COLLAPSED_BITS_PER_DIMENSION = 0.02  # below this rate the latent carries nothing


@dataclass(frozen=True)
class Posterior:
    """z_clean given x: the point `mean`, or N(mean, σ_z²) with a learned variance (Table 6 D).

    Attributes:
        mean: (B, c, ...).
        log_variance: log σ_z², of the same shape; None for a point.
    """

    mean: Tensor
    log_variance: Tensor | None = None

    @classmethod
    def from_features(cls, features: Tensor, *, learned: bool, logsnr: float) -> "Posterior":
        """From the encoder's channels: c for a point; 2c, mean and log variance, for a learned variance.

        An encoder that outputs 0 has the variance e^{-λ_z(0)}, that of the fixed noise relative to the signal.
        """
        if not learned:
            return cls(features)
        mean, log_variance = features.chunk(2, dim=1)
        return cls(mean, log_variance - logsnr)

    def sample(self, generator: Noise | None = None) -> Tensor:
        """z_clean, (B, c, ...), reparametrised."""
        if self.log_variance is None:
            return self.mean
        return self.mean + (self.log_variance / 2).exp() * independent_randn_like(self.mean, generator)

    def entropy(self, logsnr: Tensor | float) -> Tensor:
        """L_e = -½ log(σ_z² e^λ + 1) (Eq. 5), summed over dimensions, (B,); 0 for a point.

        Added to the ELBO of a sampled z_clean it bounds KL(p(z_0|x) ‖ p(z_0)): the sampling noise is no information.

        Args:
            logsnr: log-SNR of the latent z_0, a number or (B,).
        """
        if self.log_variance is None:
            return self.mean.new_zeros(len(self.mean), dtype=torch.float32)
        return -F.softplus(self.log_variance + levels_like(logsnr, self.mean)).flatten(1).sum(1) / 2

    def scale(self, gain: Tensor) -> "Posterior":
        """The posterior of z_clean times a gain per example, (B,)."""
        log_variance, factor = self.log_variance, expand_like(gain, self.mean)
        return Posterior(factor * self.mean, None if log_variance is None else log_variance + 2 * factor.log())

    def repeat(self, times: int) -> "Posterior":
        """The posterior of a batch that is repeated `times` times."""
        repeats = (times, *[1] * (self.mean.ndim - 1))
        log_variance = None if self.log_variance is None else self.log_variance.repeat(repeats)
        return Posterior(self.mean.repeat(repeats), log_variance)


class DiffusionPrior(DiffusionModel):
    """The paper's prior: a diffusion model whose unweighted ELBO is the rate.

    Args:
        network: see `ConditionalNetwork`.
        diffusion: its schedule's λ(0) is the latent's log-SNR.
        stop_gradient: keep the gradient of the rate from the encoder (Table 6 A); the prior still measures the bits.
        normal_kl: weight of KL(N(α_0 z_clean, σ_0² I) ‖ N(0, I)), which bounds the latent of such an encoder.
        dropout, takes_text: see `ConditionalNetwork`.
    """

    def __init__(
        self,
        network: nn.Module,
        diffusion: GaussianDiffusion,
        *,
        stop_gradient: bool = False,
        normal_kl: float = 0.0,
        dropout: ConditionDropout = NO_DROPOUT,
        takes_text: bool = False,
        random_logsnr: TruncatedLogistic | None = None,
    ):
        super().__init__(network, diffusion, ElboWeighting(), dropout=dropout, takes_text=takes_text)
        self.stop_gradient, self.normal_kl, self.random_logsnr = stop_gradient, normal_kl, random_logsnr

    def regularisation(self, rate: Tensor, z_clean: Tensor, logsnr: Tensor | float) -> Tensor:
        """The term of the training loss, (B,): the rate itself, plus the KL of Table 6 A if it has a weight."""
        return rate + self.normal_kl * normal_kl(z_clean, logsnr) if self.normal_kl else rate


class NormalPrior(nn.Module):
    """A standard normal prior, as in a VAE: the rate is KL(N(α_0 z_clean, σ_0² I) ‖ N(0, I)) (Table 5).

    Args:
        logsnr: λ_z(0).
        weight: weight of the rate in the loss, β in the literature; the reported rate is unweighted.
    """

    num_classes = 0
    stop_gradient = False
    takes_text = False
    random_logsnr = None

    def __init__(self, logsnr: float, weight: float = 1.0):
        super().__init__()
        self.logsnr, self.weight = logsnr, weight

    def select_conditions(self, conditions: Conditions, device: torch.device) -> NetworkConditions:
        return NO_CONDITIONS

    def drop_conditions(self, conditions: NetworkConditions, generator: Noise | None = None) -> NetworkConditions:
        return NO_CONDITIONS

    def rate(
        self,
        x: Tensor,
        *,
        conditions: NetworkConditions = NO_CONDITIONS,
        generator: Noise | None = None,
        logsnr_max: Tensor | None = None,
    ) -> Tensor:
        """Nats per example, (B,), in closed form."""
        return normal_kl(x, self.logsnr if logsnr_max is None else logsnr_max)

    def regularisation(self, rate: Tensor, z_clean: Tensor, logsnr: Tensor | float) -> Tensor:
        """The term of the training loss, (B,)."""
        return self.weight * rate

    def sample(
        self,
        shape: tuple[int, ...],
        sampling: Sampling,
        *,
        conditions: NetworkConditions = NO_CONDITIONS,
        generator: Noise | None = None,
        device: torch.device | None = None,
        callback: object = None,
    ) -> Tensor:
        """z_0 ~ N(0, I)."""
        return randn(shape, generator, device)


Prior = DiffusionPrior | NormalPrior


def scale_gradient(x: Tensor, scale: float | Tensor) -> Tensor:
    """x, with its gradient times `scale`."""
    if not isinstance(scale, Tensor) and scale in (0, 1):
        return x if scale else x.detach()
    return x.detach() + scale * (x - x.detach())
