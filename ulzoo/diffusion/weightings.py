"""Weightings w(λ) of the diffusion loss, relative to the ELBO.

The loss integrand in x is e^λ/2 · w(λ) · ‖x - x̂‖². Each weighting gives w(λ), the weight of the ε-MSE, and the product
e^λ w(λ), the weight of the x-MSE, in a form that neither overflows nor cancels.
"""

import math
from copy import copy
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ulzoo.diffusion.noise import Noise, rand

Position = TypeVar("Position", Tensor, np.ndarray)


class Weighting(Protocol):
    """w(λ) and e^λ w(λ), elementwise."""

    def __call__(self, logsnr: Tensor) -> Tensor: ...

    def times_snr(self, logsnr: Tensor) -> Tensor: ...


class ElboWeighting:
    """w(λ) = 1: the loss is the negative ELBO, an upper bound on a bitrate. The prior needs it: any other weight lets
    the encoder hide information at the discounted noise levels."""

    def __init__(self) -> None:
        pass

    def __call__(self, logsnr: Tensor) -> Tensor:
        return torch.ones_like(logsnr)

    def times_snr(self, logsnr: Tensor) -> Tensor:
        return logsnr.exp()


class SigmoidWeighting:
    """w(λ) = loss_factor · sigmoid(bias - λ): low noise is discounted, so those details are left to the decoder.

    Where w > 1 information goes through the latent, below 1 the decoder models it itself. Either key may be a range
    [low, high] for a variable-rate model, whose examples have values of their own (not in the paper).

    Args:
        bias: log-SNR at which the weight is half the loss factor; higher asks for finer detail in the latent.
        loss_factor: c_lf, weight of the distortion against the rate; above 1, or the latent collapses.
    """

    def __init__(self, *, bias: float | tuple[float, float] = 0.0, loss_factor: float | tuple[float, float] = 1.0):
        self.ranges: dict[str, tuple[float, float]] = {}
        for name, value in (("loss_factor", loss_factor), ("bias", bias)):
            low, high = value if isinstance(value, tuple) else (value, value)
            if low > high:
                raise ValueError(f"{name} must be a number or a range [low, high], got [{low}, {high}]")
            if low < high:
                self.ranges[name] = (low, high)
            if name == "loss_factor" and low <= 0:
                raise ValueError(f"loss_factor must be positive, got {low}")
        self.bias: float | Tensor = bias[0] if isinstance(bias, tuple) else bias
        self.loss_factor: float | Tensor = loss_factor[0] if isinstance(loss_factor, tuple) else loss_factor

    def at(self, rate_control: Tensor) -> "SigmoidWeighting":
        """The weighting of each example at its own positions in the ranges, from 0 to 1, (B, number of ranges)."""
        weighting = copy(self)
        for (name, ends), position in zip(self.ranges.items(), rate_control.unbind(1), strict=True):
            setattr(weighting, name, between(name, ends, position))
        return weighting

    def __call__(self, logsnr: Tensor) -> Tensor:
        return self.loss_factor * torch.sigmoid(self.bias - logsnr)

    def times_snr(self, logsnr: Tensor) -> Tensor:
        # e^λ sigmoid(b - λ) = e^b sigmoid(λ - b)
        exp = self.bias.exp() if isinstance(self.bias, Tensor) else math.exp(self.bias)
        return self.loss_factor * exp * torch.sigmoid(logsnr - self.bias)


def between(name: str, ends: tuple[float, float], position: Position) -> Position:
    """The loss factor or bias at positions from 0 to 1 in its range, elementwise, of loss factors in logarithm."""
    low, high = ends
    return low * (high / low) ** position if name == "loss_factor" else low + (high - low) * position


class TruncatedLogistic:
    """A random maximum log-SNR, which turns an ELBO into a sigmoid-weighted loss (paper, Appendix B ii).

    It is logistic around `bias` with scale 1, truncated to [low, high]. If the log-SNR of a latent is drawn from it and
    the rate is the ELBO from that level on, the expected rate is the ELBO with weight w(λ) = P(maximum ≥ λ), which is
    sigmoid(bias - λ) up to the truncation.

    Args:
        bias: location of the distribution.
        low: smallest value.
        high: largest value, λ_z(0), at which the trained model samples.
    """

    def __init__(self, bias: float, low: float, high: float):
        if low >= high:
            raise ValueError(f"low must be below high, got {low} and {high}")
        self.bias, self.low, self.high = bias, low, high
        self._tails = tuple(
            torch.tensor(bias - end, dtype=torch.float64, device="cpu").sigmoid().item() for end in (low, high)
        )

    def sample(self, n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
        """Draw n values, (n,), by inverting `survival`."""
        u = rand(n, generator, device)
        logsnr = self.bias - torch.logit(self._tails[1] + u * (self._tails[0] - self._tails[1]))
        return logsnr.clamp(self.low, self.high)

    def survival(self, logsnr: Tensor) -> Tensor:
        """P(maximum ≥ λ), elementwise: the weight of the ELBO at λ."""
        tail = torch.sigmoid(self.bias - logsnr)
        return ((tail - self._tails[1]) / (self._tails[0] - self._tails[1])).clamp(0, 1)
