"""Distances between Gaussians in closed form, and statistics that do not depend on the batches."""

import numpy as np
import pytest
import torch

from ulzoo.evaluation.frechet import FeatureStatistics, Moments, frechet_distance


def collected(features: torch.Tensor, *sizes: int) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    for part in features.split(sizes or (len(features),)):
        statistics.add(part)
    return statistics


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics(len(mean))
    statistics.count, statistics.mean, statistics._scatter = 11, mean.double(), covariance.double() * 10
    return statistics


def spd(dimension: int, seed: int) -> torch.Tensor:
    root = torch.randn(dimension, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T / dimension


def noise(n: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_statistics_are_numpy_s():
    x = noise(50, 7) * 3 + 100
    statistics = collected(x, 1, 20, 29)
    assert statistics.count == 50
    np.testing.assert_allclose(statistics.mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-10)


def test_statistics_keep_their_digits_far_from_zero():
    x = noise(300, 4)
    near, far = collected(x, 100, 200).covariance, collected(x + 1e6, 100, 200).covariance
    assert torch.allclose(near, far, rtol=1e-6)


@pytest.mark.parametrize("dimension", [1, 5, 40])
def test_the_same_gaussian_is_at_distance_zero(dimension):
    a = gaussian(torch.ones(dimension), spd(dimension, 0))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_in_one_dimension():
    a, b = gaussian(torch.tensor([2.0]), torch.tensor([[9.0]])), gaussian(torch.tensor([-1.0]), torch.tensor([[4.0]]))
    assert frechet_distance(a, b) == pytest.approx(3**2 + (3 - 2) ** 2)


def test_covariances_that_commute():
    """|μ|² + Σ (σ_a - σ_b)², in any common basis."""
    basis = torch.linalg.qr(noise(6, 6))[0]
    a, b = torch.arange(1.0, 7, dtype=torch.float64), torch.tensor([4.0, 0, 1, 9, 2, 2], dtype=torch.float64)
    shift = noise(1, 6, seed=1)[0]
    distance = frechet_distance(
        gaussian(shift, basis @ a.diag() @ basis.T), gaussian(torch.zeros(6), basis @ b.diag() @ basis.T)
    )
    assert distance == pytest.approx((shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()).item(), rel=1e-6)


def test_two_by_two_in_closed_form():
    """tr (Σ_a Σ_b)^½ = √(tr Σ_a Σ_b + 2 √(det Σ_a det Σ_b)) in two dimensions."""
    a, b = spd(2, 1), spd(2, 2)
    root = ((a @ b).trace() + 2 * (a.det() * b.det()).sqrt()).sqrt()
    expected = (a.trace() + b.trace() - 2 * root).item()
    assert frechet_distance(gaussian(torch.zeros(2), a), gaussian(torch.zeros(2), b)) == pytest.approx(expected)


def test_it_is_symmetric_and_invariant():
    a, b = (gaussian(noise(1, 8, seed)[0], spd(8, seed)) for seed in (3, 4))
    turn, shift = torch.linalg.qr(noise(8, 8, 5))[0], noise(1, 8, 6)[0]

    def turned(s: FeatureStatistics) -> FeatureStatistics:
        return gaussian(turn @ s.mean + shift, turn @ s.covariance @ turn.T)

    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(turned(a), turned(b)) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_singular_covariances():
    """Fewer examples than dimensions, and examples without variance."""
    x, y = noise(5, 20), noise(6, 20, seed=1)
    distance = frechet_distance(collected(x), collected(y))
    s, t = collected(x), collected(y)
    mixed = np.linalg.eigvals((s.covariance @ t.covariance).numpy()).real.clip(0)
    between = np.sqrt(mixed).sum()
    expected = (s.mean - t.mean).square().sum() + s.covariance.trace() + t.covariance.trace() - 2 * between
    assert distance == pytest.approx(expected.item(), rel=1e-4)
    constant = collected(torch.ones(4, 20))
    assert frechet_distance(constant, collected(torch.zeros(4, 20))) == pytest.approx(20)


def test_features_without_a_covariance():
    with pytest.raises(ValueError, match="at least 2 examples, not 1"):
        _ = collected(torch.ones(1, 3)).covariance
    with pytest.raises(ValueError, match="not finite"):
        collected(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("decades", [2, 8, 16])
def test_it_is_stable_where_variances_span_decades(decades):
    """As those of Inception's features do; no square root of a general matrix is involved."""
    dimension = 300
    basis = torch.linalg.qr(noise(dimension, dimension))[0]
    a = torch.logspace(2 - decades, 2, dimension, dtype=torch.float64)
    b = a * torch.linspace(0.5, 2, dimension, dtype=torch.float64)
    expected = (a.sqrt() - b.sqrt()).square().sum().item()
    turned = [gaussian(torch.zeros(dimension), basis @ values.diag() @ basis.T) for values in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(expected, rel=1e-6, abs=1e-4)
    assert frechet_distance(*reversed(turned)) == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_half_of_the_dimensions_missing():
    """Features that are always 0 have no variance in either set."""
    x, y = noise(400, 40), noise(400, 40, seed=1) * 2 + 1
    wide = [torch.cat([features, torch.zeros(400, 40)], 1) for features in (x, y)]
    assert frechet_distance(*map(collected, wide)) == pytest.approx(
        frechet_distance(collected(x), collected(y)), rel=1e-6
    )


def test_moments_equal_collected_statistics():
    x, y = collected(noise(50, 6)), collected(noise(50, 6, seed=1))
    assert frechet_distance(Moments(x.mean, x.covariance), y) == frechet_distance(x, y)
