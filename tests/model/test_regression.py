"""The decoder that regresses (Table 5)."""

import torch
from torch import Tensor, nn

from ulzoo.model.contract import Sampling
from ulzoo.model.denoisers import RegressionDecoder
from ulzoo.nn.conditioning import NetworkConditions


class Twice(nn.Module):
    """2 z_0, whatever x_t is; it stores its last inputs."""

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        assert conditions.latent is not None
        self.seen = x_t, logsnr
        return 2 * conditions.latent


def test_its_loss_is_the_weighted_squared_error() -> None:
    decoder, x, z_0 = RegressionDecoder(Twice(), 30.0), torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    expected = 15 * (x - 2 * z_0).square().sum((1, 2, 3))
    torch.testing.assert_close(decoder.loss(x, conditions=NetworkConditions(z_0)), expected)


def test_the_loss_is_a_gaussians_but_for_its_constant() -> None:
    decoder, x, z_0 = RegressionDecoder(Twice(), 30.0), torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    nats = -torch.distributions.Normal(2 * z_0, 30**-0.5).log_prob(x).sum((1, 2, 3))
    difference = nats - decoder.loss(x, conditions=NetworkConditions(z_0))
    torch.testing.assert_close(difference, difference[:1].expand(5), rtol=1e-3, atol=1e-3)


def test_a_sample_is_the_regression_without_noise_or_steps() -> None:
    network = Twice()
    decoder, z_0 = RegressionDecoder(network, 1.0), torch.randn(5, 3, 4, 4)
    for sampling in (Sampling(steps=1), Sampling("ddpm", 7)):
        x = decoder.sample((5, 3, 4, 4), sampling, conditions=NetworkConditions(z_0))
        assert torch.equal(x, 2 * z_0)
    assert not network.seen[0].any() and network.seen[0].shape == (5, 3, 4, 4) and network.seen[1].shape == (5,)


def test_the_context_clip_is_its_residual_mean() -> None:
    decoder, z_0 = RegressionDecoder(Twice(), 2.0), torch.randn(2, 3, 4, 4, 4)
    frames = torch.cat([torch.randn(2, 3, 4, 4, 4), torch.ones(2, 1, 4, 4, 4)], dim=1)
    conditions = NetworkConditions(z_0, context_frames=frames)
    x = decoder.sample((2, 3, 4, 4, 4), Sampling(), conditions=conditions)
    torch.testing.assert_close(x, 2 * z_0 + frames[:, :3])
    assert torch.equal(decoder.loss(x, conditions=conditions), torch.zeros(2))
