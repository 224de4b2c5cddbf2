"""Weightings w(λ) of the diffusion loss, relative to the ELBO.

The loss integrand in x is e^λ/2 · w(λ) · ‖x - x̂‖². Each weighting gives w(λ), the weight of the ε-MSE, and the product
e^λ w(λ), the weight of the x-MSE, in a form that neither overflows nor cancels.
"""

import math
from typing import Protocol

import torch
from torch import Tensor


class Weighting(Protocol):
    """w(λ) and e^λ w(λ), elementwise."""

    def __call__(self, logsnr: Tensor) -> Tensor: ...

    def times_snr(self, logsnr: Tensor) -> Tensor: ...


class ElboWeighting:
    """w(λ) = 1: the loss is the negative ELBO, a bitrate. The prior needs it: any other weight lets the encoder hide
    information at the discounted noise levels."""

    def __init__(self) -> None:
        pass

    def __call__(self, logsnr: Tensor) -> Tensor:
        return torch.ones_like(logsnr)

    def times_snr(self, logsnr: Tensor) -> Tensor:
        return logsnr.exp()


class SigmoidWeighting:
    """w(λ) = loss_factor · sigmoid(bias - λ): low noise is discounted, so those details are left to the decoder.

    Where w > 1 information goes through the latent, below 1 the decoder models it itself.

    Args:
        bias: log-SNR at which the weight is half the loss factor; higher asks for finer detail in the latent.
        loss_factor: c_lf, weight of the distortion against the rate; above 1, or the latent collapses.
    """

    def __init__(self, *, bias: float = 0.0, loss_factor: float = 1.0):
        if loss_factor <= 0:
            raise ValueError(f"loss_factor must be positive, got {loss_factor}")
        self.bias, self.loss_factor = bias, loss_factor

    def __call__(self, logsnr: Tensor) -> Tensor:
        return self.loss_factor * torch.sigmoid(self.bias - logsnr)

    def times_snr(self, logsnr: Tensor) -> Tensor:
        # e^λ sigmoid(b - λ) = e^b sigmoid(λ - b)
        return self.loss_factor * math.exp(self.bias) * torch.sigmoid(logsnr - self.bias)
