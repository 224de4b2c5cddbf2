"""The loss in nats against closed forms, and what it is made of."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ulzoo.diffusion import (
    CosineSchedule,
    Denoiser,
    ElboWeighting,
    GaussianDiffusion,
    LinearSchedule,
    Schedule,
    ShiftedCosineSchedule,
    SigmoidWeighting,
    Weighting,
    low_discrepancy_times,
    randn_like,
)

LEVELS = [2.0, 5.0, 8.0]  # λ(0)
MakeSchedule = Callable[[float, float], Schedule]
MakeDenoiser = Callable[[str, float], Denoiser]


def mean_loss(
    diffusion: GaussianDiffusion,
    denoiser: Denoiser,
    s: float,
    weighting: Weighting | None = None,
    terminal: bool = False,
    calls: int = 20,
) -> float:
    """Nats per dimension over 4096 · 64 · calls draws of N(0, s²): a standard error of about 0.1 %."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    for _ in range(calls):
        x = s * torch.randn(4096, 64, generator=generator)
        nats = diffusion.loss(denoiser, x, weighting=weighting, generator=generator)
        total += (nats + diffusion.terminal_kl(x) if terminal else nats).mean().item()
    return total / calls / 64


# --- the Gaussian rate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logsnr_max", LEVELS)
@pytest.mark.parametrize("s", [0.3, 1.0, 3.0])
def test_gaussian_rate(
    make_schedule: MakeSchedule, prediction: str, gaussian_denoiser: MakeDenoiser, s: float, logsnr_max: float
) -> None:
    """With the optimal denoiser L_z is the mutual information of z_clean and z_0."""
    diffusion = GaussianDiffusion(make_schedule(-10.0, logsnr_max), prediction)  # type: ignore[arg-type]
    rate = mean_loss(diffusion, gaussian_denoiser(prediction, s), s, terminal=True)
    assert rate == pytest.approx(0.5 * math.log1p(s**2 * math.exp(logsnr_max)), rel=0.005)


def test_gaussian_rate_in_figures(gaussian_denoiser: MakeDenoiser) -> None:
    diffusion = GaussianDiffusion(CosineSchedule(logsnr_max=5.0), "v")
    rate = mean_loss(diffusion, gaussian_denoiser("v", 1.0), 1.0, terminal=True)
    assert rate == pytest.approx(2.5033, rel=0.003)
    assert rate / math.log(2) == pytest.approx(3.6115, rel=0.003)


def test_the_rate_needs_its_terminal_kl(gaussian_denoiser: MakeDenoiser) -> None:
    """With a λ(1) that still shows the data, the loss alone falls short and the terminal KL completes the bound."""
    diffusion = GaussianDiffusion(LinearSchedule(logsnr_min=-1.0, logsnr_max=5.0), "eps")
    exact = 0.5 * math.log1p(math.exp(5.0))
    assert mean_loss(diffusion, gaussian_denoiser("eps", 1.0), 1.0) < 0.95 * exact
    assert mean_loss(diffusion, gaussian_denoiser("eps", 1.0), 1.0, terminal=True) == pytest.approx(exact, rel=0.005)


def test_any_other_denoiser_pays_more(gaussian_denoiser: MakeDenoiser) -> None:
    """A bound from above: the denoiser of another variance costs extra nats."""
    diffusion = GaussianDiffusion(CosineSchedule(logsnr_max=5.0), "x")
    best = mean_loss(diffusion, gaussian_denoiser("x", 1.0), 1.0, calls=4)
    for s in (0.5, 2.0):
        assert mean_loss(diffusion, gaussian_denoiser("x", s), 1.0, calls=4) > 1.03 * best


# --- schedules and weightings ----------------------------------------------------------------------------------------


def over_logsnr(gain: Callable[[Tensor], Tensor], s: float, ends: tuple[float, float], weighting: Weighting) -> float:
    """∫ e^λ/2 w(λ) E‖x - gain(λ) x_t‖² dλ for x ~ N(0, s²), by quadrature: no schedule in it."""
    logsnr = torch.linspace(*ends, 20001, dtype=torch.float64)
    k, alpha, sigma = gain(logsnr), torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
    error = (1 - k * alpha) ** 2 * s**2 + (k * sigma) ** 2
    return torch.trapezoid(weighting.times_snr(logsnr) / 2 * error, logsnr).item()


