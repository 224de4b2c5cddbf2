"""A sweep: specs that differ in a few keys, such as the rows of a table of the paper, with the paper's values.

    name: table2_loss_factor
    source: Table 2
    expect: more bits and a higher PSNR as the loss factor rises
    spec: imagenet512_small                       # of all points without a spec of their own
    columns: [bits_per_pixel, psnr_db]
    points:
      "1.3": {set: {decoder.weighting.loss_factor: 1.3}, paper: {bits_per_pixel: 0.035, psnr_db: 25.7}}
    grid: {decoder.weighting.bias: [-4, -3]}      # further points: the product of all lists
    loss_factors: [1.3, 1.7, 2.1]                 # where points with a range of loss factors are measured

A sweep may extend another one like a spec: points are merged by name, and a point that is null is removed.
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

from ulzoo.registry.spec.component_table import error_at
from ulzoo.registry.spec.loading import SPECS, Library, find_specs, find_sweeps, is_path, spec_from_source
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.sections import Document, Section
from ulzoo.registry.spec.yaml_source import KeyPath, Node, SpecError, nested, parse_overrides, read_yaml
from ulzoo.runtime.messages import suggest

SWEEPS = Library("sweep", find_sweeps)
MAX_POINTS = 1000


@dataclass(frozen=True)
class MetricSpec:
    """A metric that a sweep may report: its heading, unit, better direction, and number of decimals."""

    title: str
    unit: str
    better: Literal["lower", "higher", ""]
    digits: int


METRICS = {
    "bits_per_pixel": MetricSpec("rate", "bits/pixel", "lower", 3),
    "base_bits_per_pixel": MetricSpec("rate by the base", "bits/pixel", "lower", 3),
    "bits_per_dimension": MetricSpec("rate", "bits/dimension", "lower", 3),
    "base_bits_per_dimension": MetricSpec("rate by the base", "bits/dimension", "lower", 3),
    "psnr_db": MetricSpec("PSNR", "dB", "higher", 1),
    "mean_image_psnr_db": MetricSpec("PSNR of the mean image", "dB", "", 1),
    "ssim": MetricSpec("SSIM", "", "higher", 3),
    "rfid_50k": MetricSpec("rFID@50k", "", "lower", 2),
    "gfid_50k": MetricSpec("gFID@50k", "", "lower", 2),
    "gfid_30k": MetricSpec("gFID@30k", "", "lower", 1),
    "rfd_efficientnet_lite0": MetricSpec("Fréchet distance of reconstructions, EfficientNet-Lite0", "", "lower", 1),
    "gfd_efficientnet_lite0": MetricSpec("Fréchet distance of samples, EfficientNet-Lite0", "", "lower", 1),
    "fvd": MetricSpec("FVD, one clip per video", "", "lower", 1),
    "fvd_k600_64": MetricSpec("FVD by Kinetics-600's protocol at 64²", "", "lower", 1),
    "fd_transnetv2": MetricSpec("Fréchet distance of clips, TransNetV2", "", "lower", 1),
    "clip_score": MetricSpec("CLIP score", "", "higher", 1),
}


@dataclass(frozen=True)
class Point:
    """One spec of a sweep.

    Attributes:
        name: unique within the sweep.
        spec: name or path of the base spec.
        set: key path -> value; changes of this point in addition to those of all points.
        paper: the paper's values, by column.
        places: key path -> key path of its value in the sweep's file.
    """

    name: str
    spec: str
    set: dict[str, Any]
    paper: dict[str, float]
    places: dict[str, KeyPath]


class PointKeys(Section):
    """A point in a sweep's file."""

    spec: str | None = Field(default=None, description="name or path of the base spec, if not the sweep's")
    set: dict[str, Any] = Field(default_factory=dict, description="key path -> value")
    paper: dict[str, float] = Field(default_factory=dict, description="the paper's values, by column")


