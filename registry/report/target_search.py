"""Settings that hit a target: between two measured points that differ in one number, and the point to run next.

A line of points shares its spec and all settings but one number. Along it PSNR and bits/pixel are interpolated by a
monotone cubic (`registry/report/curves.py`) of that number, of its logarithm where the line spans a factor of four or more.
Not in the paper.
"""

import json
import math
import shlex
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any

from ulzoo.registry.report.curves import QUALITY, RATE, Mean, Pchip, ResultRow, average, is_number

LOGARITHMIC_FROM = 4  # largest value over smallest


@dataclass(frozen=True)
class Setting:
    """A point that is expected to hit the target.

    Attributes:
        spec: name of the spec that it changes.
        set: key path -> value of everything it changes there.
        key: the one that was interpolated.
        figures: expected PSNR and bits/pixel, where the line has them.
        between: names of the measured neighbours; one name, if it was measured itself or lies beyond the line's end.
        inside: whether neighbours on both sides were measured; outside, figures are straight on from the last two.
        measured: whether this very point was.
    """

    spec: str
    set: dict[str, Any]
    key: str
    figures: dict[str, float]
    between: tuple[str, ...]
    inside: bool = True
    measured: bool = False

    def command(self, store: str | None = None, spec: str | None = None) -> str:
        """What runs it; `spec` is what to call the spec, if not by its name."""
        settings = [f"--set {shlex.quote(f'{key}={_yaml(value)}')}" for key, value in self.set.items()]
        return " ".join(
            [
                "ulzoo sweep",
                shlex.quote(spec or self.spec),
                *settings,
                *([f"--out {shlex.quote(store)}"] if store else []),
            ]
        )


@dataclass(frozen=True)
class Found:
    """What was asked and what there is.

    Attributes:
        figure, target: what was asked.
        low, high: the least and the greatest value measured.
        settings: best first: fewest bits for a PSNR, highest PSNR for a rate. None of them inside means that no line of
            points passes the target; those outside are guesses at where to go on, at most one step beyond a line.
    """

    figure: str
    target: float
    low: float
    high: float
    settings: list[Setting]


def find(
    rows: Iterable[ResultRow],
    *,
    psnr: float | None = None,
    bits: float | None = None,
    shared: Mapping[str, Any] | None = None,
    fractional: Container[str] = (),
) -> Found:
    """Settings at which the PSNR in dB, or the rate in bits/pixel, is as asked.

    Args:
        rows: of a store; seeds are averaged.
        psnr, bits: the target, one of the two.
        shared: what the sweep sets for all its points, for the commands.
        fractional: keys that take fractions, even if all their values in the rows are whole.

    Raises:
        ValueError: not one finite target; no row with that figure; no two points that differ in one number only.
    """
    if (psnr is None) == (bits is None):
        raise ValueError("one target, please: a PSNR (--psnr) or a rate (--bits)")
    figure, target = (QUALITY, psnr) if psnr is not None else (RATE, bits)
    if not is_number(target):
        raise ValueError(f"the target is no finite number: {target}")
    assert target is not None
    means = [mean for series in average(rows).values() for mean in series if figure in mean.figures]
    if not means:
        raise ValueError(f"no finished point has the figure {figure}")
    inside: list[Setting] = []
    outside: list[Setting] = []
    count = 0
    for line in _lines(means, fractional):
        count += 1
        found = line.settings(figure, target)
        (inside if found and found[0].inside else outside).extend(found)
    if not count:
        raise ValueError("no two points differ in one number only, so there is nothing to interpolate along")
    settings = _unique(inside or outside, figure, shared or {})
    values = [mean.figures[figure] for mean in means]
    return Found(figure, target, min(values), max(values), settings)