@pytest.mark.parametrize("weighting", [ElboWeighting(), SigmoidWeighting(bias=-1.0, loss_factor=1.5)])
@pytest.mark.parametrize("logsnr_max", LEVELS)
def test_schedule_invariance(
    make_schedule: MakeSchedule,
    prediction: str,
    linear_denoiser: Callable[[str, Callable[[Tensor], Tensor]], Denoiser],
    logsnr_max: float,
    weighting: Weighting,
) -> None:
    """A fixed denoiser of λ alone, far from optimal at low SNR, costs the same under all schedules of these ends."""

    def gain(logsnr: Tensor) -> Tensor:  # x̂ = gain · x_t, tending to the unbiased 1/α at high SNR
        return torch.sigmoid(logsnr + 1) / torch.sigmoid(logsnr).sqrt()

    diffusion = GaussianDiffusion(make_schedule(-8.0, logsnr_max), prediction)  # type: ignore[arg-type]
    nats = mean_loss(diffusion, linear_denoiser(prediction, gain), 0.7, weighting, calls=12)
    assert nats == pytest.approx(over_logsnr(gain, 0.7, (-8.0, logsnr_max), weighting), rel=0.005)


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
def test_weighted_loss_of_the_gaussian_denoiser(gaussian_denoiser: MakeDenoiser, bias: float) -> None:
    """The posterior variance s²/(1 + s² e^λ), weighted and integrated: bias, e^b and the loss factor all count."""
    s, weighting = 1.3, SigmoidWeighting(bias=bias, loss_factor=1.7)
    logsnr = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    integrand = 1.7 * torch.sigmoid(bias - logsnr) * logsnr.exp() / 2 * s**2 / (1 + s**2 * logsnr.exp())
    diffusion = GaussianDiffusion(ShiftedCosineSchedule(shift=-1.0), "v")
    nats = mean_loss(diffusion, gaussian_denoiser("v", s), s, weighting)
    assert nats == pytest.approx(torch.trapezoid(integrand, logsnr).item(), rel=0.005)


@pytest.mark.parametrize("weighting", [None, SigmoidWeighting(bias=1.0, loss_factor=2.0)])
def test_parametrisations_agree_draw_by_draw(make_schedule: MakeSchedule, weighting: Weighting | None) -> None:
    """A nonlinear denoiser has the same positive loss as x̂, ε̂ and v̂, example by example."""
    x = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(1))

    def x_hat(x_t: Tensor, logsnr: Tensor) -> Tensor:
        return torch.tanh(x_t + logsnr.reshape(-1, 1, 1, 1) / 10)

    def eps(x_t: Tensor, logsnr: Tensor) -> Tensor:
        alpha, sigma = (torch.sigmoid(sign * logsnr).sqrt().reshape(-1, 1, 1, 1) for sign in (1, -1))
        return (x_t - alpha * x_hat(x_t, logsnr)) / sigma

    def v(x_t: Tensor, logsnr: Tensor) -> Tensor:
        alpha, sigma = (torch.sigmoid(sign * logsnr).sqrt().reshape(-1, 1, 1, 1) for sign in (1, -1))
        return alpha * eps(x_t, logsnr) - sigma * x_hat(x_t, logsnr)

    schedule = make_schedule(-9.0, 7.0)
    losses = [
        GaussianDiffusion(schedule, name).loss(
            denoiser, x, weighting=weighting, generator=torch.Generator().manual_seed(2)
        )  # type: ignore[arg-type]
        for name, denoiser in (("x", x_hat), ("eps", eps), ("v", v))
    ]
    assert losses[0].shape == (64,) and (losses[0] > 0).all()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-3, atol=0)


def test_loss_factor_scales_the_loss_and_elbo_is_the_default() -> None:
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    diffusion = GaussianDiffusion(CosineSchedule(), "eps")

    def nats(weighting: Weighting | None) -> Tensor:
        return diffusion.loss(
            lambda x_t, _: 0.1 * x_t, x, weighting=weighting, generator=torch.Generator().manual_seed(3)
        )

    torch.testing.assert_close(nats(SigmoidWeighting(loss_factor=2.5)), 2.5 * nats(SigmoidWeighting()))
    assert torch.equal(nats(None), nats(ElboWeighting()))


# --- the process ------------------------------------------------------------------------------------------------------


