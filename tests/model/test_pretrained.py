"""Latent statistics: their values, what they normalise, and which are refused."""

import pytest
import torch

from ulzoo.model.pretrained import LatentMoments, LatentStatistics
from ulzoo.registry.compile import compile_model


def latents() -> torch.Tensor:
    z = torch.randn(40, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    return z * torch.linspace(0.1, 3, 8).reshape(1, 8, 1, 1) + torch.linspace(-50, 50, 8).reshape(1, 8, 1, 1)


def test_statistics_are_those_of_all_batches_together():
    moments, z = LatentMoments(), latents()
    for batch in z.split(7):
        moments.add(batch)
    statistics = moments.statistics()
    channels = z.double().transpose(0, 1).flatten(1)
    assert statistics.mean == pytest.approx(channels.mean(1).tolist(), rel=1e-6)
    assert statistics.std == pytest.approx(channels.std(1, correction=0).tolist(), rel=1e-6)
    assert LatentStatistics.from_dict(statistics.to_dict(), 8) == statistics


def test_a_constant_channel_has_no_statistics():
    moments = LatentMoments()
    assert moments.statistics() is None
    moments.add(torch.zeros(3, 2, 4, 4))
    assert moments.statistics() is None


def test_normalised_latents(tiny):
    model, z = compile_model(tiny()), latents()[:, :4]
    with pytest.raises(ValueError, match="has no latent statistics"):
        model.normalize_latents(z)
    moments = LatentMoments()
    moments.add(z)
    model.latent_statistics = moments.statistics()
    normalised = model.normalize_latents(z)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.denormalize_latents(normalised), z, atol=1e-4, rtol=1e-5)
    with pytest.raises(ValueError, match="latents must have shape"):
        model.normalize_latents(z[0])


@pytest.mark.parametrize(
    "values", [None, {}, {"mean": [0.0], "std": [1.0]}, {"mean": [0.0, "1"], "std": [1.0, 1.0]}, {"mean": [0, 0]},
               {"mean": [0.0, float("nan")], "std": [1.0, 1.0]}, {"mean": [0.0, 0.0], "std": [1.0, 0.0]}]
)  # fmt: skip
def test_values_that_are_no_statistics(values):
    with pytest.raises(ValueError, match="latent statistics must"):
        LatentStatistics.from_dict(values, 2)
