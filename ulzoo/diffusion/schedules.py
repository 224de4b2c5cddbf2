"""Noise schedules.

A schedule is the log-SNR λ(t) = log(α²/σ²) as a decreasing function of t ∈ [0, 1] (arXiv 2301.11093). Every schedule
returns `logsnr_max` at t = 0 and `logsnr_min` at t = 1 to the last bit, and has λ'(t) in closed form.
"""

import math
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """λ(t) and its derivative, elementwise over any shape of `t`, in the dtype of `t`."""

    logsnr_min: float
    logsnr_max: float

    def logsnr(self, t: Tensor) -> Tensor: ...

    def dlogsnr_dt(self, t: Tensor) -> Tensor: ...


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """α = √sigmoid(λ) and σ = √sigmoid(-λ), elementwise."""
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def expand_like(per_example: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...) with as many dimensions as `x`; () stays as it is."""
    return per_example if per_example.ndim == 0 else per_example.reshape(-1, *[1] * (x.ndim - 1))


def levels_like(logsnr: Tensor | float, x: Tensor) -> Tensor:
    """A log-SNR, a number or (B,), as `expand_like` makes it, in the dtype of `x`; a number is not copied to a GPU."""
    return expand_like(logsnr.to(x) if isinstance(logsnr, Tensor) else x.new_full((), logsnr), x)


def time_of(schedule: Schedule, logsnr: Tensor) -> Tensor:
    """The time at which λ(t) is `logsnr`, elementwise, by bisection to the last bit; 0 above λ(0), 1 below λ(1)."""
    low, high = torch.zeros_like(logsnr), torch.ones_like(logsnr)
    for _ in range(torch.finfo(logsnr.dtype).bits):
        middle = (low + high) / 2
        cleaner = schedule.logsnr(middle) > logsnr
        low, high = torch.where(cleaner, middle, low), torch.where(cleaner, high, middle)
    return torch.where(logsnr >= schedule.logsnr_max, 0.0, high)


def _check_ends(logsnr_min: float, logsnr_max: float) -> None:
    if not (math.isfinite(logsnr_min) and math.isfinite(logsnr_max) and logsnr_min < logsnr_max):
        raise ValueError(f"logsnr_min must be below logsnr_max, got {logsnr_min} and {logsnr_max}")


def _pin_ends(logsnr: Tensor, t: Tensor, logsnr_min: float, logsnr_max: float) -> Tensor:
    """Remove the rounding error at the two ends, where λ is known exactly."""
    return torch.where(t <= 0, logsnr_max, torch.where(t >= 1, logsnr_min, logsnr))


class LinearSchedule:
    """λ falls linearly in t: every log-SNR is drawn equally often.

    Args:
        logsnr_min: λ(1), the noisiest level.
        logsnr_max: λ(0), the cleanest level.
    """

    def __init__(self, *, logsnr_min: float = -10.0, logsnr_max: float = 10.0):
        _check_ends(logsnr_min, logsnr_max)
        self.logsnr_min, self.logsnr_max = logsnr_min, logsnr_max

    def logsnr(self, t: Tensor) -> Tensor:
        return _pin_ends(self.logsnr_max + t * (self.logsnr_min - self.logsnr_max), t, self.logsnr_min, self.logsnr_max)

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.logsnr_min - self.logsnr_max)


class ShiftedCosineSchedule:
    """λ(t) = -2 log tan(t_min + t (t_max - t_min)) + shift, cut to [logsnr_min, logsnr_max].

    The shift 2 log(noise_resolution / image_resolution) moves the noise of a large image to where it hides what the
    same noise hides in an image of `noise_resolution`.

    Args:
        logsnr_min: λ(1), the noisiest level.
        logsnr_max: λ(0), the cleanest level.
        shift: added to the cosine schedule's log-SNR between the ends, 2 log(noise_resolution / image_resolution);
            negative means more noise.
    """

    def __init__(self, *, logsnr_min: float = -10.0, logsnr_max: float = 10.0, shift: float = 0.0):
        _check_ends(logsnr_min, logsnr_max)
        self.logsnr_min, self.logsnr_max, self.shift = logsnr_min, logsnr_max, shift
        snr_root_0, snr_root_1 = (math.exp((end - shift) / 2) for end in (logsnr_max, logsnr_min))
        # θ(t) runs from t_min to t_max; φ = π/2 - θ has its own ends, so that neither loses digits where it is small.
        self._theta = math.atan(1 / snr_root_0), math.atan(1 / snr_root_1)
        self._phi = math.atan(snr_root_0), math.atan(snr_root_1)

    def _angles(self, t: Tensor) -> tuple[Tensor, Tensor]:
        theta = self._theta[0] * (1 - t) + self._theta[1] * t
        phi = self._phi[0] * (1 - t) + self._phi[1] * t
        return theta, phi

    def logsnr(self, t: Tensor) -> Tensor:
        theta, phi = self._angles(t)
        logsnr = 2 * (phi.sin().log() - theta.sin().log()) + self.shift  # -2 log tan θ
        return _pin_ends(logsnr, t, self.logsnr_min, self.logsnr_max)

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        theta, phi = self._angles(t)
        return -2 * (self._theta[1] - self._theta[0]) / (theta.sin() * phi.sin())


class CosineSchedule(ShiftedCosineSchedule):
    """The cosine schedule, λ(t) = -2 log tan(πt/2) cut to [logsnr_min, logsnr_max].

    Args:
        logsnr_min: λ(1), the noisiest level.
        logsnr_max: λ(0), the cleanest level.
    """

    def __init__(self, *, logsnr_min: float = -10.0, logsnr_max: float = 10.0):
        super().__init__(logsnr_min=logsnr_min, logsnr_max=logsnr_max)


class InterpolatedCosineSchedule:
    """λ(t) = t · shifted(t; low) + (1 - t) · shifted(t; high): shifted less at low noise than at high noise.

    Args:
        logsnr_min: λ(1), the noisiest level.
        logsnr_max: λ(0), the cleanest level.
        low: shift that rules near t = 1; 2 log(noise_resolution / image_resolution) of the lower noise resolution.
        high: shift that rules near t = 0; the same for the higher noise resolution.
    """

    def __init__(self, *, logsnr_min: float = -10.0, logsnr_max: float = 10.0, low: float = 0.0, high: float = 0.0):
        if low > high:
            raise ValueError(f"low must be at most high, or the log-SNR could rise with t; got {low} and {high}")
        self.logsnr_min, self.logsnr_max = logsnr_min, logsnr_max
        self._low = ShiftedCosineSchedule(logsnr_min=logsnr_min, logsnr_max=logsnr_max, shift=low)
        self._high = ShiftedCosineSchedule(logsnr_min=logsnr_min, logsnr_max=logsnr_max, shift=high)

    def logsnr(self, t: Tensor) -> Tensor:
        logsnr = t * self._low.logsnr(t) + (1 - t) * self._high.logsnr(t)
        return _pin_ends(logsnr, t, self.logsnr_min, self.logsnr_max)

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        gap = self._low.logsnr(t) - self._high.logsnr(t)
        return gap + t * self._low.dlogsnr_dt(t) + (1 - t) * self._high.dlogsnr_dt(t)
