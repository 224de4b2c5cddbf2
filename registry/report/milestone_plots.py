"""Plots over training: Fréchet distances, PSNR and rate of the milestones of runs against their training FLOPs.

A line is a run. The paper's Figures 4 and 9 are such plots, of the base's training FLOPs without the autoencoder's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ulzoo.registry.report.curves import QUALITY, RATE, Mean, is_number
from ulzoo.registry.report.plots import Plot, PlotAxis, frechet_metrics, metric_axis, save_plot
from ulzoo.registry.runs.milestone_file import MilestoneRow, read_milestones
from ulzoo.registry.sweeps.store import ResultRow
from ulzoo.visualization.matplotlib_figure import check_matplotlib

PFLOPS = "training_pflops"
METRICS = (QUALITY, RATE, f"base_{RATE}", "clip_score", "prediction_psnr_db")


def draw_curves(curves: Mapping[str, Sequence[MilestoneRow]], folder: Path, title: str = "") -> list[Path]:
    """Write a plot as PNG and SVG for every metric of the curves.

    Args:
        curves: the rows of each run, by its name; a metric's values of another protocol than its last one are left out.
        folder: created if it does not exist.
        title: shown above every plot.

    Returns:
        The sorted paths of the files.

    Raises:
        ValueError: matplotlib cannot be imported.
    """
    check_matplotlib()
    series = {name: _means(name, rows) for name, rows in curves.items()}
    folder.mkdir(parents=True, exist_ok=True)
    stages = sorted({row["stage"] for rows in curves.values() for row in rows})
    x = PlotAxis(
        f"training FLOPs of the stage {' or '.join(stages)}, PFLOPs", lambda mean: mean.metrics[PFLOPS], scale="log"
    )
    plots = [Plot(f"pflops_{name}", x, metric_axis(name)) for name in curve_metrics(curves.values())]
    return sorted(path for plot in plots for path in save_plot(plot, series, folder, title))


def curve_metrics(curves: Iterable[Sequence[MilestoneRow]]) -> list[str]:
    """The metrics that are drawn and printed: Fréchet distances, then PSNR, rates and others that were measured."""
    names = list(dict.fromkeys(name for rows in curves for row in rows for name in row["figures"]))
    return [*frechet_metrics(names), *(name for name in METRICS if name in names)]


def store_curves(folder: Path, rows: Iterable[ResultRow]) -> dict[str, list[MilestoneRow]]:
    """The milestones of the points of a sweep that were measured, by the point's name.

    Args:
        folder: of the store.
        rows: of the store.
    """
    curves = {}
    for row in rows:
        run = str(row.get("folder"))
        if re.fullmatch(r"points/[\w-][\w.-]*", run) and (milestones := read_milestones(folder / run)):
            curves[f"{row['point']} seed {row['seed']}" if row.get("seed") else row["point"]] = milestones
    return curves


def _means(name: str, rows: Sequence[MilestoneRow]) -> list[Mean]:
    """A point of the plot per milestone, with the metrics whose protocol is that of the last row that has them."""
    protocols: dict[str, str] = {}
    for row in rows:
        protocols |= row["hashes"]
    steps: dict[int, dict[str, float]] = {}
    for row in rows:
        metrics = steps.setdefault(row["step"], {PFLOPS: row["training_flops"] / 1e15})
        for metric, value in row["figures"].items():
            if is_number(value) and row["hashes"].get(metric) == protocols[metric]:
                metrics[metric] = value
    return [
        Mean(f"{step:,}", name, "", {}, metrics, spread={}, paper={}, gflops={}, rows=1)
        for step, metrics in sorted(steps.items())
    ]
