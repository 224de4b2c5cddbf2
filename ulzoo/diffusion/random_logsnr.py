"""A random maximum log-SNR, which turns an ELBO into a sigmoid-weighted loss (paper, Appendix B ii)."""

import torch
from torch import Tensor

from ulzoo.diffusion.noise import Noise, rand


class TruncatedLogistic:
    """The logistic distribution around `bias` with scale 1, truncated to [low, high].

    A latent whose log-SNR is drawn from it, with the ELBO from there on as its rate, has in expectation the ELBO with
    weight w(λ) = P(maximum ≥ λ), which is sigmoid(bias - λ) but for the truncation.

    Args:
        bias: its location.
        low: least value.
        high: greatest value, the λ_z(0) that the trained model samples at.
    """

    def __init__(self, bias: float, low: float, high: float):
        if low >= high:
            raise ValueError(f"low must be below high, got {low} and {high}")
        self.bias, self.low, self.high = bias, low, high
        self._tails = tuple(torch.sigmoid(torch.tensor(bias - end, dtype=torch.float64)).item() for end in (low, high))

    def sample(self, n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
        """n values, (n,), by inverting `survival`."""
        u = rand(n, generator, device)
        logsnr = self.bias - torch.logit(self._tails[1] + u * (self._tails[0] - self._tails[1]))
        return logsnr.clamp(self.low, self.high)

    def survival(self, logsnr: Tensor) -> Tensor:
        """P(maximum ≥ λ), elementwise: the weight that the ELBO gets at λ."""
        tail = torch.sigmoid(self.bias - logsnr)
        return ((tail - self._tails[1]) / (self._tails[0] - self._tails[1])).clamp(0, 1)