class Sweep(Document):
    """A list of specs, each given by its differences from a base spec, and the metrics to report."""

    name: str = Field(description="name of the sweep")
    description: str = Field(default="", description="one line on what is compared")
    source: str = Field(default="", description="which table, figure or section of the paper")
    expect: str = Field(default="", description="the finding of the paper, in one line")
    spec: str = Field(description="name or path of the base spec")
    set: dict[str, Any] = Field(default_factory=dict, description="key path -> value, for all points")
    columns: tuple[str, ...] = Field(min_length=1, description="the metrics to report")
    loss_factors: tuple[float, ...] | None = Field(
        default=None,
        min_length=2,
        description="where points with a range of loss factors are measured; null: at both ends and three between",
    )
    points: dict[str, PointKeys | None] = Field(default_factory=dict, description="name -> point; null removes it")
    grid: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, description="key path -> values; their Cartesian product are further points"
    )

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        for i, column in enumerate(columns):
            if column not in METRICS:
                raise error_at((i,), f"unknown column {column!r}{suggest(column, METRICS)}")
        return columns

    @field_validator("loss_factors")
    @classmethod
    def _check_loss_factors(cls, factors: tuple[float, ...] | None) -> tuple[float, ...] | None:
        previous = 0.0
        for i, factor in enumerate(factors or ()):
            if not previous < factor < math.inf:
                raise error_at((i,), f"loss factors must be positive numbers in increasing order, got {factor:g}")
            previous = factor
        return factors

    @model_validator(mode="after")
    def _check_points(self) -> "Sweep":
        for name, point in self.points.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise error_at(("points", name), "a point's name consists of letters, digits, '.', '-' and '_'")
            for column in point.paper if point else ():
                if column not in self.columns:
                    hint = suggest(column, self.columns)
                    raise error_at(("points", name, "paper", column), f"not among the sweep's columns{hint}")
        if math.prod(map(len, self.grid.values())) > MAX_POINTS:
            raise error_at(("grid",), f"more than {MAX_POINTS} points")
        names = [point.name for point in self.list_points()]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise error_at(("grid",), f"two points are named {min(duplicates)!r}")
        if not names:
            raise error_at((), "a sweep needs points or a grid")
        return self

    def list_points(self) -> list[Point]:
        """All points: the named ones first, then the grid's, with the last key varying fastest."""
        points = []
        for name, keys in self.points.items():
            if keys:
                places: dict[str, KeyPath] = {key: ("points", name, "set", key) for key in keys.set}
                points.append(Point(name, keys.spec or self.spec, keys.set, keys.paper, places))
        for combination in product(*(enumerate(values) for values in self.grid.values())) if self.grid else ():
            values = {key: value for key, (_, value) in zip(self.grid, combination, strict=True)}
            name = "_".join(key.rpartition(".")[2] + point_word(value, key) for key, value in values.items())
            places = {key: ("grid", key, i) for key, (i, _) in zip(self.grid, combination, strict=True)}
            points.append(Point(name, self.spec, values, {}, places))
        return points

    def resolve(self, overrides: Iterable[str] = ()) -> list[tuple[Point, Spec]]:
        """All points with their specs.

        Args:
            overrides: "key.path=value", applied last.

        Raises:
            SpecError: a spec cannot be read or is invalid.
        """
        overlay = parse_overrides(overrides)
        read = cache(SPECS.read)
        return [(point, self._resolve(point, overlay, read)) for point in self.list_points()]

    def resolve_point(self, name: str, overrides: Iterable[str] = ()) -> Spec:
        """The spec of one point. Raises SpecError if the sweep has no such point, or if its spec is invalid."""
        points = {point.name: point for point in self.list_points()}
        if name not in points:
            raise SpecError(f"{self.name}: there is no point named {name!r}{suggest(name, points)}")
        return self._resolve(points[name], parse_overrides(overrides), SPECS.read)

    def locate_spec(self, name_or_path: str, path: KeyPath) -> str:
        """The packaged name, or the path made relative to the working directory, of a spec that this sweep refers to.

        Args:
            name_or_path: as the sweep's file has it: a path is relative to that file.
            path: the key of the reference; the sweep and the one that it extends may be in different folders.
        """
        if self._source is None or name_or_path in find_specs() or not is_path(name_or_path):
            return name_or_path
        folder = os.path.dirname(self._source.place(path).rpartition(":")[0])
        return os.path.normpath(os.path.join(folder, name_or_path))

    def _resolve(self, point: Point, overrides: list[Node], read: Callable[[str], Node]) -> Spec:
        source = self._source
        assert source is not None
        keys = self.points.get(point.name)
        path: KeyPath = ("points", point.name, "spec") if keys and keys.spec else ("spec",)
        try:
            base = read(self.locate_spec(point.spec, path))
        except SpecError as error:
            raise SpecError(f"{source.place(path)}: spec: {error}") from None
        places = {**{key: ("set", key) for key in self.set}, **point.places}
        overlay = [nested(key.split("."), source.at(place)) for key, place in places.items()]
        return spec_from_source(base, [*overlay, *overrides])


