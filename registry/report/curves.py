"""The results of a sweep as rate-distortion curves: means over seeds, the Pareto front, Bjøntegaard deltas.

    means = average(store.rows())
    front = pareto(store.rows())
    bd_rate(curve(means["small"]), curve(means["medium"]))     # percent more bits for the same PSNR

Curves are interpolated by monotone cubics (PCHIP), as in the reference spreadsheets of HEVC and VVC (JCTVC-L1100,
JVET-T2010), over the logarithm of the rate (VCEG-M33). This is not in the paper, which gives tables.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeVar

from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

from ulzoo.registry.sweeps.variants import separate_variants

ResultRow = Mapping[str, Any]  # of a store, see registry/sweeps/store.py
AnyRow = TypeVar("AnyRow", bound=ResultRow)
Curve = list[tuple[float, float]]  # (rate, quality)

RATE = "bits_per_pixel"
QUALITY = "psnr_db"


@dataclass(frozen=True)
class Mean:
    """The mean over the rows of one point that differ in their seed only.

    Attributes:
        point: name of the point.
        series: the curve it belongs to.
        spec: name of the base spec.
        set: key path -> value of what the point changes in the base spec.
        metrics: name -> mean over the rows that have this metric.
        spread: name -> standard deviation over the rows, where two or more have the metric.
        paper: the paper's values, by column.
        gflops: network -> GFLOPs of one forward pass.
        rows: number of rows.
        training: identity of the rows' specs without their seeds.
        overrides: key path -> value of what the command set for all points.
        resolved: the resolved spec of the first row; None if it is not recorded.
    """

    point: str
    series: str
    spec: str
    set: dict[str, Any]
    metrics: dict[str, float]
    spread: dict[str, float]
    paper: dict[str, float]
    gflops: dict[str, float]
    rows: int
    training: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    resolved: Mapping[str, Any] | None = None


def average(rows: Iterable[ResultRow]) -> dict[str, list[Mean]]:
    """Series -> means over seeds of its points, in the order of their first row. Failed rows are skipped.

    Only rows whose specs differ in their seeds alone are averaged; other variants of a series are series of their own
    (`registry/sweeps/variants.py`).
    """
    groups: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    for row in separate_variants(rows):
        if row["status"] == "done":
            groups.setdefault((row["series"], row.get("spec") or "", row["point"], row["training"]), []).append(row)
    means: dict[str, list[Mean]] = {}
    for (series, spec, point, _), group in groups.items():
        samples: dict[str, list[float]] = {}
        for row in group:
            for name, value in row["figures"].items():
                if is_number(value):
                    samples.setdefault(name, []).append(value)
        first = group[0]
        mean = Mean(
            point=point,
            series=series,
            spec=spec,
            set=first["set"],
            metrics={name: fmean(values) for name, values in samples.items()},
            spread={name: _standard_deviation(values) for name, values in samples.items() if len(values) > 1},
            paper=first.get("paper") or {},
            gflops=first.get("gflops") or {},
            rows=len(group),
            training=first["training"],
            overrides=first.get("overrides") or {},
            resolved=first.get("resolved"),
        )
        means.setdefault(series, []).append(mean)
    return means


def pareto(rows: Iterable[AnyRow], rate: str = RATE, quality: str = QUALITY) -> list[AnyRow]:
    """The rows that no other row dominates, in order of increasing rate.

    A row is dominated by one with at most its rate and at least its quality, one of the two strictly better; of equal
    rows all stay. Rows that failed or lack one of the metrics are skipped.
    """
    measured = [
        row
        for row in rows
        if row["status"] == "done" and all(is_number(row["figures"].get(name)) for name in (rate, quality))
    ]
    front: list[AnyRow] = []
    best = (math.inf, -math.inf)
    for row in sorted(measured, key=lambda row: (row["figures"][rate], -row["figures"][quality])):
        values = (row["figures"][rate], row["figures"][quality])
        if values[1] > best[1] or values == best:
            front.append(row)
            best = values
    return front


def curve(points: Iterable[Mean], rate: str = RATE, quality: str = QUALITY) -> Curve:
    """(rate, quality) of the points that have both, in order of increasing rate."""
    return sorted((p.metrics[rate], p.metrics[quality]) for p in points if {rate, quality} <= p.metrics.keys())


def bd_rate(anchor: Curve, test: Curve) -> float:
    """How many percent more bits `test` takes than `anchor` for the same quality, averaged over their common range.

    Raises:
        ValueError: a curve has fewer than two points, a rate that is not above 0, or a quality that does not increase
            with the rate; or the two have no quality in common.
    """
    curves = [_log_rates(points) for points in (anchor, test)]
    a, b = (PchipInterpolator([y for _, y in points], [x for x, _ in points]) for points in curves)
    return 100 * (10 ** _mean_difference(a, b, "quality") - 1)


def bd_psnr(anchor: Curve, test: Curve) -> float:
    """How many dB `test` lies above `anchor` at the same rate, averaged over the logarithm of their common rates.

    Raises:
        ValueError: as for `bd_rate`, or the two have no rate in common.
    """
    curves = [_log_rates(points) for points in (anchor, test)]
    a, b = (PchipInterpolator([x for x, _ in points], [y for _, y in points]) for points in curves)
    return _mean_difference(a, b, "rate")


def solve(x: Sequence[float], y: Sequence[float], target: float) -> list[float]:
    """Every place where the monotone cubic through (x, y) equals `target`; of a flat piece, its left end.

    Args:
        x: strictly increasing, two or more.
        y: as many values.
    """
    interpolant, knots = PchipInterpolator(x, y), dict(zip(x, y, strict=True))

    def difference(at: float) -> float:
        value = knots[at] if at in knots else float(interpolant(at))  # exact at the ends of a bracket
        return value - target

    roots = [x[i] for i, value in enumerate(y) if value == target and (i == 0 or y[i - 1] != target)]
    for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)):
        if min(y0, y1) < target < max(y0, y1):
            roots.append(brentq(difference, x0, x1))
    return sorted(roots)


def is_number(value: Any) -> bool:
    """Whether a metric or a setting is a finite number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _standard_deviation(values: list[float]) -> float:
    """The sample standard deviation (n - 1). statistics.stdev computes in fractions and is twenty times slower."""
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _log_rates(points: Curve) -> Curve:
    """(log10 rate, quality). ValueError if that is not an increasing curve."""
    if len(points) < 2:
        raise ValueError("a curve needs two points or more with both metrics")
    if points[0][0] <= 0:
        raise ValueError(f"a rate of {points[0][0]:g} has no logarithm")
    for (x0, y0), (x1, y1) in pairwise(points):
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"the quality does not rise with the rate: {y0:.4g} at {x0:.4g}, {y1:.4g} at {x1:.4g}")
    return [(math.log10(x), y) for x, y in points]


def _mean_difference(anchor: PchipInterpolator, test: PchipInterpolator, axis: str) -> float:
    """The mean of test - anchor over the range where both are defined."""
    low, high = max(anchor.x[0], test.x[0]), min(anchor.x[-1], test.x[-1])
    if low >= high:
        raise ValueError(f"the two curves have no {axis} in common")
    return float(test.integrate(low, high) - anchor.integrate(low, high)) / float(high - low)
