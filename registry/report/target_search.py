"""Settings that reach a target: interpolated between measured points that differ in one number, for the next run.

A line of points shares its spec and all settings except one number. Along it PSNR and bits/pixel are interpolated by a
monotone cubic (`registry/report/curves.py`) of that number, or of its logarithm where the line spans a factor of four
or more. Not in the paper.
"""

import json
import math
import shlex
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any

from scipy.interpolate import PchipInterpolator

from ulzoo.registry.report.curves import QUALITY, RATE, Mean, ResultRow, average, is_number, solve
from ulzoo.registry.spec.schema import flatten
from ulzoo.registry.sweeps.variants import all_but

LOGARITHMIC_FROM = 4  # ratio of the largest to the smallest value


@dataclass(frozen=True)
class Setting:
    """A point that is expected to reach the target.

    Attributes:
        spec: name of the base spec.
        set: key path -> value of everything it changes in the base spec.
        key: the key whose value was interpolated.
        metrics: expected PSNR and bits/pixel, where the line has them.
        between: names of the measured neighbours; a single name if the point was measured itself or lies beyond the
            line's end.
        inside: whether neighbours on both sides were measured. Outside, metrics are extrapolated linearly from the
            last two points.
        measured: whether this very point was measured.
        resolved: the resolved spec of a measured neighbour, which the setting shares but for `key`; None if unknown.
        training: identity of that neighbour's spec, see `Mean`.
    """

    spec: str
    set: dict[str, Any]
    key: str
    metrics: dict[str, float]
    between: tuple[str, ...]
    inside: bool = True
    measured: bool = False
    resolved: Mapping[str, Any] | None = field(default=None, repr=False)
    training: str = field(default="{}", repr=False)

    def command(self, store: str | None = None, spec: str | None = None) -> str:
        """The command that runs it; `spec` replaces the name of the base spec."""
        settings = [f"--set {shlex.quote(f'{key}={_yaml(value)}')}" for key, value in self.set.items()]
        out = [f"--out {shlex.quote(store)}"] if store else []
        return " ".join(["ulzoo sweep", shlex.quote(spec or self.spec), *settings, *out])


@dataclass(frozen=True)
class SearchResult:
    """The target and the settings that reach it.

    Attributes:
        metric, target: which metric should have which value.
        low, high: the smallest and the largest value measured.
        settings: best first: fewest bits for a PSNR, highest PSNR for a rate. If none of them is `inside`, no line of
            points crosses the target, and these are guesses at where to continue, at most one step beyond a line.
    """

    metric: str
    target: float
    low: float
    high: float
    settings: list[Setting]


def find_settings(
    rows: Iterable[ResultRow],
    *,
    psnr: float | None = None,
    bits: float | None = None,
    shared: Mapping[str, Any] | None = None,
    fractional: Container[str] = (),
) -> SearchResult:
    """Settings at which the PSNR in dB, or the rate in bits/pixel, has the given value.

    Args:
        rows: of a store; seeds are averaged.
        psnr, bits: the target, one of the two.
        shared: what the sweep sets for all its points, for the commands.
        fractional: keys that take fractions, even if all their values in the rows are integers.

    Raises:
        ValueError: not exactly one finite target; no row with that metric; no two points that differ in one number.
    """
    if (psnr is None) == (bits is None):
        raise ValueError("give one target: a PSNR (--psnr) or a rate (--bits)")
    metric, target = (QUALITY, psnr) if psnr is not None else (RATE, bits)
    if not is_number(target):
        raise ValueError(f"the target is not a finite number: {target}")
    assert target is not None
    means = [mean for series in average(rows).values() for mean in series if metric in mean.metrics]
    if not means:
        raise ValueError(f"no finished point has the metric {metric}")
    lines = list(_lines(means, fractional))
    if not lines:
        raise ValueError("no two points differ in one number only, so there is nothing to interpolate along")
    candidates = [setting for line in lines for setting in line.settings(metric, target)]
    inside = [setting for setting in candidates if setting.inside]
    values = [mean.metrics[metric] for mean in means]
    settings = _rank(inside or candidates, metric, shared or {})
    return SearchResult(metric, target, min(values), max(values), settings)


