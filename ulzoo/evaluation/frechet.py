"""The Fréchet distance between two Gaussians, and the mean and covariance of features, collected batch by batch."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

DISTANCE = "Fréchet distance of Gaussians, covariances divided by N - 1"


class Gaussian(Protocol):
    """A Gaussian distribution: mean (D,) and covariance (D, D) in float64."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def covariance(self) -> Tensor: ...


@dataclass(frozen=True)
class Moments:
    """A Gaussian given by its mean and covariance."""

    mean: Tensor
    covariance: Tensor


class FeatureStatistics:
    """Mean and covariance of features in float64 on the CPU, from any number of batches, none of which is kept.

    Batches are merged by their means and scatter matrices (Chan et al. 1979), not by raw sums of squares, which lose
    digits where the mean is large.

    Args:
        dimension: dimension of a feature vector.
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64)
        self._scatter = torch.zeros(dimension, dimension, dtype=torch.float64)  # Σ (x - mean)(x - mean)ᵀ

    def add(self, features: Tensor) -> None:
        """Add a batch of features, (n, dimension).

        Raises:
            ValueError: values that are not finite.
        """
        assert features.ndim == 2 and features.shape[1] == len(self.mean), features.shape
        if not features.isfinite().all():
            raise ValueError("features that are not finite have no mean")
        features = features.detach().cpu().double()
        mean = features.mean(0)
        centred = features - mean
        self.merge(len(features), mean, centred.T @ centred)

    def merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        """Add other statistics: their number of features, mean and scatter matrix."""
        if count == 0:
            return
        shift, total = mean - self.mean, self.count + count
        self._scatter += scatter + torch.outer(shift, shift) * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total

    def state(self) -> dict[str, Tensor]:
        """Count, mean and scatter matrix, for `restore`."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "scatter": self._scatter}

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Replace the content by that of one or more states together."""
        self.count = 0
        self.mean, self._scatter = torch.zeros_like(self.mean), torch.zeros_like(self._scatter)
        for state in states:
            self.merge(int(state["count"]), state["mean"], state["scatter"])

    @property
    def covariance(self) -> Tensor:
        """The unbiased estimate, divided by count - 1."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 examples, not {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared 2-Wasserstein distance between two Gaussians (Dowson & Landau 1982), as in FID and FVD:

        |μ_a - μ_b|² + tr Σ_a + tr Σ_b - 2 tr (Σ_a^½ Σ_b Σ_a^½)^½

    The matrix under the last root is symmetric and has the eigenvalues of Σ_a Σ_b, so two symmetric eigendecompositions
    in float64 suffice, and no complex root of a general matrix is needed.
    """
    assert a.mean.shape == b.mean.shape, (a.mean.shape, b.mean.shape)
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # Σ_a^½; only rounding makes a value negative
    between = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * between
    return max(distance.item(), 0.0)


def bias_caution(metric: str, count: int, dimension: int, *, kind: str) -> dict[str, str]:
    """The protocol's caution, with a warning, if there are no more examples than dimensions; else an empty dictionary.

    Args:
        metric: name of the distance.
        count: number of examples in the smaller set.
        dimension: dimension of the features.
        kind: "images" or "clips".
    """
    if count > dimension:
        return {}
    warnings.warn(
        f"{metric} of {count} {kind}: with no more {kind} than its {dimension} dimensions it is far too large, and "
        "comparable only with figures of as many",
        stacklevel=1,
    )
    return {"caution": f"{count} {kind} for {dimension} dimensions: singular, biased upwards"}
