"""A sweep: specs that differ in a few keys, such as the rows of a table of the paper, with the paper's numbers beside.

    name: table2_loss_factor
    source: Table 2
    expect: more bits and a higher PSNR as the loss factor rises
    spec: imagenet512_small                       # of every point that names no other
    columns: [bits_per_pixel, psnr_db]
    points:
      "1.3": {set: {decoder.weighting.loss_factor: 1.3}, paper: {bits_per_pixel: 0.035, psnr_db: 25.7}}
    grid: {decoder.weighting.bias: [-4, -3]}      # further points: the product of all lists

A sweep may extend another as a spec does: points merge by name, and one that is set to null is left out.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ulzoo.registry.spec.component_table import error_at, suggest
from ulzoo.registry.spec.loading import SPECS, Library, find_specs, find_sweeps, is_path, spec_from_source
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.sections import Document, Section
from ulzoo.registry.spec.yaml_source import KeyPath, Node, SpecError, nested, parse_override, read_yaml

SWEEPS = Library("sweep", find_sweeps)
MAX_POINTS = 1000


@dataclass(frozen=True)
class MetricSpec:
    """A figure that a sweep may report: its heading, its unit, which way is better, and digits after the point."""

    title: str
    unit: str
    better: Literal["lower", "higher"]
    digits: int


METRICS = {
    "bits_per_pixel": MetricSpec("rate", "bits/pixel", "lower", 3),
    "base_bits_per_pixel": MetricSpec("rate by the base", "bits/pixel", "lower", 3),
    "bits_per_dimension": MetricSpec("rate", "bits/dimension", "lower", 3),
    "base_bits_per_dimension": MetricSpec("rate by the base", "bits/dimension", "lower", 3),
    "psnr_db": MetricSpec("PSNR", "dB", "higher", 1),
    "ssim": MetricSpec("SSIM", "", "higher", 3),
    "rfid_50k": MetricSpec("rFID@50k", "", "lower", 2),
    "gfid_50k": MetricSpec("gFID@50k", "", "lower", 2),
    "gfid_30k": MetricSpec("gFID@30k", "", "lower", 1),
    "rfd_efficientnet_lite0": MetricSpec("Fréchet distance of reconstructions, EfficientNet-Lite0", "", "lower", 1),
    "gfd_efficientnet_lite0": MetricSpec("Fréchet distance of samples, EfficientNet-Lite0", "", "lower", 1),
    "fvd": MetricSpec("FVD", "", "lower", 1),
    "clip_score": MetricSpec("CLIP score", "", "higher", 1),
}


@dataclass(frozen=True)
class Point:
    """One spec of a sweep.

    Attributes:
        name: within the sweep.
        spec: name or path of the spec that it changes.
        set: key path -> value of what this point changes, besides what all points do.
        paper: the paper's figures, by column.
        places: key path -> where its value stands in the sweep's file.
    """

    name: str
    spec: str
    set: dict[str, Any]
    paper: dict[str, float]
    places: dict[str, KeyPath]


class PointKeys(Section):
    """What a sweep's file says of one point."""

    spec: str | None = Field(default=None, description="name or path of another base spec than the sweep's")
    set: dict[str, Any] = Field(default_factory=dict, description="key path -> value")
    paper: dict[str, float] = Field(default_factory=dict, description="the paper's figures, by column")


