"""Where a process that is coded stops: steps that carry equally many bits, from noise to the latent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ulzoo.diffusion import Noise, expand_like, randn_like
from ulzoo.diffusion.schedules import alpha_sigma

INTERVALS = 64
LEVELS = 101  # at which the information is measured
PILOT_STEPS = 16  # of the estimate of one latent's information
LAST_STEPS = 0.7
"""Exponent by which steps become longer towards the end. Indices carry less than their bits, so the information that
is still to be coded accumulates; shorter first steps leave less of it at the end (measured: + 0.25 dB at equal bits).
"""


class Denoise(Protocol):
    """The estimate x̂ of the clean latents, (B, ...), from z_t at log-SNRs (B,).

    `rows` says which examples of a batch these are; None for all of them.
    """

    def __call__(self, z_t: Tensor, logsnr: Tensor, rows: Sequence[int] | None = None) -> Tensor: ...


@dataclass(frozen=True)
class InformationGrid:
    """Log-SNRs between which a model's latents reveal equally much information, on average.

    Attributes:
        logsnrs: rising, from λ(1) to λ(0).
    """

    logsnrs: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise(self.logsnrs))
        if len(self.logsnrs) < 2 or not rising or not all(map(math.isfinite, self.logsnrs)):
            raise ValueError("the grid of a codec must be finite rising log-SNRs")

    def steps(self, count: int) -> list[float]:
        """The ends of `count` steps, count + 1 log-SNRs in float32; the last steps are longer than the first."""
        shares = 1 - (1 - np.linspace(0, 1, count + 1)) ** LAST_STEPS
        return self._at(shares).astype(np.float32).tolist()

    def _at(self, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The log-SNRs at which these shares of the information are revealed."""
        return np.interp(shares, np.linspace(0, 1, len(self.logsnrs)), self.logsnrs)

    @classmethod
    def measure(
        cls, denoise: Denoise, latents: Sequence[Tensor], ends: tuple[float, float], *, generator: Noise | None = None
    ) -> "InformationGrid":
        """Measure the grid of a network.

        Args:
            denoise: the network.
            latents: batches of z_clean of training data, each (B, ...).
            ends: λ(1) and λ(0).
            generator: source of the noise.
        """
        levels = torch.linspace(*ends, LEVELS, dtype=torch.float64)
        # e^λ/2 ‖z_clean - x̂‖², the nats per unit of log-SNR, summed over latents
        errors = [
            sum(_squared_error(denoise, z_clean, level, generator).sum().item() for z_clean in latents)
            for level in levels.tolist()
        ]
        nats = levels.exp() / 2 * torch.tensor(errors, dtype=torch.float64)
        total = torch.cat([levels.new_zeros(1), torch.cumulative_trapezoid(nats, levels)]).numpy()
        total = total / max(total[-1], 1e-12) + np.linspace(0, 1e-6, LEVELS)  # strictly rising
        logsnrs = np.interp(np.linspace(0, total[-1], INTERVALS + 1), total, levels.numpy()).round(5)
        logsnrs[0], logsnrs[-1] = ends
        return cls(tuple(logsnrs.tolist()))

    def information(self, denoise: Denoise, z_clean: Tensor, *, generator: Noise | None = None) -> Tensor:
        """An estimate of the bits in each latent, (B,), from 16 evaluations of the network.

        Each step's KL, ½ (e^{λ_s} - e^{λ_t}) ‖z_clean - x̂‖², with x̂ from the middle of the step.
        """
        ends = self._at(np.linspace(0, 1, 2 * PILOT_STEPS + 1)).tolist()
        nats = z_clean.new_zeros(len(z_clean))
        for low, middle, high in zip(ends[:-1:2], ends[1::2], ends[2::2], strict=True):
            nats += (math.exp(high) - math.exp(low)) / 2 * _squared_error(denoise, z_clean, middle, generator)
        return nats / math.log(2)


def _squared_error(denoise: Denoise, z_clean: Tensor, level: float, generator: Noise | None) -> Tensor:
    """‖z_clean - x̂‖² at a log-SNR, (B,)."""
    logsnr = torch.full((len(z_clean),), level, device=z_clean.device)
    alpha, sigma = alpha_sigma(expand_like(logsnr, z_clean))
    z_t = alpha * z_clean + sigma * randn_like(z_clean, generator)
    return (z_clean - denoise(z_t, logsnr)).square().flatten(1).sum(1)
