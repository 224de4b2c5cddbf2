"""A belief for every token, and what x_t leaves of it."""

import pytest
import torch

from ulzoo.nn import DenoiserInputs, ViT
from ulzoo.nn.vit import posterior_mean

LOGSNR = torch.tensor([-6.0, -1.0, 0.0, 3.0, 8.0])


@pytest.mark.parametrize("std", [0.02, 0.3, 2.0])
def test_the_mean_of_the_posterior(std: float) -> None:
    """Bayes' rule for x ~ N(m, s²) and x_t = α x + σ ε, in precisions."""
    mean, x_t = torch.randn(2, 5, 7, 6)
    alpha2 = torch.sigmoid(LOGSNR)[:, None, None]
    prior, seen = std**-2, alpha2 / (1 - alpha2)
    expected = (prior * mean + seen * x_t / alpha2.sqrt()) / (prior + seen)
    found = posterior_mean(mean, torch.full((5, 7, 1), std), x_t, LOGSNR)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_every_token_has_its_own() -> None:
    network = ViT(DenoiserInputs((4, 8, 8), 3), patch=(2, 8, 8), width=8, depth=1, heads=2, belief=0.5)
    x_t, logsnr = torch.randn(2, 3, 4, 8, 8), torch.tensor([-1.0, 2.0])
    alpha2 = torch.sigmoid(logsnr)[:, None, None, None, None]
    fresh = alpha2.sqrt() * 0.25 / (1 - 0.75 * alpha2) * x_t  # which believes in N(0, 0.5²)
    torch.testing.assert_close(network(x_t, logsnr), fresh)
    with torch.no_grad():
        network.out.proj.weight[-1] = torch.randn(8)  # deviations only
    gain = network(x_t, logsnr) / x_t
    first, second = gain[:, :, :2], gain[:, :, 2:]
    for token in (first, second):
        torch.testing.assert_close(token, token[:, :1, :1, :1, :1].expand_as(token), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(first, second)
