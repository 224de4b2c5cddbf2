"""Post-hoc EMA (EDM2, arXiv 2312.02696, §3): averages of the weights whose length is chosen after training.

The average at step t weighs the weights of step τ by a power function, p(τ) = (γ + 1) τ^γ / t^(γ + 1) for 0 ≤ τ ≤ t.
Its standard deviation is σ_rel t; the length σ_rel determines γ. Training tracks the averages of two lengths and saves
snapshots of them. The average of another length, or at another step, is the linear combination of the snapshots whose
profile is closest to the power function wanted, by least squares.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

SNAPSHOTS = "snapshots"
"""The folder of a run with the snapshots, which have the format and the names of checkpoints."""
PREFIX = "posthoc_ema."
"""Of the names of the averages in checkpoints and snapshots."""


@dataclass(frozen=True)
class PowerProfile:
    """The weights of an average at a step.

    Attributes:
        step: number of updates that the average is over.
        length: standard deviation of the profile as a fraction of `step`, σ_rel; below 12^-½ = 0.289, that of γ = 0.
    """

    step: int
    length: float

    @property
    def exponent(self) -> float:
        """γ, the positive solution of σ_rel² = (γ + 1) / ((γ + 2)² (γ + 3))."""
        return power_exponent(self.length)

    def inner_product(self, other: "PowerProfile") -> float:
        """∫ p(τ) q(τ) dτ, in closed form."""
        early, late = sorted((self, other), key=lambda profile: profile.step)
        a, b = early.exponent, late.exponent
        return (a + 1) * (b + 1) / (a + b + 1) * (early.step / late.step) ** b / late.step


@cache
def power_exponent(length: float) -> float:
    """γ of the power function whose standard deviation is `length`, by bisection of a decreasing function."""
    low, high = 0.0, 1 / length
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if relative_length(middle) > length else (low, middle)
    return high


def relative_length(exponent: float) -> float:
    """σ_rel of the power function with exponent γ."""
    return math.sqrt((exponent + 1) / (exponent + 3)) / (exponent + 2)


def coefficients(snapshots: Sequence[PowerProfile], target: PowerProfile) -> list[float]:
    """The combination of the snapshots' profiles that is closest to `target` in the least-squares sense.

    The coefficients sum to 1, so that weights that did not change in training come out exactly; EDM2's least squares,
    which has no such constraint, gives almost the same.
    """
    unit = target.step  # of time, so that the equations are well scaled
    gram = torch.tensor([[unit * p.inner_product(q) for q in snapshots] for p in snapshots], dtype=torch.float64)
    right = torch.tensor([[unit * p.inner_product(target), 1.0] for p in snapshots], dtype=torch.float64)
    free, ones = torch.linalg.solve(gram, right).T
    return (free + ones * (1 - free.sum()) / ones.sum()).tolist()


def profile_error(snapshots: Sequence[PowerProfile], factors: Sequence[float], target: PowerProfile) -> float:
    """How far a combination of the snapshots' profiles is from `target`, relative to the latter's norm."""
    terms = [(1.0, target), *((-factor, profile) for factor, profile in zip(factors, snapshots, strict=True))]
    square = math.fsum(a * b * p.inner_product(q) for a, p in terms for b, q in terms)
    return math.sqrt(max(square, 0.0) / target.inner_product(target))


class PowerAverages:
    """The averages of a network's weights by power functions of several lengths, updated in place during training.

    Args:
        weights: parameters and buffers by name, on their device; shards stay shards.
        lengths: σ_rel of each average.
    """

    def __init__(self, weights: Mapping[str, Tensor], lengths: Sequence[float]):
        self.exponents = [power_exponent(length) for length in lengths]
        self.averages = [{name: tensor.detach().clone() for name, tensor in weights.items()} for _ in lengths]

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Add the weights after update `step` = 1, 2, …; the first ones replace the initial weights."""
        for exponent, averages in zip(self.exponents, self.averages, strict=True):
            share = 1 - (1 - 1 / step) ** (exponent + 1)
            names = {name for name, tensor in averages.items() if tensor.is_floating_point()}
            shards = {name for name in names if isinstance(averages[name], DTensor)}
            for group in filter(None, (shards, names - shards)):  # which one call cannot mix
                current = [weights[name] for name in group]
                torch._foreach_lerp_([averages[name] for name in group], current, weight=share)
            for name in averages.keys() - names:
                averages[name].copy_(weights[name])

    def state(self) -> dict[str, Tensor]:
        """The averages, not copied, by the number of the length and the name of the weight."""
        return {f"{i}.{name}": tensor for i, part in enumerate(self.averages) for name, tensor in part.items()}
