"""The Fréchet distance between two samples of one Gaussian: closed form against simulation."""

import pytest
import torch

from ulzoo.evaluation.frechet import FeatureStatistics, Moments, frechet_distance
from ulzoo.evaluation.sampling_bias import expected_bias, find_bias_cautions, self_distance

DIMENSION = 400  # of FVD


def spectrum(power):
    """Variances that fall as a power of their number."""
    return torch.arange(1, DIMENSION + 1, dtype=torch.float64) ** -power


def simulated(variances, n, m, seed=0):
    """The distance between two samples."""
    generator = torch.Generator().manual_seed(seed)
    sets = []
    for count in (n, m):
        statistics = FeatureStatistics(len(variances))
        noise = torch.randn(count, len(variances), generator=generator, dtype=torch.float64)
        statistics.add(noise * variances.sqrt() + 3)
        sets.append(statistics)
    return frechet_distance(*sets), sets[0]


@pytest.mark.parametrize(("power", "share"), [(0, 0.099), (1, 0.042)])
def test_2048_samples_are_4_to_10_percent_of_the_variance_apart(power, share):
    variances = spectrum(power)
    reference = Moments(torch.zeros(DIMENSION), variances.diag())
    expected = self_distance(reference, 2048, 2048)
    distance, estimated = simulated(variances, 2048, 2048)
    assert expected / variances.sum() == pytest.approx(share, rel=0.02)
    assert distance == pytest.approx(expected, rel=0.02)
    assert 0.9 * expected < self_distance(estimated, 2048, 2048) < expected
    assert 0.0015 < self_distance(reference, 50_000, 50_000) / variances.sum() < 0.0045


def test_sets_of_different_sizes_and_a_flat_spectrum_in_closed_form():
    flat = spectrum(0)
    reference = Moments(torch.zeros(DIMENSION), flat.diag())
    for n, m in ((2048, 2048), (2000, 6000)):
        share = (1 / n + 1 / m) + (1 / (n - 1) + 1 / (m - 1)) * (DIMENSION + 1) / 4
        assert self_distance(reference, n, m) == pytest.approx(share * DIMENSION)
    assert simulated(flat, 2000, 6000)[0] == pytest.approx(self_distance(reference, 2000, 6000), rel=0.03)


def test_features_without_variance():
    assert self_distance(Moments(torch.zeros(3), torch.zeros(3, 3, dtype=torch.float64)), 10, 10) == 0
    partly = torch.tensor([1.0, 0.0], dtype=torch.float64).diag()
    assert self_distance(Moments(torch.zeros(2), partly), 11, 11) == pytest.approx(2 / 11 + 0.1)


def test_the_caution_says_how_much_of_a_distance_is_bias():
    reference = Moments(torch.zeros(DIMENSION), spectrum(0).diag())
    counts = {"samples": 2048, "references": 2048}
    start = "fvd of 2,048 clips and 2,048 real ones is 40.1"
    assert expected_bias(reference, **counts) == pytest.approx(39.57, abs=0.01)
    assert find_bias_cautions("fvd", 40.1, reference, **counts, kind="clips") == [
        f"{start}, but two such samples of one distribution are about 39.6 apart, 9.9% of the features' variance; "
        "more clips lower it"
    ]
    assert find_bias_cautions("fvd", 400.0, reference, **counts, kind="clips") == []
    few = {"samples": 400, "references": 9999}
    assert expected_bias(reference, **few) is None and find_bias_cautions("x", 1.0, reference, **few, kind="x") == []


def test_the_size_of_a_reference_may_be_unknown():
    """Its bias is then that of the samples alone, half of that of two sets."""
    reference = Moments(torch.zeros(DIMENSION), spectrum(0).diag())
    alone = expected_bias(reference, samples=2048, references=None)
    assert 2 * alone == pytest.approx(expected_bias(reference, samples=2048, references=2048))
    (line,) = find_bias_cautions("gfid", 30.0, reference, samples=2048, references=None, kind="images")
    assert line.startswith("gfid of 2,048 images and the statistics of real ones is 30, but ") and "about 19.8" in line
