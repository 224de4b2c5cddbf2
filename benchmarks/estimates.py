"""Figures of a sweep with several seeds, and whether two of them differ by more than the seeds do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from ulzoo.registry.sweeps.store import Store

FACTORS = ("4", "5.7", "8", "11.3", "16")
RATE, PSNR = "bits_per_pixel", "psnr_db"


@dataclass(frozen=True)
class Estimate:
    """A figure by seed.

    Attributes:
        values: seed -> value.
        digits: after the decimal point, when printed.
    """

    values: dict[int, float]
    digits: int = 3

    @property
    def mean(self) -> float:
        return fmean(self.values.values())

    @property
    def deviation(self) -> float:
        return stdev(self.values.values())

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference, seed by seed."""
        return Estimate({seed: value - other.values[seed] for seed, value in self.values.items()}, self.digits)

    def __str__(self) -> str:
        return f"{self.mean:.{self.digits}f} ± {self.deviation:.{self.digits}f}"


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, whether it holds here ("shown", "refuted" or "open"), and the figures."""

    claim: str
    verdict: str
    evidence: str


class Measured:
    """The rows of the sweeps.

    Args:
        folders: with a results.jsonl each.
        factors: the points of the curve over loss factors, in order.
    """

    def __init__(self, *folders: Path, factors: Sequence[str] = FACTORS):
        self.factors = factors
        self.rows = [row for folder in folders for row in Store(folder).rows() if row["status"] == "done"]

    @property
    def baseline(self) -> str:
        """The point with which the variants share their settings: the middle of the curve."""
        return self.factors[len(self.factors) // 2]

    @property
    def samples(self) -> int:
        """The number of samples whose distance was measured."""
        protocols = [row.get("protocol", {}) for row in self.rows]
        (count,) = {protocol["generated"]["samples"] for protocol in protocols if "generated" in protocol}
        return int(count)

    def get(self, point: str, figure: str, digits: int = 3) -> Estimate:
        """A figure of a point, by seed. KeyError if it was not measured."""
        values = {row["seed"]: row["figures"][figure] for row in self.rows if row["point"] == point}
        if len(values) < 2:
            raise KeyError(f"{point}: measured with {len(values)} seeds")
        return Estimate(values, digits)

    def series(self, points: Sequence[str], figure: str, digits: int = 3) -> list[Estimate]:
        return [self.get(point, figure, digits) for point in points]

    def excess_bits(self, point: str) -> Estimate:
        """Bits/pixel of a point above the curve over loss factors at the same PSNR, seed by seed.

        ValueError if its PSNR is not one of the curve's, between whose points it is interpolated.
        """
        return self._above_curve(point, PSNR, RATE)

    def excess_psnr(self, point: str) -> Estimate:
        """PSNR of a point above the curve over loss factors at the same rate, as `excess_bits`."""
        return self._above_curve(point, RATE, PSNR)

    def _above_curve(self, point: str, same: str, compared: str) -> Estimate:
        shared, excess = self.get(point, same).values, {}
        for seed, value in self.get(point, compared).values.items():
            xs, ys = ([self.get(factor, name).values[seed] for factor in self.factors] for name in (same, compared))
            if not xs[0] <= shared[seed] <= xs[-1]:
                raise ValueError(f"{point}: {same} is {shared[seed]:.3f}, outside of {xs[0]:.3f} to {xs[-1]:.3f}")
            excess[seed] = value - float(np.interp(shared[seed], xs, ys))
        return Estimate(excess, 3 if compared == RATE else 2)


def apart(low: Estimate, high: Estimate) -> str:
    """Whether it is shown that `low` is lower: intervals of one deviation do not overlap."""
    if low.mean + low.deviation < high.mean - high.deviation:
        return "shown"
    return "refuted" if high.mean + high.deviation < low.mean - low.deviation else "open"


def sign(difference: Estimate) -> str:
    """Whether it is shown that a difference is positive."""
    return apart(Estimate(dict.fromkeys(difference.values, 0.0)), difference)
