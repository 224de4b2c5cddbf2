"""How large a Fréchet distance between two finite samples of one distribution is, and when a distance is mostly that.

A Fréchet distance of samples is biased upwards, since the means and covariances of two samples differ even if their
distributions are the same. For Gaussian features and samples of n and m, to first order in 1/n and 1/m, the expected
distance is

    (1/n + 1/m) tr Σ  +  ½ (1/(n - 1) + 1/(m - 1)) Σ_ij (1 + δ_ij) λ_i λ_j / (λ_i + λ_j)

with the eigenvalues λ of Σ. The first term is that of the means. The second is that of the covariances, whose squared
Bures distance is ½ Σ_ij H_ij² / (λ_i + λ_j) for a small difference H in the basis of eigenvectors, and where
H_ij has the variance (1 + δ_ij) λ_i λ_j (1/(n - 1) + 1/(m - 1)). In 400 dimensions and with n = m = 2048, this is 9.9 %
of tr Σ if all eigenvalues are equal and 4.2 % if they are as 1/k, with 50,000 samples 0.41 % and 0.17 %; simulated
distances agree to 2 % (`evaluation/test_sampling_bias`).
"""

import math

import torch

from ulzoo.evaluation.frechet import Gaussian

DOMINATED = 0.1  # share of a distance from which its bias is worth a caution


def self_distance(reference: Gaussian, n: float, m: float) -> float:
    """The expected distance between two samples, of n and m, of a Gaussian with the reference's covariance.

    An estimated covariance has a wider spectrum than the true one, so that the result is too small, by 9 % with 2,048
    samples of 400 dimensions. There must be clearly more samples than dimensions.

    Args:
        reference: of which only the covariance is used.
        n: number of samples of one set, which may be infinite.
        m: number of samples of the other.
    """
    assert min(n, m) > 1, (n, m)
    values = torch.linalg.eigvalsh(reference.covariance).clamp(min=0)
    sums = values[:, None] + values
    pairs = torch.where(sums > 0, values[:, None] * values / sums.clamp(min=torch.finfo(sums.dtype).tiny), 0.0)
    covariances = pairs.sum() + pairs.diagonal().sum()
    means = (1 / n + 1 / m) * values.sum()
    return (means + 0.5 * (1 / (n - 1) + 1 / (m - 1)) * covariances).item()


def expected_bias(reference: Gaussian, *, samples: int, references: int | None) -> float | None:
    """The `self_distance` of samples and a reference; None if there are no more of either than dimensions.

    Args:
        reference: mean and covariance of the reference.
        samples: number of samples.
        references: number of examples in the reference; None if unknown, which counts as infinitely many.
    """
    of_reference = math.inf if references is None else references
    if min(samples, of_reference) <= len(reference.mean):
        return None  # `bias_caution` is the caution of such distances
    return self_distance(reference, samples, of_reference)


def find_bias_cautions(
    metric: str, distance: float, reference: Gaussian, *, samples: int, references: int | None, kind: str
) -> list[str]:
    """A line if a good part of a distance is what two samples of one distribution have; else none.

    Args:
        metric: name of the distance.
        distance: its value.
        reference, samples, references: as for `expected_bias`.
        kind: "images" or "clips".
    """
    expected = expected_bias(reference, samples=samples, references=references)
    variance = reference.covariance.trace().item()
    if expected is None or not variance or expected <= DOMINATED * distance:
        return []
    real = f"{references:,} real ones" if references else "the statistics of real ones"
    return [
        f"{metric} of {samples:,} {kind} and {real} is {distance:.3g}, but two such samples of one distribution are "
        f"about {expected:.3g} apart, {expected / variance:.1%} of the features' variance; more {kind} lower it"
    ]
