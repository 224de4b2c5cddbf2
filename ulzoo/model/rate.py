"""What measures the latent's rate in stage 1, and what of it the encoder is trained on (L_z; Tables 5 and 6)."""

from typing import Unpack

import torch
from torch import Tensor, nn

from ulzoo.diffusion import ElboWeighting, GaussianDiffusion, Noise, normal_kl
from ulzoo.model.contract import Sampling
from ulzoo.model.denoisers import NO_DROPOUT, Conditions, DiffusionModel, Dropout


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