@dataclass(frozen=True)
class _Line:
    """Points in order of one key's value, all else equal."""

    key: str
    points: list[tuple[float, Mean]]
    integers: bool

    @property
    def logarithmic(self) -> bool:
        return self.points[0][0] > 0 and self.points[-1][0] >= LOGARITHMIC_FROM * self.points[0][0]

    @property
    def x(self) -> list[float]:
        """The abscissa of every point."""
        return [math.log(value) if self.logarithmic else value for value, _ in self.points]

    def settings(self, metric: str, target: float) -> list[Setting]:
        """Where the line crosses the target; else one guess beyond an end, or none if it turns back before."""
        y = [mean.metrics[metric] for _, mean in self.points]
        if roots := solve(self.x, y, target):
            return [self._interpolated(root) for root in roots]
        nearest = min(range(len(y)), key=lambda i: abs(y[i] - target))
        neighbours = {0: 1, len(y) - 1: len(y) - 2}
        guess = self._extrapolated(y, target, nearest, neighbours[nearest]) if nearest in neighbours else None
        return [guess] if guess else []

    def _interpolated(self, x: float) -> Setting:
        """The setting at an abscissa between the line's ends."""
        value = self._rounded(math.exp(x) if self.logarithmic else x)
        at = min(max(math.log(value) if self.logarithmic else value, self.x[0]), self.x[-1])
        metrics = {}
        for name in (RATE, QUALITY):
            if all(name in mean.metrics for _, mean in self.points):
                interpolant = PchipInterpolator(self.x, [mean.metrics[name] for _, mean in self.points])
                metrics[name] = float(interpolant(at))
        for measured, mean in self.points:
            if measured == value:
                return replace(_setting(mean, self.key, measured), metrics=metrics, measured=True)
        (_, low), (_, high) = next((a, b) for a, b in pairwise(self.points) if a[0] <= value <= b[0])
        return replace(_setting(low, self.key, value), metrics=metrics, between=(low.point, high.point))

    def _extrapolated(self, y: list[float], target: float, end: int, before: int) -> Setting | None:
        """A guess on the straight line through the last two points, at most one step on; None if it leads away."""
        smallest, step, gain = self.points[0][0], self.x[end] - self.x[before], y[end] - y[before]
        if gain * (target - y[end]) <= 0:
            return None
        share = min((target - y[end]) / gain, 1.0)
        value = math.exp(self.x[end] + share * step) if self.logarithmic else self.x[end] + share * step
        if value <= 0 < smallest:  # a positive setting stays positive
            value, share = smallest / 2, smallest / 2 / -step
        value = self._rounded(value)
        if value == self.points[end][0]:
            value += math.copysign(1, step)
        if value <= 0 < smallest:
            return None
        last, second = self.points[end][1], self.points[before][1]
        metrics = {
            name: last.metrics[name] + share * (last.metrics[name] - second.metrics[name])
            for name in (RATE, QUALITY)
            if name in last.metrics and name in second.metrics
        }
        return replace(_setting(last, self.key, value), metrics=metrics, inside=False)

    def _rounded(self, value: float) -> float:
        """Four significant digits, or an integer among integers."""
        return round(value) if self.integers else float(f"{value:.4g}")


def _setting(mean: Mean, key: str, value: float) -> Setting:
    """The setting of a measured point, with the value of one key replaced."""
    settings = {**mean.set, key: value, **mean.overrides}
    return Setting(mean.spec, settings, key, {}, (mean.point,), resolved=mean.resolved, training=mean.training)


def _lines(means: list[Mean], fractional: Container[str]) -> Iterator[_Line]:
    groups: dict[tuple[str, str, str, str], dict[float, Mean]] = {}
    for mean in means:
        for key, value in mean.set.items():
            if is_number(value) and key not in mean.overrides:
                rest = {other: mean.set[other] for other in sorted(mean.set) if other != key}
                constant = all_but(mean.training, key)
                groups.setdefault((mean.spec, key, json.dumps(rest), constant), {}).setdefault(value, mean)
    for (_, key, *_), points in groups.items():
        if len(points) > 1:
            integers = key not in fractional and all(isinstance(value, int) for value in points)
            yield _Line(key, sorted(points.items(), key=itemgetter(0)), integers)


def _rank(settings: list[Setting], metric: str, shared: Mapping[str, Any]) -> list[Setting]:
    """The settings without duplicates, best first, each with what the sweep sets for all points."""
    other = RATE if metric == QUALITY else QUALITY
    sign = 1 if other == RATE else -1
    unique: dict[str, Setting] = {}
    for setting in sorted(settings, key=lambda s: (other not in s.metrics, sign * s.metrics.get(other, 0.0))):
        complete = {**shared, **setting.set}
        spec = {**json.loads(setting.training), **flatten(complete)}
        identity = f"{setting.spec} {json.dumps(spec, sort_keys=True)}"
        unique.setdefault(identity, replace(setting, set=complete))
    return list(unique.values())


def _yaml(value: Any) -> str:
    """A value as --set takes it: JSON, which is YAML; a word without quotes."""
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