def is_sweep(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this is the name of a packaged sweep, or a file with a key that only sweeps have."""
    if os.fspath(name_or_path) in find_sweeps():
        return True
    if not os.path.isfile(name_or_path):
        return False
    keys = read_yaml(Path(name_or_path), os.fspath(name_or_path)).value
    assert isinstance(keys, dict)
    return not keys.keys().isdisjoint({"spec", "set", "points", "grid"})


def load_sweep(name_or_path: str | os.PathLike[str]) -> Sweep:
    """Load a sweep from a packaged name, such as "paper/table2_loss_factor", or a YAML file.

    Raises:
        SpecError: the sweep is invalid. Its specs are only checked by `Sweep.resolve`.
    """
    return Sweep.from_source(SWEEPS.read(name_or_path))


def result_table(sweep: Sweep, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measured values beside the paper's, one entry per point, in the sweep's order.

    Args:
        rows: {"point": name, "figures": {metric: value}} per run. Runs of the same point are averaged; metrics that
            are not columns of the sweep are ignored. Of runs with a "curve", each of its loss factors is an entry.

    Returns:
        Per point or loss factor "point", "set", "runs" and, by column (None if missing), "paper", "measured" (the mean
        over runs) and "spread" (their standard deviation, for at least two runs).

    Raises:
        ValueError: the sweep has no such point.
    """
    points = sweep.list_points()
    runs: dict[str, dict[str, list[Mapping[str, float]]]] = {point.name: {} for point in points}
    for row in rows:
        if row["point"] not in runs:
            raise ValueError(f"{sweep.name} has no point {row['point']!r}{suggest(row['point'], runs)}")
        curve = {curve_point(row["point"], entry["loss_factor"]): entry for entry in row.get("curve") or ()}
        for name, measured in (curve or {row["point"]: row}).items():
            runs[row["point"]].setdefault(name, []).append(measured["figures"])
    table = []
    for point, (entry_name, figures) in (
        (p, entry) for p in points for entry in (runs[p.name] or {p.name: []}).items()
    ):
        values = {name: [run[name] for run in figures if name in run] for name in sweep.columns}
        table.append(
            {
                "point": entry_name,
                "set": point.set,
                "runs": len(figures),
                "paper": {name: point.paper.get(name) for name in sweep.columns},
                "measured": {name: fmean(measured) if measured else None for name, measured in values.items()},
                "spread": {name: stdev(measured) if len(measured) > 1 else None for name, measured in values.items()},
            }
        )
    return table


def point_word(value: Any, key: str = "") -> str:
    """A value, of a key, as part of a point's name: 1.5, 16x16, vit, or 1-4 for a range of loss factors or biases."""
    separator = "-" if key.endswith(("weighting.loss_factor", "weighting.bias")) else "x"
    return separator.join(map(point_word, value)) if isinstance(value, list | tuple) else str(value)


def curve_point(name: str, loss_factor: float) -> str:
    """The name of a point with a range of loss factors at one of them."""
    return f"{name}@{loss_factor:g}"
