"""What the encoder is trained on in the rate's place: Table 5's normal prior, Table 6's A and D."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, expand_like, normal_kl
from ulzoo.model.rate import DiffusionPrior, NormalPrior, Posterior

LOGSNR = 5.0
SHAPE = (6, 4, 3, 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian(nn.Module):
    """The optimal v of N(0, variance) latents, times a parameter that is 1."""

    def __init__(self, variance: float = 1.0):
        super().__init__()
        self.variance, self.one = variance, nn.Parameter(torch.ones(()))

    def forward(self, x_t: Tensor, logsnr: Tensor) -> Tensor:
        alpha2, sigma2 = torch.sigmoid(logsnr), torch.sigmoid(-logsnr)
        gain = (alpha2 * sigma2).sqrt() * (1 - self.variance) / (alpha2 * self.variance + sigma2)
        return self.one * expand_like(gain, x_t) * x_t


def diffusion_prior(variance: float = 0.5, **keys: float) -> DiffusionPrior:
    schedule = CosineSchedule(logsnr_min=-10.0, logsnr_max=LOGSNR)
    return DiffusionPrior(Gaussian(variance), GaussianDiffusion(schedule, "v"), **keys)  # type: ignore[arg-type]


def latents() -> Tensor:
    return torch.randn(SHAPE, generator=seeded(1), requires_grad=True)


def gradient(term: Tensor, z: Tensor) -> Tensor:
    found = torch.autograd.grad(term.sum(), z, allow_unused=True)[0]
    return torch.zeros_like(z) if found is None else found


# --- Table 5: a normal prior -----------------------------------------------------------------------------------------


def test_the_normal_rate_is_the_kl_of_the_noised_latent() -> None:
    z = latents()
    alpha, sigma = (1 / (1 + math.exp(-LOGSNR))) ** 0.5, (1 / (1 + math.exp(LOGSNR))) ** 0.5
    expected = kl_divergence(Normal(alpha * z, sigma), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(NormalPrior(LOGSNR).rate(z), expected, rtol=1e-4, atol=1e-4)


def test_its_rate_of_standard_normal_latents_is_the_diffusion_priors_and_more_of_others() -> None:
    """KL to N(0, I) is the mutual information plus KL of the aggregate to N(0, I), which is 0 at variance 1 only."""
    for s in (0.4, 1.0, 2.0):
        z = s * torch.randn(20000, 8, generator=seeded())
        rate = NormalPrior(LOGSNR).rate(z).mean().item() / 8
        information = 0.5 * math.log1p(s**2 * math.exp(LOGSNR))
        variance = (s**2 * math.exp(LOGSNR) + 1) / (math.exp(LOGSNR) + 1)  # of z_0
        assert rate == pytest.approx(information + (variance - 1 - math.log(variance)) / 2, rel=0.01)


def test_the_weight_is_in_the_loss_and_not_in_the_rate() -> None:
    z = latents()
    one, tenth = (NormalPrior(LOGSNR, weight).objective(z, 0.0) for weight in (1.0, 0.1))
    assert torch.equal(one[0], tenth[0]) and torch.equal(one[0], one[1])
    torch.testing.assert_close(tenth[1], 0.1 * one[1])


def test_a_standard_normal_is_what_it_samples() -> None:
    z_0 = NormalPrior(LOGSNR).sample((20000,), None, seeded(), torch.device("cpu"))  # type: ignore[arg-type]
    assert abs(z_0.mean()) < 0.03 and z_0.std().item() == pytest.approx(1, abs=0.02)


# --- Table 6, A: no gradient from the prior, a weak KL instead -------------------------------------------------------


def test_without_its_gradient_the_encoder_hears_the_weak_kl_alone() -> None:
    z, weight = latents(), 0.03
    prior = diffusion_prior(stop_gradient=True, normal_kl=weight)
    rate, loss = prior.objective(z, 0.0, seeded())
    assert torch.equal(gradient(rate, z), torch.zeros_like(z))
    torch.testing.assert_close(gradient(loss, z), weight * gradient(normal_kl(z, LOGSNR), z))


def test_its_rate_is_that_of_the_plain_prior_and_still_trains_it() -> None:
    z = latents()
    plain, _ = diffusion_prior().objective(z, 0.0, seeded())
    prior = diffusion_prior(stop_gradient=True, normal_kl=0.1)
    rate, loss = prior.objective(z, 0.0, seeded())
    assert torch.equal(plain, rate) and gradient(plain, z).abs().max() > 0
    loss.sum().backward()
    assert isinstance(prior.network.one.grad, Tensor) and prior.network.one.grad.abs() > 0


def test_a_kl_beside_the_gradient_adds_to_it() -> None:
    z = latents()
    rate, loss = diffusion_prior(normal_kl=0.2).objective(z, 0.0, seeded())
    torch.testing.assert_close(loss - rate, 0.2 * normal_kl(z, LOGSNR))
    torch.testing.assert_close(gradient(loss - rate, z), gradient(0.2 * normal_kl(z, LOGSNR), z), rtol=1e-3, atol=1e-4)


# --- Table 6, D: a variance that the encoder learns ------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda v: diffusion_prior(v), lambda v: NormalPrior(LOGSNR)])
@pytest.mark.parametrize("noise", [0.05, 0.5, 1.0])
def test_the_rate_of_a_drawn_latent_is_the_information_about_its_mean(
    make: Callable[[float], DiffusionPrior | NormalPrior], noise: float
) -> None:
    """Means N(0, 1 - noise²), so that z_clean is N(0, 1): ½ ln((e^λ + 1) / (noise² e^λ + 1)) nats a dimension."""
    prior, generator, total = make(1.0), seeded(), 0.0
    for _ in range(20):
        mean = (1 - noise**2) ** 0.5 * torch.randn(4096, 16, generator=generator)
        posterior = Posterior(mean, torch.full_like(mean, 2 * math.log(noise)))
        rate, _ = prior.objective(posterior.sample(generator), posterior.entropy(LOGSNR), generator)
        total += rate.mean().item() / 16
    snr = math.exp(LOGSNR)
    assert total / 20 == pytest.approx(0.5 * math.log((snr + 1) / (noise**2 * snr + 1)), rel=0.02, abs=0.005)


def test_the_entropy_is_eq_5s_term() -> None:
    log_variance = torch.randn(SHAPE, generator=seeded(2)) * 3
    logsnr = torch.linspace(-4, 8, SHAPE[0])
    expected = -0.5 * torch.log(log_variance.exp() * logsnr.exp().reshape(-1, 1, 1, 1) + 1).flatten(1).sum(1)
    entropy = Posterior(torch.zeros(SHAPE), log_variance).entropy(logsnr)
    assert isinstance(entropy, Tensor)
    torch.testing.assert_close(entropy, expected, rtol=1e-4, atol=1e-4)


def test_without_a_variance_it_is_a_point() -> None:
    features = torch.randn(SHAPE, generator=seeded(3))
    point = Posterior.of(features, False, LOGSNR)
    assert point.sample() is features and point.entropy(LOGSNR) == 0.0
    vanishing = Posterior(features, torch.full_like(features, -60.0))
    torch.testing.assert_close(vanishing.sample(seeded()), features)
    assert vanishing.entropy(LOGSNR).abs().max() < 1e-6  # type: ignore[union-attr]


def test_half_the_channels_are_the_mean_and_half_the_variance() -> None:
    features = torch.randn(SHAPE, generator=seeded(4))
    posterior = Posterior.of(features, True, LOGSNR)
    assert torch.equal(posterior.mean, features[:, :2])
    torch.testing.assert_close(posterior.log_variance, features[:, 2:] - LOGSNR)
    draws = torch.stack([posterior.sample(seeded(i)) for i in range(4000)])
    torch.testing.assert_close(draws.mean(0), posterior.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(draws.var(0).log(), posterior.log_variance, rtol=0, atol=0.2)


def test_the_gradient_of_rate_and_entropy_stop_together() -> None:
    mean, log_variance = latents(), torch.zeros(SHAPE, requires_grad=True)
    posterior = Posterior(mean, log_variance)
    rate, _ = diffusion_prior(stop_gradient=True, normal_kl=0.1).objective(
        posterior.sample(seeded()), posterior.entropy(LOGSNR), seeded()
    )
    assert not gradient(rate, log_variance).any() and not gradient(rate, mean).any()
    rate, _ = diffusion_prior().objective(posterior.sample(seeded()), posterior.entropy(LOGSNR), seeded())
    assert gradient(rate, log_variance).abs().max() > 0