@dataclass(frozen=True)
class _Line:
    """Points by rising value of one key, all else equal."""

    key: str
    points: list[tuple[float, Mean]]
    whole: bool

    def settings(self, figure: str, target: float) -> list[Setting]:
        """Where it passes the target, or one guess beyond an end, or nothing where it turns back before."""
        logarithmic = self.points[0][0] > 0 and self.points[-1][0] >= LOGARITHMIC_FROM * self.points[0][0]
        x = [math.log(value) if logarithmic else value for value, _ in self.points]
        y = [mean.figures[figure] for _, mean in self.points]
        roots = Pchip(x, y).solve(target)
        if roots:
            return [self._setting(math.exp(root) if logarithmic else root, x, logarithmic) for root in roots]
        nearest = min(range(len(y)), key=lambda i: abs(y[i] - target))
        ends = {0: (0, 1), len(y) - 1: (len(y) - 1, len(y) - 2)}
        if nearest not in ends:
            return []
        end, before = ends[nearest]
        step, gain = x[end] - x[before], y[end] - y[before]
        if gain * (target - y[end]) <= 0:
            return []
        share = min((target - y[end]) / gain, 1.0)
        value = math.exp(x[end] + share * step) if logarithmic else x[end] + share * step
        if value <= 0 < self.points[0][0]:
            value, share = self.points[0][0] / 2, self.points[0][0] / 2 / -step
        value = self._rounded(value)
        if value == self.points[end][0]:
            value += math.copysign(1, step)
        if value <= 0 < self.points[0][0]:
            return []
        first, second = self.points[end][1], self.points[before][1]
        figures = {
            name: first.figures[name] + share * (first.figures[name] - second.figures[name])
            for name in (RATE, QUALITY)
            if name in first.figures and name in second.figures
        }
        return [Setting(first.spec, first.set | {self.key: value}, self.key, figures, (first.point,), inside=False)]

    def _setting(self, value: float, x: list[float], logarithmic: bool) -> Setting:
        value = self._rounded(value)
        at = min(max(math.log(value) if logarithmic else value, x[0]), x[-1])
        figures = {}
        for name in (RATE, QUALITY):
            if all(name in mean.figures for _, mean in self.points):
                figures[name] = Pchip(x, [mean.figures[name] for _, mean in self.points])(at)
        for known, mean in self.points:
            if known == value:
                return Setting(mean.spec, mean.set, self.key, figures, (mean.point,), measured=True)
        low, high = next((a, b) for a, b in pairwise(self.points) if a[0] <= value <= b[0])
        mean = low[1]
        return Setting(mean.spec, mean.set | {self.key: value}, self.key, figures, (mean.point, high[1].point))

    def _rounded(self, value: float) -> float:
        """Four digits, or a whole number among whole numbers."""
        return round(value) if self.whole else float(f"{value:.4g}")


def _lines(means: list[Mean], fractional: Container[str]) -> Iterator[_Line]:
    groups: dict[tuple[str, str, str], dict[float, Mean]] = {}
    for mean in means:
        for key, value in mean.set.items():
            if is_number(value):
                rest = {other: mean.set[other] for other in sorted(mean.set) if other != key}
                groups.setdefault((mean.spec, key, json.dumps(rest)), {}).setdefault(value, mean)
    for (_, key, _), points in groups.items():
        if len(points) > 1:
            whole = key not in fractional and all(isinstance(value, int) for value in points)
            yield _Line(key, sorted(points.items(), key=itemgetter(0)), whole)


def _unique(settings: list[Setting], figure: str, shared: Mapping[str, Any]) -> list[Setting]:
    """Best first, each point once, with what the sweep sets for all."""
    other = RATE if figure == QUALITY else QUALITY
    sign = 1 if other == RATE else -1

    def rank(setting: Setting) -> tuple[bool, float]:
        return (other not in setting.figures, sign * setting.figures.get(other, 0.0))

    found: dict[str, Setting] = {}
    for setting in sorted(settings, key=rank):
        full = {**shared, **setting.set}
        found.setdefault(
            f"{setting.spec} {json.dumps(full, sort_keys=True)}", Setting(**{**vars(setting), "set": full})
        )
    return list(found.values())


def _yaml(value: Any) -> str:
    """A value as --set takes it: JSON, which is YAML; a word without quotes."""
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
