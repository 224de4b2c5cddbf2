import pytest
import torch
from torch import Tensor

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, Guidance, expand_like

X_T = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
LOGSNR = torch.tensor([-6.0, -1.0, 2.0, 7.0])


def conditional(x_t: Tensor, logsnr: Tensor) -> Tensor:
    return torch.tanh(x_t) + expand_like(logsnr, x_t)


def unconditional(x_t: Tensor, logsnr: Tensor) -> Tensor:
    return 0.5 * x_t


def both(x_t: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
    return conditional(x_t, logsnr), unconditional(x_t, logsnr)


def never(x_t: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("the network was called")


def test_formula() -> None:
    expected = unconditional(X_T, LOGSNR) + 3 * (conditional(X_T, LOGSNR) - unconditional(X_T, LOGSNR))
    torch.testing.assert_close(Guidance(both, 3.0)(X_T, LOGSNR), expected)


def test_scale_zero_is_unconditional() -> None:
    torch.testing.assert_close(Guidance(both, 0.0)(X_T, LOGSNR), unconditional(X_T, LOGSNR))


def test_where_it_applies() -> None:
    interval = Guidance(both, 3.0, (-1.0, 2.0))
    assert [interval.applies(level.item()) for level in LOGSNR] == [False, True, True, False]  # the ends belong to it
    assert all(Guidance(both, 3.0).applies(level.item()) for level in LOGSNR)
    assert not any(Guidance(both, 1.0).applies(level.item()) for level in LOGSNR)


@pytest.mark.parametrize("guidance", [Guidance(never, 1.0), Guidance(never, 3.0, (10.0, 20.0))])
def test_where_it_does_not_the_conditional_network_samples_alone(guidance: Guidance) -> None:
    def sample(guidance: Guidance | None) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        diffusion = GaussianDiffusion(CosineSchedule(logsnr_max=5.0))
        return diffusion.sample(conditional, (2, 3), 6, "ddim", generator, guidance=guidance)

    assert torch.equal(sample(guidance), sample(None))


def test_samples_are_guided_within_the_interval() -> None:
    """Equal to a denoiser that switches by level: conditional outside the interval, guided inside."""
    asked = []

    def seen(x_t: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(logsnr[0].item())
        return both(x_t, logsnr)

    def by_hand(x_t: Tensor, logsnr: Tensor) -> Tensor:
        return Guidance(both, 3.0)(x_t, logsnr) if -2 <= logsnr[0] <= 1 else conditional(x_t, logsnr)

    diffusion = GaussianDiffusion(CosineSchedule(logsnr_max=5.0))
    got, expected = (
        diffusion.sample(denoiser, (2, 3), 9, "ddim", torch.Generator().manual_seed(0), guidance=guidance)
        for denoiser, guidance in ((conditional, Guidance(seen, 3.0, (-2.0, 1.0))), (by_hand, None))
    )
    assert torch.equal(got, expected)
    assert 0 < len(asked) < 9 and all(-2 <= level <= 1 for level in asked)


def test_guiding_means_the_same_in_every_parametrisation() -> None:
    def predicted_as(prediction: str, scale: float) -> Tensor:
        alpha, sigma = (expand_like(torch.sigmoid(sign * LOGSNR).sqrt(), X_T) for sign in (1, -1))

        def translate(x_hat: Tensor) -> Tensor:
            eps = (X_T - alpha * x_hat) / sigma
            return {"x": x_hat, "eps": eps, "v": alpha * eps - sigma * x_hat}[prediction]

        guidance = Guidance(lambda x, t: (translate(conditional(x, t)), translate(unconditional(x, t))), scale)
        return GaussianDiffusion(CosineSchedule(), prediction).to_x(  # type: ignore[arg-type]
            guidance(X_T, LOGSNR), x_t=X_T, logsnr=LOGSNR
        )

    for prediction in ("eps", "v"):
        torch.testing.assert_close(predicted_as(prediction, 2.5), predicted_as("x", 2.5), rtol=1e-3, atol=1e-4)


def test_refuses_an_interval_that_falls() -> None:
    with pytest.raises(ValueError, match="must rise, got 3 to -1"):
        Guidance(both, 2.0, (3, -1))