def test_add_noise_is_variance_preserving_and_to_x_undoes_it(prediction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    diffusion = GaussianDiffusion(LinearSchedule(), prediction)  # type: ignore[arg-type]
    x, noise = torch.randn(5, 2, 3, generator=generator), torch.randn(5, 2, 3, generator=generator)
    logsnr = torch.tensor([-8.0, -2.0, 0.0, 3.0, 8.0])
    alpha, sigma = (1 / (1 + (-logsnr).exp())).sqrt()[:, None, None], (1 / (1 + logsnr.exp())).sqrt()[:, None, None]
    x_t = diffusion.add_noise(x, logsnr=logsnr, noise=noise)
    torch.testing.assert_close(x_t, alpha * x + sigma * noise)
    truth = {"x": x, "eps": noise, "v": alpha * noise - sigma * x}[prediction]
    torch.testing.assert_close(diffusion.to_x(truth, x_t=x_t, logsnr=logsnr), x, rtol=0, atol=1e-4)


def test_a_perfect_prediction_costs_nothing(prediction: str) -> None:
    x = torch.randn(16, 7, generator=torch.Generator().manual_seed(0))
    diffusion = GaussianDiffusion(CosineSchedule(logsnr_max=5.0), prediction)  # type: ignore[arg-type]

    def oracle(x_t: Tensor, logsnr: Tensor) -> Tensor:
        alpha, sigma = torch.sigmoid(logsnr).sqrt()[:, None], torch.sigmoid(-logsnr).sqrt()[:, None]
        noise = (x_t - alpha * x) / sigma
        return {"x": x, "eps": noise, "v": alpha * noise - sigma * x}[prediction]

    assert diffusion.loss(oracle, x).max() < 1e-6


def test_loss_is_a_function_of_its_generator_and_gradients_reach_x() -> None:
    x = torch.randn(6, 3, 2, 2, requires_grad=True)
    diffusion = GaussianDiffusion(CosineSchedule(), "v")

    def nats(seed: int) -> Tensor:
        return diffusion.loss(lambda x_t, _: x_t, x, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(nats(0), nats(0)) and not torch.equal(nats(0), nats(1))
    (gradient,) = torch.autograd.grad(nats(0).sum(), x)
    assert (gradient != 0).all()


def test_gradient_reaches_x_through_x_t_and_through_the_target() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    diffusion = GaussianDiffusion(LinearSchedule(logsnr_min=-3, logsnr_max=3), "x")

    def gradient(denoiser: Denoiser) -> Tensor:
        nats = diffusion.loss(denoiser, x, generator=torch.Generator().manual_seed(1)).sum()
        return torch.autograd.grad(nats, x)[0]

    both, target_only = gradient(lambda x_t, _: x_t), gradient(lambda x_t, _: x_t.detach())
    assert not torch.allclose(both, target_only) and target_only.abs().min() > 0


def test_low_precision_predictions_are_compared_in_single_precision() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    nats = GaussianDiffusion(CosineSchedule(), "v").loss(lambda x_t, _: x_t.bfloat16(), x)
    assert nats.dtype == torch.float32


def test_terminal_kl_is_torchs() -> None:
    x = torch.randn(7, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for logsnr_min in (-12.0, -6.0, 0.0, 3.0):
        snr = math.exp(logsnr_min)
        q = Normal(math.sqrt(snr / (1 + snr)) * x, math.sqrt(1 / (1 + snr)))
        expected = kl_divergence(q, Normal(0.0, 1.0)).sum((1, 2))
        kl = GaussianDiffusion(LinearSchedule(logsnr_min=logsnr_min, logsnr_max=5.0)).terminal_kl(x)
        torch.testing.assert_close(kl, expected, rtol=1e-6, atol=1e-12)


def test_refuses_an_unknown_prediction() -> None:
    with pytest.raises(ValueError, match="prediction must be one of x, eps, v, got 'y'"):
        GaussianDiffusion(LinearSchedule(), "y")  # type: ignore[arg-type]


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_one_time_in_each_stratum(n: int) -> None:
    for seed in range(20):
        t = low_discrepancy_times(n, torch.Generator().manual_seed(seed)).double()
        assert t.shape == (n,) and (t >= 0).all() and (t < 1).all()
        inside = (t.sort().values * n - torch.arange(n)).clamp(1e-3, 1 - 1e-3)  # float32 may touch a stratum's edge
        assert ((t.sort().values * n - inside - torch.arange(n)).abs() <= 1.1e-3).all()


def test_each_time_is_uniform() -> None:
    """Not only together: the first example of a batch sees all of [0, 1), or its loss would be biased."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([low_discrepancy_times(4, generator) for _ in range(4000)])  # (4000, 4)
    for t in draws.T:
        assert t.mean().item() == pytest.approx(0.5, abs=0.02)
        assert t.var().item() == pytest.approx(1 / 12, abs=0.004)
        assert torch.histc(t, 10, 0, 1).min() > 320


def test_times_and_noise_follow_the_generator() -> None:
    def draw(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return low_discrepancy_times(5, generator), randn_like(torch.zeros(2, 3, dtype=torch.float64), generator)

    assert torch.equal(draw(0)[0], draw(0)[0]) and torch.equal(draw(0)[1], draw(0)[1])
    assert not torch.equal(draw(0)[0], draw(1)[0]) and not torch.equal(draw(0)[1], draw(1)[1])
    assert draw(0)[1].dtype == torch.float64 and draw(0)[1].shape == (2, 3)
