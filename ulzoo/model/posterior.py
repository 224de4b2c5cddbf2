"""What the encoder says of the latent: a point, or with a variance of its own a Gaussian (Table 6, D)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ulzoo.diffusion import Noise, randn_like


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
