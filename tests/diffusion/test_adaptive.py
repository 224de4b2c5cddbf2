"""The adaptive schedule: the same expectation under every density, the density that it learns, and its bounds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ulzoo.diffusion import (
    AdaptiveSchedule,
    CosineSchedule,
    Denoiser,
    GaussianDiffusion,
    ShiftedCosineSchedule,
    SigmoidWeighting,
)
from ulzoo.diffusion.adaptive import BINS
from ulzoo.diffusion.samplers import GRIDS

SPREAD, LOGSNR, DIMENSIONS = 1.3, 5.0, 16
WEIGHTING = SigmoidWeighting(bias=0.5, loss_factor=1.5)


def uneven(**keys: float) -> AdaptiveSchedule:
    """A schedule whose density varies by far more than a learned one."""
    schedule = AdaptiveSchedule(logsnr_max=LOGSNR, **keys)
    schedule.squares.copy_(torch.rand(BINS, generator=torch.Generator().manual_seed(0)).pow(6))
    schedule.counts.fill_(1000.0)
    return schedule


def midpoints(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def integrand(t: Tensor, schedule: CosineSchedule) -> Tensor:
    """The expected loss at time t of the optimal denoiser of N(0, s²), per dimension."""
    logsnr = schedule.logsnr(t)
    error = SPREAD**2 / (1 + SPREAD**2 * logsnr.exp())
    return -schedule.dlogsnr_dt(t) * WEIGHTING.times_snr(logsnr) / 2 * error


def learned(denoiser: Denoiser, steps: int = 60) -> AdaptiveSchedule:
    """A schedule after some steps of training."""
    schedule, generator = AdaptiveSchedule(logsnr_max=LOGSNR), torch.Generator().manual_seed(0)
    diffusion = GaussianDiffusion(schedule, "v")
    for _ in range(steps):
        x = SPREAD * torch.randn(256, DIMENSIONS, generator=generator)
        diffusion.loss(denoiser, x, weighting=WEIGHTING, generator=generator, adaptive=schedule)
        schedule.update(lambda values: values)
    return schedule


def test_a_schedule_that_has_not_learned_is_the_cosine_to_the_bit(gaussian_denoiser: Callable) -> None:
    x, denoiser = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), gaussian_denoiser("v", 1.0)
    for adaptive, cosine in (
        (AdaptiveSchedule(logsnr_max=LOGSNR), CosineSchedule(logsnr_max=LOGSNR)),
        (AdaptiveSchedule(shift=-1.5), ShiftedCosineSchedule(shift=-1.5)),
    ):
        losses = [
            GaussianDiffusion(schedule, "v").loss(
                denoiser, x, weighting=WEIGHTING, generator=torch.Generator().manual_seed(1), adaptive=density
            )
            for schedule, density in ((adaptive, adaptive), (cosine, None))
        ]
        assert torch.equal(*losses)


def test_the_expectation_is_unchanged_by_quadrature() -> None:
    """∫ f(λ) dλ with the learned times and factors, up to the rule's own error at the ends of bins."""
    schedule, cosine = uneven(), CosineSchedule(logsnr_max=LOGSNR)
    expected = integrand(midpoints(200_000), cosine).mean().item()
    t, factor = schedule.draw(midpoints(200_000).float())
    assert (factor.double() * integrand(t.double(), cosine)).mean().item() == pytest.approx(expected, rel=5e-5)
    assert factor.max() > 2 * factor.min()


def test_times_rise_from_0_to_1_and_the_factor_is_their_derivative() -> None:
    even = midpoints(1 << 14).float()
    t, factor = uneven().draw(even)
    assert (t.diff() > 0).all() and t[0] < 1e-3 and t[-1] > 1 - 1e-3
    derivative = t.double().diff() * len(even)
    between = factor[1:] == factor[:-1]  # within a bin
    torch.testing.assert_close(derivative[between], factor[1:][between].double(), rtol=5e-3, atol=0)


