"""One Gaussian world with known answers: data N(0, s² I), its optimal denoiser, and every schedule at chosen ends."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ulzoo.diffusion import (
    CosineSchedule,
    Denoiser,
    InterpolatedCosineSchedule,
    LinearSchedule,
    Schedule,
    ShiftedCosineSchedule,
)

MakeSchedule = Callable[[float, float], Schedule]

SCHEDULES: dict[str, MakeSchedule] = {
    "linear": lambda low, high: LinearSchedule(logsnr_min=low, logsnr_max=high),
    "cosine": lambda low, high: CosineSchedule(logsnr_min=low, logsnr_max=high),
    "shifted": lambda low, high: ShiftedCosineSchedule(logsnr_min=low, logsnr_max=high, shift=-2.0),
    "interpolated": lambda low, high: InterpolatedCosineSchedule(logsnr_min=low, logsnr_max=high, low=-4.0, high=-1.0),
}


@pytest.fixture(params=list(SCHEDULES))
def make_schedule(request: pytest.FixtureRequest) -> MakeSchedule:
    """(logsnr_min, logsnr_max) -> a schedule of each kind."""
    return SCHEDULES[request.param]


@pytest.fixture(params=["x", "eps", "v"])
def prediction(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def linear_denoiser() -> Callable[[str, Callable[[Tensor], Tensor]], Denoiser]:
    """(prediction, gain) -> the denoiser x̂ = gain(λ) x_t, in the given parametrisation."""

    def make(prediction: str, gain: Callable[[Tensor], Tensor]) -> Denoiser:
        def denoiser(x_t: Tensor, logsnr: Tensor) -> Tensor:
            k, alpha, sigma = gain(logsnr), torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
            eps = (1 - alpha * k) / sigma  # of x_t, as x_t = α x̂ + σ ε̂
            factor = {"x": k, "eps": eps, "v": alpha * eps - sigma * k}[prediction]
            return factor.reshape(-1, *[1] * (x_t.ndim - 1)) * x_t

        return denoiser

    return make


@pytest.fixture
def gaussian_denoiser(linear_denoiser: Callable) -> Callable[[str, float], Denoiser]:
    """(prediction, s) -> the optimal denoiser of N(0, s² I) data, x̂ = α s² x_t / (α² s² + σ²)."""

    def make(prediction: str, s: float) -> Denoiser:
        def gain(logsnr: Tensor) -> Tensor:
            alpha2, sigma2 = torch.sigmoid(logsnr), torch.sigmoid(-logsnr)
            return alpha2.sqrt() * s**2 / (alpha2 * s**2 + sigma2)

        return linear_denoiser(prediction, gain)

    return make