class Sweep(Document):
    """A list of specs by their difference from a base, and what to look at."""

    name: str = Field(description="name of the sweep")
    description: str = Field(default="", description="one line on what is compared")
    source: str = Field(default="", description="which table, figure or section of the paper")
    expect: str = Field(default="", description="the paper's finding, in one line")
    spec: str = Field(description="name or path of the base spec")
    set: dict[str, Any] = Field(default_factory=dict, description="key path -> value, for all points")
    columns: tuple[str, ...] = Field(min_length=1, description="the figures to report")
    points: dict[str, PointKeys | None] = Field(default_factory=dict, description="name -> point; null leaves it out")
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict, description="key path -> values; their product")

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        for i, column in enumerate(columns):
            if column not in METRICS:
                raise error_at((i,), f"unknown column {column!r}{suggest(column, METRICS)}")
        return columns

    @model_validator(mode="after")
    def _consistent(self) -> "Sweep":
        for name, point in self.points.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise error_at(("points", name), "a point's name holds letters, digits, '.', '-' and '_' only")
            for column in point.paper if point else ():
                if column not in self.columns:
                    hint = suggest(column, self.columns)
                    raise error_at(("points", name, "paper", column), f"not among the sweep's columns{hint}")
        if math.prod(map(len, self.grid.values())) > MAX_POINTS:
            raise error_at(("grid",), f"more than {MAX_POINTS} points")
        names = [point.name for point in self.list_points()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise error_at(("grid",), f"two points are called {min(twice)!r}")
        if not names:
            raise error_at((), "there are no points; give points or a grid")
        return self

    def list_points(self) -> list[Point]:
        """Every point, those with names first, then the grid's, the last key's values changing fastest."""
        points = []
        for name, keys in self.points.items():
            if keys:
                places: dict[str, KeyPath] = {key: ("points", name, "set", key) for key in keys.set}
                points.append(Point(name, keys.spec or self.spec, keys.set, keys.paper, places))
        for choice in product(*(enumerate(values) for values in self.grid.values())) if self.grid else ():
            values = {key: value for key, (_, value) in zip(self.grid, choice, strict=True)}
            name = "_".join(key.rpartition(".")[2] + point_word(value) for key, value in values.items())
            places = {key: ("grid", key, i) for key, (i, _) in zip(self.grid, choice, strict=True)}
            points.append(Point(name, self.spec, values, {}, places))
        return points

    def resolve(self, overrides: Iterable[str] = ()) -> list[tuple[Point, Spec]]:
        """Every point with its spec, `a.b=c` overrides applied last. SpecError for whatever is wrong."""
        overlay = [parse_override(text) for text in overrides]
        read = cache(SPECS.read)
        return [(point, self._resolved(point, overlay, read)) for point in self.list_points()]

    def resolve_point(self, name: str, overrides: Iterable[str] = ()) -> Spec:
        """The spec of one point. SpecError if there is none of that name."""
        points = {point.name: point for point in self.list_points()}
        if name not in points:
            raise SpecError(f"{self.name}: there is no point named {name!r}{suggest(name, points)}")
        return self._resolved(points[name], [parse_override(text) for text in overrides], SPECS.read)

    def beside(self, target: str, place: KeyPath) -> str:
        """What this sweep calls `target` at `place`: a packaged name, or a path relative to the file that says so."""
        if self._source is None or target in find_specs() or not is_path(target):
            return target
        folder = os.path.dirname(self._source.place(place).rpartition(":")[0])
        return os.path.normpath(os.path.join(folder, target))

    def _resolved(self, point: Point, overrides: list[Node], read: Callable[[str], Node]) -> Spec:
        source = self._source
        assert source is not None
        keys = self.points.get(point.name)
        place: KeyPath = ("points", point.name, "spec") if keys and keys.spec else ("spec",)
        try:
            base = read(self.beside(point.spec, place))
        except SpecError as error:
            raise SpecError(f"{source.place(place)}: spec: {error}") from None
        places = {**{key: ("set", key) for key in self.set}, **point.places}
        overlay = [nested(key.split("."), source.at(place)) for key, place in places.items()]
        return spec_from_source(base, [*overlay, *overrides])


def is_sweep(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this is a packaged sweep's name, or a file with keys that only a sweep has."""
    if os.fspath(name_or_path) in find_sweeps():
        return True
    if not os.path.isfile(name_or_path):
        return False
    keys = read_yaml(Path(name_or_path), os.fspath(name_or_path)).value
    assert isinstance(keys, dict)
    return not keys.keys().isdisjoint({"spec", "set", "points", "grid"})


def load_sweep(name_or_path: str | os.PathLike[str]) -> Sweep:
    """The sweep of a packaged name, such as "paper/table2_loss_factor", or a YAML file.

    Raises:
        SpecError: whatever is wrong with it, in one line; what is wrong with its specs is found by `Sweep.resolve`.
    """
    return Sweep.from_source(SWEEPS.read(name_or_path))


def result_table(sweep: Sweep, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measured figures and the paper's, side by side, one entry a point, in the sweep's order.

    Args:
        rows: {"point": name, "figures": {column: value}} of every run; several of one point are averaged, and figures
            that are no columns left out.

    Returns:
        Of every point "point", "set", "runs" and, by column and None where there is none, "paper", "measured" (the
        mean over runs) and "spread" (their standard deviation, from two on).

    Raises:
        ValueError: a run of a point that the sweep has not.
    """
    points = sweep.list_points()
    runs: dict[str, list[Mapping[str, float]]] = {point.name: [] for point in points}
    for row in rows:
        if row["point"] not in runs:
            raise ValueError(f"{sweep.name} has no point {row['point']!r}{suggest(row['point'], runs)}")
        runs[row["point"]].append(row["figures"])
    table = []
    for point in points:
        values = {name: [run[name] for run in runs[point.name] if name in run] for name in sweep.columns}
        table.append(
            {
                "point": point.name,
                "set": point.set,
                "runs": len(runs[point.name]),
                "paper": {name: point.paper.get(name) for name in sweep.columns},
                "measured": {name: fmean(found) if found else None for name, found in values.items()},
                "spread": {name: stdev(found) if len(found) > 1 else None for name, found in values.items()},
            }
        )
    return table


def point_word(value: Any) -> str:
    """A value in the name of a point: 1.5, 16x16, vit."""
    return "x".join(map(point_word, value)) if isinstance(value, list | tuple) else str(value)
