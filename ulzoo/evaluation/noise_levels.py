"""Where a base's bits lie on the axis of log-SNR, how often its training draws these levels, and what would fit better.

Schedules, sigmoid biases and guidance intervals of the literature are for data of unit variance, while the encoder
chooses the scale of z_clean. A latent of standard deviation s at log-SNR λ is as noisy as unit-variance data at
λ + 2 ln s.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ulzoo.diffusion.schedules import Schedule, ShiftedCosineSchedule
from ulzoo.model.pretrained import LatentStatistics

TIMES = 4096


@dataclass(frozen=True)
class NoiseLevels:
    """The median of the bits, how often the schedule draws cleaner levels, and a proposal.

    Attributes:
        median: half of the bits lie at log-SNRs above it.
        drawn_above: the share of times, evenly drawn, whose log-SNR is above it.
        shift: of the shifted cosine schedule that draws half of the levels above it.
        scale: the latent's standard deviation, the root mean square over channels; None if it was not measured.
    """

    median: float
    drawn_above: float
    shift: float
    scale: float | None = None

    def describe(self) -> list[str]:
        """The lines that `ulzoo evaluate` prints."""
        schedule = f"base.schedule={{kind: shifted_cosine, shift: {self.shift:.1f}}}"
        lines = [
            f"base: half of its bits lie above log-SNR {self.median:.1f}, where its schedule draws "
            f"{self.drawn_above:.0%} of the noise levels; {schedule} would draw half of them there"
        ]
        if self.scale is not None:
            offset = -2 * math.log(self.scale)
            lines.append(
                f"latents have a standard deviation of {self.scale:.2f}: add {offset:.1f} to a base.weighting.bias and "
                f"a guidance interval for unit variance, e.g. [{offset - 3:.1f}, {offset + 3:.1f}] for [-3, 3]"
            )
        return lines


def noise_levels(
    decomposition: Mapping[str, Any], schedule: Schedule, statistics: LatentStatistics | None = None
) -> NoiseLevels:
    """Compare the bits by noise level with a schedule.

    Args:
        decomposition: of the base's rate, from `RateMeasurement.decomposition`.
        schedule: of the base.
        statistics: of the latents.
    """
    edges = torch.tensor(decomposition["logsnr"], dtype=torch.float64)
    bits = torch.tensor(decomposition["bits_per_pixel"], dtype=torch.float64).clamp(min=0)
    ends = torch.cat([bits.new_zeros(1), bits.cumsum(0)]) / bits.sum()
    index = int((ends <= 0.5).sum().clamp(1, len(bits))) - 1
    within = (0.5 - ends[index]) / (ends[index + 1] - ends[index])
    median = (edges[index] + within * (edges[index + 1] - edges[index])).item()
    times = (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
    drawn_above = (schedule.logsnr(times) > median).double().mean().item()
    scale = None
    if statistics is not None:
        scale = math.sqrt(sum(deviation**2 for deviation in statistics.std) / len(statistics.std))
    return NoiseLevels(median, drawn_above, _shift_to(median, schedule), scale)


def _shift_to(median: float, schedule: Schedule) -> float:
    """The shift of the shifted cosine schedule with the same ends whose level at t = 1/2 is `median`."""
    low, high = -40.0, 40.0
    half = torch.tensor(0.5, dtype=torch.float64)
    for _ in range(60):
        shift = (low + high) / 2
        shifted = ShiftedCosineSchedule(logsnr_min=schedule.logsnr_min, logsnr_max=schedule.logsnr_max, shift=shift)
        low, high = (shift, high) if shifted.logsnr(half) < median else (low, shift)
    return (low + high) / 2
