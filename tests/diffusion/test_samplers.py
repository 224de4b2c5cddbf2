"""Samplers against the one process whose samples are known: Gaussian data and its optimal denoiser."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ulzoo.diffusion import SAMPLERS, CosineSchedule, Denoiser, GaussianDiffusion, LinearSchedule, Schedule, samplers
from ulzoo.diffusion.samplers import even_roots, even_times

MakeSchedule = Callable[[float, float], Schedule]
MakeDenoiser = Callable[[str, float], Denoiser]


def variance(s: float, logsnr: float) -> float:
    """α² s² + σ², the variance of x_t."""
    alpha2 = 1 / (1 + math.exp(-logsnr))
    return alpha2 * s**2 + 1 - alpha2


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("s", [0.3, 1.0, 3.0])
def test_variance_of_gaussian_samples(prediction: str, gaussian_denoiser: MakeDenoiser, sampler: str, s: float) -> None:
    """x_0 ends at λ(0) with the noise that belongs there: variance α_0² s² + σ_0², not s²."""
    diffusion = GaussianDiffusion(CosineSchedule(logsnr_max=2.0), prediction)  # type: ignore[arg-type]
    steps = 200 if sampler == "ddpm" else 100
    generator = torch.Generator().manual_seed(0)
    x_0 = diffusion.sample(gaussian_denoiser(prediction, s), (4, 10000), steps, sampler, generator)
    assert x_0.var().item() == pytest.approx(variance(s, 2.0), rel=0.03)
    assert abs(x_0.mean().item()) < 0.03 * s


def gain_error(gaussian_denoiser: MakeDenoiser, sampler: str, schedule: Schedule, steps: int, s: float) -> float:
    """Relative error of x_0 / x_1, which the probability flow makes √(variance at λ(0) / variance at λ(1))."""
    denoiser = gaussian_denoiser("x", s)
    logsnrs = schedule.logsnr(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    x_0 = SAMPLERS[sampler](lambda x, t: denoiser(x, t[None]), torch.ones(1, 1, dtype=torch.float64), logsnrs, None)
    exact = math.sqrt(variance(s, schedule.logsnr_max) / variance(s, schedule.logsnr_min))
    return abs(x_0.item() / exact - 1)


@pytest.mark.parametrize("s", [0.1, 0.3, 3.0])
@pytest.mark.parametrize("logsnr_max", [2.0, 5.0, 10.0])
@pytest.mark.parametrize("steps", [8, 16])
def test_second_order_is_closer_with_few_steps(
    make_schedule: MakeSchedule, gaussian_denoiser: MakeDenoiser, s: float, logsnr_max: float, steps: int
) -> None:
    schedule = make_schedule(-10.0, logsnr_max)
    second, first = (gain_error(gaussian_denoiser, name, schedule, steps, s) for name in ("dpmpp_2m", "ddim"))
    assert second < first


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
@pytest.mark.parametrize("schedule", [LinearSchedule(logsnr_max=5.0), CosineSchedule(logsnr_max=5.0)])
def test_order_of_convergence(gaussian_denoiser: MakeDenoiser, sampler: str, order: int, schedule: Schedule) -> None:
    coarse, fine = (gain_error(gaussian_denoiser, sampler, schedule, steps, 0.3) for steps in (256, 512))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("grid", [even_times, even_roots])
@pytest.mark.parametrize("schedule", [LinearSchedule(logsnr_max=5.0), CosineSchedule(logsnr_min=-8.0)])
def test_grids_rise_from_end_to_end(grid: Callable, schedule: Schedule) -> None:
    for steps in (1, 2, 7, 250):
        logsnrs = grid(schedule, steps)
        assert logsnrs.shape == (steps + 1,) and (logsnrs.diff() > 0).all()
        assert (logsnrs[0], logsnrs[-1]) == (schedule.logsnr_min, schedule.logsnr_max)


def test_even_roots_by_edm() -> None:
    """σ_i = (σ_max^{1/ρ} + i/N (σ_min^{1/ρ} - σ_max^{1/ρ}))^ρ with ρ = 7 and σ = e^{-λ/2}."""
    sigma_max, sigma_min = math.exp(4.0), math.exp(-2.5)
    logsnrs = even_roots(LinearSchedule(logsnr_min=-8.0, logsnr_max=5.0), 5)
    for i, logsnr in enumerate(logsnrs.tolist()):
        sigma = (sigma_max ** (1 / 7) + i / 5 * (sigma_min ** (1 / 7) - sigma_max ** (1 / 7))) ** 7
        assert logsnr == pytest.approx(-2 * math.log(sigma), rel=1e-5)


def spread(gaussian_denoiser: MakeDenoiser, monkeypatch, sampler: str, logsnrs: Tensor, s: float) -> float:
    """The exact variance of x_0: a linear sampler's answers to x_1 and to each step's noise, squared and summed."""
    rows, number = len(logsnrs), itertools.count(1)

    def impulse(x: Tensor, _: object) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(number)), rows).to(x)[:, None]

    monkeypatch.setattr(samplers, "randn_like", impulse)
    denoiser, x_1 = gaussian_denoiser("x", s), torch.zeros(rows, 1, dtype=torch.float64)
    x_1[0] = math.sqrt(variance(s, logsnrs[0].item()))
    x_0 = SAMPLERS[sampler](lambda x, t: denoiser(x, t.expand(rows)), x_1, logsnrs.double(), None)
    return x_0.square().sum().item()


@pytest.mark.parametrize("s", [0.1, 0.3, 0.6, 3.0])
@pytest.mark.parametrize("steps", [8, 16])
def test_second_order_is_closer_with_noise_too(
    gaussian_denoiser: MakeDenoiser, monkeypatch: pytest.MonkeyPatch, s: float, steps: int
) -> None:
    logsnrs, exact = even_roots(CosineSchedule(logsnr_max=5.0), steps), variance(s, 5.0)
    second, first = (
        abs(spread(gaussian_denoiser, monkeypatch, name, logsnrs, s) / exact - 1) for name in ("dpmpp_2m_sde", "ddpm")
    )
    assert second < first


def test_order_of_convergence_with_noise(gaussian_denoiser: MakeDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, errors = CosineSchedule(logsnr_max=5.0), []
    for steps in (128, 256):
        measured = spread(gaussian_denoiser, monkeypatch, "dpmpp_2m_sde", even_roots(schedule, steps), 0.3)
        errors.append(abs(measured / variance(0.3, 5.0) - 1))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


def test_of_a_known_x_the_noisy_solver_is_ancestral_sampling() -> None:
    logsnrs = torch.tensor([-9.0, -2.0, 0.5, 4.0], dtype=torch.float64)
    x, x_1 = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    second, first = (
        SAMPLERS[name](lambda *_: x, x_1, logsnrs, torch.Generator().manual_seed(7))
        for name in ("dpmpp_2m_sde", "ddpm")
    )
    torch.testing.assert_close(second, first)


@pytest.mark.parametrize(("t", "s"), [(-3.0, -1.0), (-6.0, 4.0), (2.0, 2.5)])
def test_ancestral_step_is_the_posterior(t: float, s: float) -> None:
    """Bayes: x_s given x is N(α_s x, σ_s²) and x_t given x_s is N(a x_s, σ_t² - a² σ_s²) with a = α_t / α_s."""
    alpha_t, sigma_t, alpha_s, sigma_s = (math.sqrt(1 / (1 + math.exp(-at))) for at in (t, -t, s, -s))
    a = alpha_t / alpha_s
    var_ts = sigma_t**2 - a**2 * sigma_s**2
    precision = 1 / sigma_s**2 + a**2 / var_ts
    x, x_t = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = (alpha_s * x / sigma_s**2 + a * x_t / var_ts) / precision
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    logsnrs = torch.tensor([t, s], dtype=torch.float64)
    x_s = SAMPLERS["ddpm"](lambda *_: x, x_t, logsnrs, torch.Generator().manual_seed(7))
    torch.testing.assert_close(x_s, mean + noise / math.sqrt(precision), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_deterministic_steps_keep_the_noise_of_a_known_x(sampler: str) -> None:
    """If x̂ never changes, both solvers are exact: x_0 = α_0 x + σ_0 ε with the ε that x_1 had."""
    logsnrs = torch.tensor([-9.0, -2.0, 0.5, 4.0], dtype=torch.float64)
    x, noise = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alphas, sigmas = torch.sigmoid(logsnrs).sqrt(), torch.sigmoid(-logsnrs).sqrt()
    x_0 = SAMPLERS[sampler](lambda *_: x, alphas[0] * x + sigmas[0] * noise, logsnrs, None)
    torch.testing.assert_close(x_0, alphas[-1] * x + sigmas[-1] * noise)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_what_the_network_is_asked(sampler: str) -> None:
    """`steps` evaluations, from λ(1) upwards, never at λ(0), with one log-SNR per example."""
    schedule, asked = CosineSchedule(logsnr_min=-8.0, logsnr_max=5.0), []

    def denoiser(x_t: Tensor, logsnr: Tensor) -> Tensor:
        assert logsnr.shape == (3,) and x_t.shape == (3, 2, 4)
        asked.append(logsnr[0].item())
        return x_t

    GaussianDiffusion(schedule, "v").sample(denoiser, (3, 2, 4), 6, sampler)
    assert len(asked) == 6 and asked == sorted(asked)
    assert asked[0] == -8.0 and asked[-1] < 5.0


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_samples_follow_the_generator(gaussian_denoiser: MakeDenoiser, sampler: str) -> None:
    diffusion = GaussianDiffusion(CosineSchedule(logsnr_max=5.0), "eps")

    def draw(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return diffusion.sample(gaussian_denoiser("eps", 1.0), (2, 3), 5, sampler, generator)

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_one_step_is_enough_to_run_and_no_gradient_is_kept(sampler: str) -> None:
    weight = torch.ones((), requires_grad=True)
    x_0 = GaussianDiffusion(CosineSchedule(), "v").sample(lambda x_t, _: weight * x_t, (1, 2), 1, sampler)
    assert x_0.isfinite().all() and not x_0.requires_grad


def test_refuses_unknown_samplers_and_no_steps() -> None:
    diffusion = GaussianDiffusion(CosineSchedule())
    with pytest.raises(ValueError, match="sampler must be one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, got 'euler'"):
        diffusion.sample(lambda x_t, _: x_t, (1, 2), 5, "euler")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        diffusion.sample(lambda x_t, _: x_t, (1, 2), 0)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_the_final_prediction_is_that_of_the_last_evaluation(sampler: str, steps: int) -> None:
    predictions = []

    def denoiser(x_t: Tensor, logsnr: Tensor) -> Tensor:
        predictions.append(torch.sigmoid(logsnr)[:, None] * x_t)
        return predictions[-1]

    diffusion = GaussianDiffusion(CosineSchedule(logsnr_max=2.0), "x", final_prediction=True)
    x = diffusion.sample(denoiser, (4, 3), steps, sampler, torch.Generator().manual_seed(0))
    assert len(predictions) == steps and torch.equal(x, predictions[-1])
