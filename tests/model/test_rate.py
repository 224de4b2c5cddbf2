"""The rate and what is minimised for it: Table 5's normal prior, Table 6's A and D."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, expand_like, normal_kl
from ulzoo.model.contract import Contract, Sampling
from ulzoo.model.denoisers import RegressionDecoder
from ulzoo.model.losses import LatentsLoss, latents_loss
from ulzoo.model.rate import DiffusionPrior, NormalPrior, Posterior, Prior
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn.conditioning import NO_CONDITIONS, NetworkConditions

LOGSNR = 5.0
SHAPE = (6, 4, 3, 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian(nn.Module):
    """The optimal v of N(0, variance) latents, times a parameter that is 1."""

    def __init__(self, variance: float = 1.0):
        super().__init__()
        self.variance, self.one = variance, nn.Parameter(torch.ones(()))

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions = NO_CONDITIONS) -> Tensor:
        alpha2, sigma2 = torch.sigmoid(logsnr), torch.sigmoid(-logsnr)
        gain = (alpha2 * sigma2).sqrt() * (1 - self.variance) / (alpha2 * self.variance + sigma2)
        return self.one * expand_like(gain, x_t) * x_t


def diffusion_prior(variance: float = 0.5, **keys: float) -> DiffusionPrior:
    schedule = CosineSchedule(logsnr_min=-10.0, logsnr_max=LOGSNR)
    return DiffusionPrior(Gaussian(variance), GaussianDiffusion(schedule, "v"), **keys)  # type: ignore[arg-type]


class Zero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))  # a model has a device by its parameters

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        return torch.zeros_like(x_t)


def losses(prior: Prior, features: Tensor, *, learned_variance: bool = False) -> LatentsLoss:
    """Stage 1 with an encoder that returns its input, of which `features` are mean and, if learned, log variance."""
    channels = features.shape[1]
    latent_channels = channels // 2 if learned_variance else channels
    contract = Contract(
        (3, 3), channels, (3, 3), latent_channels, LOGSNR, learned_variance=learned_variance, single_stage=True
    )
    model = UnifiedLatents(nn.Identity(), prior, RegressionDecoder(Zero(), 1.0), None, contract)
    return latents_loss(model, features, generator=seeded())


def latents() -> Tensor:
    return torch.randn(SHAPE, generator=seeded(1), requires_grad=True)


def gradient(term: Tensor, z: Tensor) -> Tensor:
    grad = torch.autograd.grad(term.sum(), z, allow_unused=True)[0] if term.requires_grad else None
    return torch.zeros_like(z) if grad is None else grad


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
    one, tenth = (losses(NormalPrior(LOGSNR, weight), z) for weight in (1.0, 0.1))
    assert torch.equal(one.rate, tenth.rate) and torch.equal(one.rate, one.regularisation)
    torch.testing.assert_close(tenth.regularisation, 0.1 * one.regularisation)


def test_a_standard_normal_is_what_it_samples() -> None:
    z_0 = NormalPrior(LOGSNR).sample((20000,), Sampling(), generator=seeded())
    assert abs(z_0.mean()) < 0.03 and z_0.std().item() == pytest.approx(1, abs=0.02)


# --- Table 6, A: no gradient from the prior, a weak KL instead -------------------------------------------------------


def test_without_its_gradient_only_the_weak_kl_reaches_the_encoder() -> None:
    z, weight = latents(), 0.03
    prior = diffusion_prior(stop_gradient=True, normal_kl=weight)
    loss = losses(prior, z)
    assert torch.equal(gradient(loss.rate, z), torch.zeros_like(z))
    torch.testing.assert_close(gradient(loss.regularisation, z), weight * gradient(normal_kl(z, LOGSNR), z))


def test_its_rate_is_that_of_the_plain_prior_and_still_trains_it() -> None:
    z = latents()
    plain = losses(diffusion_prior(), z).rate
    prior = diffusion_prior(stop_gradient=True, normal_kl=0.1)
    loss = losses(prior, z)
    assert torch.equal(plain, loss.rate) and gradient(plain, z).abs().max() > 0
    loss.regularisation.sum().backward()
    assert isinstance(prior.network.one.grad, Tensor) and prior.network.one.grad.abs() > 0


def test_a_kl_beside_the_gradient_adds_to_it() -> None:
    z = latents()
    loss, kl = losses(diffusion_prior(normal_kl=0.2), z), 0.2 * normal_kl(z, LOGSNR)
    added = loss.regularisation - loss.rate
    torch.testing.assert_close(added, kl)
    torch.testing.assert_close(gradient(added, z), gradient(kl, z), rtol=1e-3, atol=1e-4)


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
        rate = prior.rate(posterior.sample(generator), generator=generator) + posterior.entropy(LOGSNR)
        total += rate.mean().item() / 16
    snr = math.exp(LOGSNR)
    assert total / 20 == pytest.approx(0.5 * math.log((snr + 1) / (noise**2 * snr + 1)), rel=0.02, abs=0.005)


def test_the_entropy_is_eq_5s_term() -> None:
    log_variance = torch.randn(SHAPE, generator=seeded(2)) * 3
    logsnr = torch.linspace(-4, 8, SHAPE[0])
    expected = -0.5 * torch.log(log_variance.exp() * logsnr.exp().reshape(-1, 1, 1, 1) + 1).flatten(1).sum(1)
    entropy = Posterior(torch.zeros(SHAPE), log_variance).entropy(logsnr)
    torch.testing.assert_close(entropy, expected, rtol=1e-4, atol=1e-4)


def test_without_a_variance_it_is_a_point() -> None:
    features = torch.randn(SHAPE, generator=seeded(3))
    point = Posterior.from_features(features, learned=False, logsnr=LOGSNR)
    assert point.sample() is features and torch.equal(point.entropy(LOGSNR), torch.zeros(SHAPE[0]))
    vanishing = Posterior(features, torch.full_like(features, -60.0))
    torch.testing.assert_close(vanishing.sample(seeded()), features)
    assert vanishing.entropy(LOGSNR).abs().max() < 1e-6


def test_half_the_channels_are_the_mean_and_half_the_variance() -> None:
    features = torch.randn(SHAPE, generator=seeded(4))
    posterior = Posterior.from_features(features, learned=True, logsnr=LOGSNR)
    assert torch.equal(posterior.mean, features[:, :2])
    torch.testing.assert_close(posterior.log_variance, features[:, 2:] - LOGSNR)
    draws = torch.stack([posterior.sample(seeded(i)) for i in range(4000)])
    torch.testing.assert_close(draws.mean(0), posterior.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(draws.var(0).log(), posterior.log_variance, rtol=0, atol=0.2)


def test_the_gradient_of_rate_and_entropy_stop_together() -> None:
    features = torch.cat([latents(), torch.full(SHAPE, LOGSNR)], dim=1).detach().requires_grad_(True)
    rate = losses(diffusion_prior(stop_gradient=True, normal_kl=0.1), features, learned_variance=True).rate
    assert not gradient(rate, features).any()
    rate = losses(diffusion_prior(), features, learned_variance=True).rate
    assert gradient(rate, features)[:, SHAPE[1] :].abs().max() > 0
