"""A schedule that learns from running losses how often training should draw each noise level.

The diffusion loss is an integral over log-SNR, which any density of the levels estimates without bias once each draw is
divided by it. The variance of the estimate is smallest where the density is proportional to the root mean square of the
integrand (importance sampling; VDM learns its schedule by the same variance, arXiv 2107.00630, App. I.2).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ulzoo.diffusion.schedules import ShiftedCosineSchedule

BINS = 32  # a power of two, so that an even density changes no bit of a time
PRIOR_DRAWS = 4.0  # of the mean loss, which every bin counts in addition to its own


class AdaptiveSchedule(nn.Module):
    """The shifted cosine schedule with a density of times that training learns from its losses, for the base.

    Its λ(t), by which models are sampled and rates are measured, is the cosine schedule's and does not change. Training
    draws times of it by a piecewise constant density instead of evenly, `draw`, and divides each loss by the density,
    so that the expected loss is the same. The density follows the root mean square of the losses in each of 32 bins of
    t, over the last steps. Before the first step it is even, so that the loss has the same bits as the cosine's.

    Args:
        logsnr_min: λ(1), the noisiest level.
        logsnr_max: λ(0), the cleanest level.
        shift: added to the cosine schedule's log-SNR between the ends, as in `shifted_cosine`.
        floor: least density of any time, relative to the mean of the learned one; no loss weighs more than 1 + 1/floor.
        decay: share of the running losses that a step keeps; 0.99 averages over the last hundred steps.
    """

    squares: Tensor
    counts: Tensor
    pending: Tensor

    def __init__(
        self,
        *,
        logsnr_min: float = -10.0,
        logsnr_max: float = 10.0,
        shift: float = 0.0,
        floor: float = 0.2,
        decay: float = 0.99,
    ):
        super().__init__()
        for name, value in {"floor": floor, "decay": decay}.items():
            if not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        self.start = ShiftedCosineSchedule(logsnr_min=logsnr_min, logsnr_max=logsnr_max, shift=shift)
        self.logsnr_min, self.logsnr_max = logsnr_min, logsnr_max
        self.floor, self.decay = floor, decay
        self.register_buffer("squares", torch.zeros(BINS))  # running sums by bin: of squared losses
        self.register_buffer("counts", torch.zeros(BINS))  # and of draws
        self.register_buffer("pending", torch.zeros(2, BINS), persistent=False)  # the same of this step, on this rank

    def logsnr(self, t: Tensor) -> Tensor:
        return self.start.logsnr(t)

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        return self.start.dlogsnr_dt(t)

    @torch.no_grad()
    def density(self) -> Tensor:
        """The density of times in each bin of t relative to an even one, with mean 1, (BINS,)."""
        squares, counts = self.squares.float().clamp(min=0), self.counts.float().clamp(min=0)
        mean = squares.sum() / counts.sum()
        rms = ((squares + PRIOR_DRAWS * mean) / (counts + PRIOR_DRAWS)).sqrt()
        floored = (rms / rms.mean()).clamp(min=self.floor)
        return torch.where(squares.sum() > 0, floored / floored.mean(), 1.0)

    @torch.no_grad()
    def draw(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Times with the learned density from even ones, in order, and the factor of their losses, (B,) each.

        Args:
            t: (B,), uniform on [0, 1).

        Returns:
            the times, a rising function of t, and its derivative, 1/density.
        """
        density = self.density()
        ends = density.cumsum(0) / BINS  # share of the draws up to the end of each bin
        index = (t[:, None] >= ends[:-1]).sum(1)
        within = (t - (ends[index] - density[index] / BINS)) * BINS / density[index]
        return ((index + within) / BINS).clamp(0, 1), 1 / density[index]

    @torch.no_grad()
    def record(self, t: Tensor, nats: Tensor) -> None:
        """Add losses, before their factors, to those of this step.

        Args:
            t: (B,), times from `draw`.
            nats: (B,), the integrand over these times.
        """
        index = (t * BINS).long().clamp(0, BINS - 1)
        in_bin = index[:, None] == torch.arange(BINS, device=t.device)  # (B, BINS)
        self.pending += torch.stack([(in_bin * nats.float().square()[:, None]).sum(0), in_bin.sum(0)])

    @torch.no_grad()
    def update(self, total: Callable[[Tensor], Tensor]) -> None:
        """Update the density from the losses recorded since the last update, without waiting for the device.

        Args:
            total: the sum of a tensor over all ranks, which therefore keep the same density.
        """
        squares, counts = total(self.pending)
        self.squares.mul_(self.decay).add_(squares)
        self.counts.mul_(self.decay).add_(counts)
        self.pending.zero_()
