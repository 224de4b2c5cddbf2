"""Figures of a sweep as curves: means over seeds, the Pareto front, Bjøntegaard's differences between two curves.

    means = average(store.rows())
    front = pareto(store.rows())
    bd_rate(curve(means["small"]), curve(means["medium"]))     # percent more bits for the same PSNR

Curves are interpolated by monotone cubics (PCHIP), as the reference spreadsheets of HEVC and VVC do (JCTVC-L1100,
JVET-T2010), with the logarithm of the rate (VCEG-M33). Not in the paper, which gives tables.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeVar

ResultRow = Mapping[str, Any]  # of a store, see registry/sweeps/store.py
SomeRow = TypeVar("SomeRow", bound=ResultRow)
Curve = list[tuple[float, float]]  # (rate, quality)

RATE = "bits_per_pixel"
QUALITY = "psnr_db"


@dataclass(frozen=True)
class Mean:
    """The rows of one point that differ in their seed alone, as one.

    Attributes:
        point: its name.
        series: the curve it belongs to.
        spec: name of the spec that it changes.
        set: key path -> value of what it changes there.
        figures: name -> mean over the rows that have it.
        spread: name -> standard deviation over them, where there are two or more.
        paper: the paper's figures, by column.
        gflops: network -> GFLOPs of one forward pass.
        rows: how many there are.
    """

    point: str
    series: str
    spec: str
    set: dict[str, Any]
    figures: dict[str, float]
    spread: dict[str, float]
    paper: dict[str, float]
    gflops: dict[str, float]
    rows: int


def average(rows: Iterable[ResultRow]) -> dict[str, list[Mean]]:
    """Series -> its points, means over seeds, in the order of their first row; failed rows are left out."""
    groups: dict[tuple[str, str, str], list[ResultRow]] = {}
    for row in rows:
        if row["status"] == "done":
            spec = row.get("spec", "")
            groups.setdefault((row.get("series", spec), spec, row["point"]), []).append(row)
    found: dict[str, list[Mean]] = {}
    for (series, spec, point), group in groups.items():
        values: dict[str, list[float]] = {}
        for row in group:
            for name, value in row["figures"].items():
                if is_number(value):
                    values.setdefault(name, []).append(value)
        first = group[0]
        mean = Mean(
            point=point,
            series=series,
            spec=spec,
            set=first["set"],
            figures={name: fmean(list_) for name, list_ in values.items()},
            spread={name: _deviation(list_) for name, list_ in values.items() if len(list_) > 1},
            paper=first.get("paper") or {},
            gflops=first.get("gflops") or {},
            rows=len(group),
        )
        found.setdefault(series, []).append(mean)
    return found


def pareto(rows: Iterable[SomeRow], rate: str = RATE, quality: str = QUALITY) -> list[SomeRow]:
    """The rows that no other beats in one figure without losing in the other, by rising rate.

    A row is beaten by one with at most its rate and at least its quality, one of them truly better; equals both stay.
    Rows that failed or lack a figure do not count.
    """
    known = [
        row
        for row in rows
        if row["status"] == "done" and all(is_number(row["figures"].get(name)) for name in (rate, quality))
    ]
    front: list[SomeRow] = []
    best = (math.inf, -math.inf)
    for row in sorted(known, key=lambda row: (row["figures"][rate], -row["figures"][quality])):
        here = (row["figures"][rate], row["figures"][quality])
        if here[1] > best[1] or here == best:
            front.append(row)
            best = here
    return front


def curve(points: Iterable[Mean], rate: str = RATE, quality: str = QUALITY) -> Curve:
    """(rate, quality) of the points that have both, by rising rate."""
    return sorted((p.figures[rate], p.figures[quality]) for p in points if {rate, quality} <= p.figures.keys())


def bd_rate(anchor: Curve, test: Curve) -> float:
    """How many percent more bits `test` spends than `anchor` for the same quality, on average over what both reach.

    Raises:
        ValueError: a curve has one point, a rate that is not above 0, or a quality that does not rise with the rate;
            or the two have no quality in common.
    """
    a, b = (Pchip([y for _, y in points], [x for x, _ in points]) for points in map(_logarithmic, (anchor, test)))
    return 100 * (10 ** _mean_difference(a, b, "quality") - 1)


def bd_psnr(anchor: Curve, test: Curve) -> float:
    """How many dB `test` lies above `anchor` at the same rate, on average over the logarithm of the rates of both.

    Raises:
        ValueError: as `bd_rate`, the two having no rate in common.
    """
    a, b = (Pchip([x for x, _ in points], [y for _, y in points]) for points in map(_logarithmic, (anchor, test)))
    return _mean_difference(a, b, "rate")


class Pchip:
    """The piecewise cubic through (x, y) that rises and falls only where the points do (Fritsch and Butland 1984).

    Args:
        x: strictly rising, two or more.
        y: as many values.
    """

    def __init__(self, x: Sequence[float], y: Sequence[float]) -> None:
        assert len(x) == len(y) >= 2 and all(a < b for a, b in pairwise(x)), x
        self.x, self.y = list(x), list(y)
        self.widths = [b - a for a, b in pairwise(x)]
        self.slopes = _slopes(self.widths, [(b - a) / h for (a, b), h in zip(pairwise(y), self.widths, strict=True)])

    def __call__(self, x: float) -> float:
        """The value at `x`, which lies between the first and the last one."""
        assert self.x[0] <= x <= self.x[-1], x
        i = min(bisect_right(self.x, x), len(self.x) - 1) - 1
        h, t = self.widths[i], (x - self.x[i]) / self.widths[i]
        left = self.y[i] * (1 + 2 * t) * (1 - t) ** 2 + self.slopes[i] * h * t * (1 - t) ** 2
        return left + self.y[i + 1] * t * t * (3 - 2 * t) - self.slopes[i + 1] * h * t * t * (1 - t)

    def integral(self, low: float, high: float) -> float:
        """From `low` to `high`; Simpson's rule on every piece, which is exact for cubics."""
        cuts = [low, *(x for x in self.x if low < x < high), high]
        return sum((b - a) / 6 * (self(a) + 4 * self((a + b) / 2) + self(b)) for a, b in pairwise(cuts))

    def solve(self, y: float) -> list[float]:
        """Every x with that value; of a piece that is flat there its left end."""
        found = [self.x[i] for i, value in enumerate(self.y) if value == y and (i == 0 or self.y[i - 1] != y)]
        for i, (a, b) in enumerate(pairwise(self.y)):
            if min(a, b) < y < max(a, b):
                found.append(_bisect(lambda x: self(x) - y, self.x[i], self.x[i + 1]))
        return sorted(found)


