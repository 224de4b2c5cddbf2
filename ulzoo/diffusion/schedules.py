"""Noise: its schedules, and the random streams that times t and noise ε are drawn from.

A schedule is the log-SNR λ(t) = log(α²/σ²) as a decreasing function of t ∈ [0, 1] (arXiv 2301.11093). Every schedule
returns `logsnr_max` at t = 0 and `logsnr_min` at t = 1 to the last bit, and has λ'(t) in closed form. A stream is one
generator for a whole batch, or one per example.
"""

import math
from collections.abc import Sequence
from copy import copy
from typing import Protocol, Self

import torch
from torch import Tensor

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


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


# --------------------------------------------------------------------------------------------------------- streams


class ExampleNoise:
    """One random stream per example, so that its t and ε do not depend on how a batch is split over parts and ranks.

    Args:
        seeds: one per example of this part of the batch.
        shared: seed of the numbers that the whole batch has in common.
        position: index of the part's first example in the whole batch.
        total: number of examples in the whole batch.
        device: device of the random numbers.
    """

    def __init__(
        self, seeds: Sequence[int], shared: int, position: int, total: int, device: torch.device | str = "cpu"
    ) -> None:
        assert 0 <= position <= position + len(seeds) <= total
        self.examples = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.shared = torch.Generator(device).manual_seed(shared)
        self.positions = range(position, position + len(seeds))
        self.strata = torch.arange(position, position + len(seeds), device=device, dtype=torch.float32) / total
        self.draws = 1

    def repeat(self, draws: int) -> Self:
        """The noise of `draws` copies of these examples, one after the other, from the same streams."""
        noise = copy(self)
        noise.examples, noise.draws = self.examples * draws, self.draws * draws
        return noise

    def part(self, rows: slice) -> Self:
        """The noise of these examples alone, from the same streams."""
        noise = copy(self)
        noise.examples, noise.strata, noise.shared = self.examples[rows], self.strata[rows], self.shared.clone_state()
        noise.positions = self.positions[rows]
        return noise

    def times(self) -> Tensor:
        """A time per example and draw, (draws · n,); those of one example are one per stratum of width 1/draws."""
        offset = torch.rand((), generator=self.shared, device=self.shared.device, dtype=torch.float32)
        offsets = (offset + self.strata) % 1  # (n,)
        draws = torch.arange(self.draws, device=offsets.device, dtype=torch.float32)
        return ((draws[:, None] + offsets) / self.draws % 1).flatten()

    def spread(self, step: float) -> Tensor:
        """A number in [0, 1) per example, (n,): a random one plus the multiples of an irrational `step`, modulo 1."""
        assert self.draws == 1
        offset = torch.rand((), generator=self.shared, device=self.shared.device, dtype=torch.float32)
        return (offset + _multiples(self.positions, step, self.strata.device)) % 1


class IndependentNoise(ExampleNoise):
    """One random stream per example, so that its t and ε do not depend on the other examples at all.

    Times are spread by the golden ratio over consecutive examples, almost as evenly as by strata, however many follow.

    Args:
        seeds: one per example.
        shared: seed of the number that all examples have in common.
        first: index of the first example.
        device: device of the random numbers.
    """

    def __init__(self, seeds: Sequence[int], shared: int, first: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(seeds, shared, 0, len(seeds), device)
        strata = [n * GOLDEN_RATIO % 1 for n in range(first, first + len(seeds))]
        self.strata = torch.tensor(strata, dtype=torch.float32, device=device)

    @classmethod
    def from_generator(cls, generator: torch.Generator | None, n: int, device: torch.device) -> Self:
        """Streams of n examples, derived from one number of a generator: the first streams are the same for every n."""
        source = "cpu" if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=source, dtype=torch.int64))
        shared, *seeds = torch.randint(2**62, (1 + n,), generator=torch.Generator().manual_seed(seed)).tolist()
        return cls(seeds, shared, device=device)


Noise = torch.Generator | ExampleNoise
"""What a loss or a sampler draws its times and noise from."""


def independent_noise(generator: Noise | None, n: int, device: torch.device) -> ExampleNoise:
    """The streams of n examples: those of `generator`, or derived from one number of it."""
    if not isinstance(generator, ExampleNoise):
        return IndependentNoise.from_generator(generator, n, device)
    if len(generator.examples) != n:
        raise ValueError(f"the noise has streams for {len(generator.examples)} examples, not {n}")
    return generator


def rand(n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """One uniform number in [0, 1) per example, (n,)."""
    if not isinstance(generator, ExampleNoise):
        return torch.rand(n, generator=generator, device=device, dtype=torch.float32)
    assert n == len(generator.examples)
    numbers = torch.empty(n, device=device, dtype=torch.float32)  # (n,)
    for number, stream in zip(numbers, generator.examples, strict=True):
        number.uniform_(generator=stream)
    return numbers


def randn(shape: tuple[int, ...], generator: Noise | None = None, device: torch.device | str | None = None) -> Tensor:
    """Standard normal noise, (B, ...), in float32."""
    if not isinstance(generator, ExampleNoise):
        return torch.randn(shape, dtype=torch.float32, device=device, generator=generator)
    noise = torch.empty(shape, dtype=torch.float32, device=device)
    for example, stream in zip(noise, generator.examples, strict=True):
        example.normal_(generator=stream)
    return noise


def randn_like(x: Tensor, generator: Noise | None = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `x`, (B, ...), drawn in float32 whatever the dtype."""
    return randn(tuple(x.shape), generator, x.device).to(x.dtype)


def independent_randn_like(x: Tensor, generator: Noise | None = None) -> Tensor:
    """`randn_like` with a stream per example, derived from one number of a `torch.Generator`."""
    return randn_like(x, None if generator is None else independent_noise(generator, len(x), x.device))


def low_discrepancy_times(n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """n times, (n,), each uniform on [0, 1) and one per stratum of width 1/n (VDM, arXiv 2107.00630, App. I.1).

    For one part of a batch (`ExampleNoise`), the strata are those of its examples in the whole batch; for examples that
    do not depend on each other (`IndependentNoise`), each example's draws have strata of their own.
    """
    if isinstance(generator, ExampleNoise):
        assert n == len(generator.examples)
        return generator.times()
    offset = torch.rand((), generator=generator, device=device, dtype=torch.float32)
    return (offset + torch.arange(n, device=device, dtype=torch.float32) / n) % 1


def spread_evenly(n: int, step: float, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """n numbers, (n,), each uniform on [0, 1), almost as even as `low_discrepancy_times` and independent of them.

    They are the multiples of an irrational `step` modulo 1 (Kronecker's sequence), shifted by a random number. Numbers
    of another step, or times, fill the unit square evenly with them.
    """
    if isinstance(generator, ExampleNoise):
        assert n == len(generator.examples)
        return generator.spread(step)
    offset = torch.rand((), generator=generator, device=device, dtype=torch.float32)
    return (offset + _multiples(range(n), step, offset.device)) % 1


def _multiples(numbers: range, step: float, device: torch.device) -> Tensor:
    """The multiples of `step` modulo 1, (n,), exact also for large numbers."""
    multiples = torch.arange(numbers.start, numbers.stop, device=device, dtype=torch.float64) * step
    return (multiples % 1).float()