def test_the_rate_of_gaussian_data_within_standard_errors(gaussian_denoiser: Callable) -> None:
    schedule, generator = uneven(), torch.Generator().manual_seed(0)
    diffusion, x = GaussianDiffusion(schedule, "v"), SPREAD * torch.randn(40_000, DIMENSIONS, generator=generator)
    nats = diffusion.loss(gaussian_denoiser("v", SPREAD), x, generator=generator, adaptive=schedule)
    rate = nats + diffusion.terminal_kl(x)
    exact = DIMENSIONS / 2 * math.log1p(SPREAD**2 * math.exp(LOGSNR))
    assert abs(rate.mean().item() - exact) < 3 * rate.std().item() / math.sqrt(len(x))
    assert rate.std().item() / math.sqrt(len(x)) < 0.02 * exact


def test_the_density_is_the_root_mean_square_of_the_losses(gaussian_denoiser: Callable) -> None:
    """‖x - x̂‖² is a multiple of χ² at every level, so the density is proportional to the integrand itself."""
    density = learned(gaussian_denoiser("v", SPREAD)).density()
    expected = integrand(midpoints(64 * BINS), CosineSchedule(logsnr_max=LOGSNR)).reshape(BINS, -1)
    rms = expected.square().mean(1).sqrt()
    torch.testing.assert_close(density.double(), (rms / rms.mean()).clamp(min=0.2), rtol=0, atol=0.08)
    assert density.mean().item() == pytest.approx(1, abs=1e-6)


def test_the_learned_density_lowers_the_variance_of_the_loss(gaussian_denoiser: Callable) -> None:
    denoiser = gaussian_denoiser("v", SPREAD)
    schedule, generator = learned(denoiser), torch.Generator().manual_seed(1)
    x, diffusion = SPREAD * torch.randn(20_000, DIMENSIONS, generator=generator), GaussianDiffusion(schedule, "v")
    cosine, adaptive = (
        diffusion.loss(denoiser, x, weighting=WEIGHTING, generator=generator, adaptive=density)
        for density in (None, schedule)
    )
    assert adaptive.var() < 0.8 * cosine.var()
    assert adaptive.mean().item() == pytest.approx(cosine.mean().item(), rel=0.02)


def test_no_loss_weighs_more_than_the_floor_allows() -> None:
    for floor in (0.05, 0.5):
        schedule = uneven(floor=floor)
        schedule.squares[5:] = 0.0
        assert 1 < schedule.draw(midpoints(4096).float())[1].max() <= 1 + 1 / floor


def test_parts_and_ranks_together_learn_from_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    t, nats = torch.rand(64, generator=generator), torch.rand(64, generator=generator)
    single, shared = AdaptiveSchedule(), [AdaptiveSchedule() for _ in range(2)]
    for _ in range(3):
        single.record(t, nats)
        single.update(lambda values: values)
        for rank, schedule in enumerate(shared):
            for rows in (slice(32 * rank, 32 * rank + 16), slice(32 * rank + 16, 32 * rank + 32)):
                schedule.record(t[rows], nats[rows])
        total = sum(schedule.pending for schedule in shared)
        for schedule in shared:
            schedule.update(lambda values, total=total: total)
    for schedule in shared:
        assert torch.equal(schedule.counts, single.counts) and not schedule.pending.any()
        torch.testing.assert_close(schedule.density(), single.density(), rtol=1e-5, atol=0)


def test_it_learns_in_training_only(gaussian_denoiser: Callable) -> None:
    schedule, x = AdaptiveSchedule(), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    diffusion, denoiser = GaussianDiffusion(schedule, "v"), gaussian_denoiser("v", 1.0)
    diffusion.loss(denoiser, x, adaptive=schedule.eval())
    diffusion.loss(denoiser, x)  # as the rate is measured
    assert not schedule.pending.any()
    diffusion.loss(denoiser, x, adaptive=schedule.train())
    assert schedule.pending[1].sum() == 8
    assert schedule.state_dict().keys() == {"squares", "counts"}


@pytest.mark.parametrize("sampler", GRIDS)
def test_samples_and_rates_keep_the_cosines_levels(sampler: str) -> None:
    grids = [GRIDS[sampler](schedule, 12) for schedule in (uneven(), CosineSchedule(logsnr_max=LOGSNR))]
    assert torch.equal(*grids)


@pytest.mark.parametrize("key", [{"floor": 0.0}, {"floor": 1.0}, {"decay": 1.0}, {"logsnr_min": 10.0}])
def test_refuses_impossible_keys(key: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(key))):
        AdaptiveSchedule(**key)