def is_number(value: Any) -> bool:
    """Whether a figure or a setting is a finite number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _deviation(values: list[float]) -> float:
    """The standard deviation, over n - 1; statistics.stdev is exact and twenty times as slow."""
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _slopes(h: list[float], secants: list[float]) -> list[float]:
    """Of every point: the neighbours' harmonic mean, weighted by their widths; 0 where they disagree in sign."""
    if len(secants) == 1:
        return [secants[0]] * 2
    slopes = [_end_slope(h[0], h[1], secants[0], secants[1])]
    for (h0, h1), (a, b) in zip(pairwise(h), pairwise(secants), strict=True):
        weight = 2 * h1 + h0, h1 + 2 * h0
        slopes.append(sum(weight) / (weight[0] / a + weight[1] / b) if a * b > 0 else 0.0)
    return [*slopes, _end_slope(h[-1], h[-2], secants[-1], secants[-2])]


def _end_slope(h0: float, h1: float, a: float, b: float) -> float:
    """Three-point estimate at an end, kept from overshooting."""
    slope = ((2 * h0 + h1) * a - h0 * b) / (h0 + h1)
    if slope * a <= 0:
        return 0.0
    return 3 * a if a * b <= 0 and abs(slope) > 3 * abs(a) else slope


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """A root of a monotone function that has other signs at the two ends."""
    rising = function(high) > 0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if (function(middle) > 0) == rising else (middle, high)
    return (low + high) / 2


def _logarithmic(points: Curve) -> Curve:
    """(log10 rate, quality), checked to be a rising curve."""
    if len(points) < 2:
        raise ValueError("a curve needs two points or more with both figures")
    if points[0][0] <= 0:
        raise ValueError(f"a rate of {points[0][0]:g} has no logarithm")
    for (x0, y0), (x1, y1) in pairwise(points):
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"the quality does not rise with the rate: {y0:.4g} at {x0:.4g}, {y1:.4g} at {x1:.4g}")
    return [(math.log10(x), y) for x, y in points]


def _mean_difference(anchor: Pchip, test: Pchip, what: str) -> float:
    low, high = max(anchor.x[0], test.x[0]), min(anchor.x[-1], test.x[-1])
    if low >= high:
        raise ValueError(f"the two curves have no {what} in common")
    return (test.integral(low, high) - anchor.integral(low, high)) / (high - low)
