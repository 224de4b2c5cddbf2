import pytest
import torch
from torch import Tensor

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, expand_like, guided

X_T = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
LOGSNR = torch.tensor([-6.0, -1.0, 2.0, 7.0])


def conditional(x_t: Tensor, logsnr: Tensor) -> Tensor:
    return torch.tanh(x_t) + expand_like(logsnr, x_t)


def unconditional(x_t: Tensor, logsnr: Tensor) -> Tensor:
    return 0.5 * x_t


def never(x_t: Tensor, logsnr: Tensor) -> Tensor:
    raise AssertionError("the unconditional network was called")


def test_formula() -> None:
    expected = unconditional(X_T, LOGSNR) + 3 * (conditional(X_T, LOGSNR) - unconditional(X_T, LOGSNR))
    torch.testing.assert_close(guided(conditional, unconditional, 3.0)(X_T, LOGSNR), expected)


def test_scale_zero_is_unconditional() -> None:
    torch.testing.assert_close(guided(conditional, unconditional, 0.0)(X_T, LOGSNR), unconditional(X_T, LOGSNR))


def test_scale_one_is_the_conditional_model_alone() -> None:
    for interval in (None, (-2.0, 3.0)):
        assert torch.equal(guided(conditional, never, 1.0, interval)(X_T, LOGSNR), conditional(X_T, LOGSNR))


def test_interval_is_respected_by_each_example() -> None:
    got = guided(conditional, unconditional, 3.0, (-1.0, 2.0))(X_T, LOGSNR)  # the ends belong to it
    full, plain = guided(conditional, unconditional, 3.0)(X_T, LOGSNR), conditional(X_T, LOGSNR)
    torch.testing.assert_close(got[1:3], full[1:3])
    torch.testing.assert_close(got[[0, 3]], plain[[0, 3]])
    assert not torch.allclose(full[[0, 3]], plain[[0, 3]])


def test_outside_of_the_interval_the_unconditional_network_rests() -> None:
    got = guided(conditional, never, 3.0, (10.0, 20.0))(X_T, LOGSNR)
    assert torch.equal(got, conditional(X_T, LOGSNR))


def test_guiding_means_the_same_in_every_parametrisation() -> None:
    def told_as(prediction: str, scale: float) -> Tensor:
        alpha, sigma = (expand_like(torch.sigmoid(sign * LOGSNR).sqrt(), X_T) for sign in (1, -1))

        def translate(x_hat: Tensor) -> Tensor:
            eps = (X_T - alpha * x_hat) / sigma
            return {"x": x_hat, "eps": eps, "v": alpha * eps - sigma * x_hat}[prediction]

        denoiser = guided(
            lambda x, t: translate(conditional(x, t)), lambda x, t: translate(unconditional(x, t)), scale, (-4.0, 3.0)
        )
        return GaussianDiffusion(CosineSchedule(), prediction).to_x(denoiser(X_T, LOGSNR), X_T, LOGSNR)  # type: ignore[arg-type]

    for prediction in ("eps", "v"):
        torch.testing.assert_close(told_as(prediction, 2.5), told_as("x", 2.5), rtol=1e-3, atol=1e-4)


def test_refuses_an_interval_that_falls() -> None:
    with pytest.raises(ValueError, match="must rise, got 3 to -1"):
        guided(conditional, unconditional, 2.0, (3, -1))
