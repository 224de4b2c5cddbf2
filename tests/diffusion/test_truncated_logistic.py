"""Appendix B (ii): a random maximum log-SNR, with the ELBO from there on, is a sigmoid-weighted loss in expectation."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, Schedule, TruncatedLogistic, normal_kl

LOW, HIGH = -10.0, 5.0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Survival:
    """The weight that the random maximum stands for."""

    def __init__(self, maximum: TruncatedLogistic):
        self.maximum = maximum

    def __call__(self, logsnr: Tensor) -> Tensor:
        return self.maximum.survival(logsnr)

    def times_snr(self, logsnr: Tensor) -> Tensor:
        return logsnr.exp() * self(logsnr)


@pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])
def test_its_expected_loss_is_the_weighted_elbo(
    bias: float,
    make_schedule: Callable[[float, float], Schedule],
    gaussian_denoiser: Callable,
    prediction: str,
) -> None:
    """Same data, same (suboptimal) denoiser: Monte-Carlo over the maximum against the weighting, within 1 %."""
    diffusion = GaussianDiffusion(make_schedule(LOW, HIGH), prediction)  # type: ignore[arg-type]
    denoiser, maximum = gaussian_denoiser(prediction, 0.7), TruncatedLogistic(bias, LOW, HIGH)
    drawn = weighted = 0.0
    generator = seeded()
    for _ in range(20):
        x = torch.randn(4096, 32, generator=generator)
        logsnr_max = maximum.sample(len(x), generator)
        drawn += diffusion.loss(denoiser, x, generator=generator, logsnr_max=logsnr_max).mean().item()
        weighted += diffusion.loss(denoiser, x, weighting=Survival(maximum), generator=generator).mean().item()
    assert drawn == pytest.approx(weighted, rel=0.01)


@pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])
def test_the_survival_is_the_share_of_draws_above(bias: float) -> None:
    maximum = TruncatedLogistic(bias, LOW, HIGH)
    draws = maximum.sample(200_000, seeded())
    assert draws.min() >= LOW and draws.max() <= HIGH
    for level in torch.linspace(LOW, HIGH, 9):
        assert (draws >= level).float().mean().item() == pytest.approx(maximum.survival(level).item(), abs=0.004)


def test_far_from_the_truncation_the_weight_is_the_sigmoid() -> None:
    maximum, logsnr = TruncatedLogistic(-2.0, -30.0, 15.0), torch.linspace(-12, 8, 50)
    torch.testing.assert_close(maximum.survival(logsnr), torch.sigmoid(-2.0 - logsnr), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("logsnr_max", [-3.0, 0.0, 2.5, 5.0])
def test_a_process_that_begins_later_has_the_rate_of_its_own_latent(
    logsnr_max: float, make_schedule: Callable[[float, float], Schedule], gaussian_denoiser: Callable
) -> None:
    """With the optimal denoiser: the mutual information at that log-SNR, ½ ln(1 + s² e^λ)."""
    diffusion, generator, s = GaussianDiffusion(make_schedule(LOW, HIGH), "v"), seeded(), 1.5
    nats = 0.0
    for _ in range(20):
        x = s * torch.randn(4096, 64, generator=generator)
        start = torch.full((len(x),), logsnr_max)
        nats += (
            diffusion.loss(gaussian_denoiser("v", s), x, generator=generator, logsnr_max=start)
            + diffusion.terminal_kl(x)
        ).mean()
    assert float(nats) / 20 / 64 == pytest.approx(0.5 * math.log1p(s**2 * math.exp(logsnr_max)), rel=0.005)


def test_beginning_at_the_top_is_the_plain_loss() -> None:
    diffusion, x = GaussianDiffusion(CosineSchedule(logsnr_max=HIGH), "v"), torch.randn(8, 5)
    top = torch.full((8,), HIGH)
    plain = diffusion.loss(lambda x_t, logsnr: x_t, x, generator=seeded())
    assert torch.equal(diffusion.loss(lambda x_t, logsnr: x_t, x, generator=seeded(), logsnr_max=top), plain)


def test_the_normal_kl_is_torchs() -> None:
    x, logsnr = torch.randn(6, 3, 4), torch.tensor([-8.0, -1.0, 0.0, 2.0, 5.0, 10.0])
    alpha, sigma = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
    ours = torch.distributions.Normal(alpha[:, None, None] * x, sigma[:, None, None].expand_as(x))
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(normal_kl(x, logsnr), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normal_kl(x, 5.0)[4], expected[4], rtol=1e-4, atol=1e-4)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="low must be below high"):
        TruncatedLogistic(0.0, 5.0, 5.0)
