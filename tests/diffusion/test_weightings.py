import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ulzoo.diffusion import ElboWeighting, SigmoidWeighting


@given(logsnr=st.floats(-60, 60), bias=st.floats(-6, 6), factor=st.floats(0.1, 4))
def test_sigmoid_and_its_identity(logsnr: float, bias: float, factor: float) -> None:
    """e^λ sigmoid(b - λ) = e^b sigmoid(λ - b), so ε-MSE and x-MSE carry the same loss."""
    weighting, at = SigmoidWeighting(bias=bias, loss_factor=factor), torch.tensor(logsnr, dtype=torch.float64)
    naive = factor / (1 + math.exp(logsnr - bias))
    torch.testing.assert_close(weighting(at).item(), naive, rtol=1e-9, atol=0)
    torch.testing.assert_close(weighting.times_snr(at).item(), math.exp(logsnr) * naive, rtol=1e-9, atol=0)


@pytest.mark.parametrize("bias", [-5.0, 0.0, 5.0])
def test_finite_in_single_precision(bias: float) -> None:
    weighting, logsnr = SigmoidWeighting(bias=bias, loss_factor=1.5), torch.tensor([-60.0, 0.0, 60.0])
    for weight in (weighting(logsnr), weighting.times_snr(logsnr)):
        assert weight.isfinite().all() and (weight > 0).all()
    assert weighting(logsnr)[0].item() == pytest.approx(1.5)  # noise: full weight; no noise: none
    assert weighting.times_snr(logsnr)[2].item() == pytest.approx(1.5 * math.exp(bias))


def test_weight_is_half_the_loss_factor_at_the_bias_and_discounts_low_noise() -> None:
    weighting = SigmoidWeighting(bias=-2.0, loss_factor=3.0)
    assert weighting(torch.tensor(-2.0)).item() == pytest.approx(1.5)
    assert weighting(torch.tensor(4.0)) < weighting(torch.tensor(-4.0))


def test_loss_factor_is_a_factor() -> None:
    logsnr = torch.linspace(-10, 10, 9)
    one, three = SigmoidWeighting(bias=1.0), SigmoidWeighting(bias=1.0, loss_factor=3.0)
    torch.testing.assert_close(three(logsnr), 3 * one(logsnr))
    torch.testing.assert_close(three.times_snr(logsnr), 3 * one.times_snr(logsnr))


def test_elbo_is_one() -> None:
    logsnr = torch.linspace(-10, 10, 9)
    assert torch.equal(ElboWeighting()(logsnr), torch.ones(9))
    torch.testing.assert_close(ElboWeighting().times_snr(logsnr), logsnr.exp())


@pytest.mark.parametrize("loss_factor", [0.0, -1.0])
def test_refuses_a_loss_factor_that_is_not_positive(loss_factor: float) -> None:
    with pytest.raises(ValueError, match="loss_factor must be positive"):
        SigmoidWeighting(loss_factor=loss_factor)
