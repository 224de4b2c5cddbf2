"""Plots of a sweep: rate against PSNR, rate against Fréchet distances, and distances against the base's GFLOPs.

A line is a series, a point the mean over seeds, and an error bar their standard deviation. The paper's values of the
same points, where the sweep has them, are a dashed line. matplotlib is imported when a plot is drawn.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ulzoo.files.atomic import write_atomically
from ulzoo.registry.report.curves import QUALITY, RATE, Curve, Mean, ResultRow, average
from ulzoo.registry.spec.sweep import METRICS, point_word
from ulzoo.visualization.matplotlib_figure import check_matplotlib, new_figure

PALETTE = ("#0b6fb8", "#c2410c", "#15803d", "#7e3fb5", "#a16207", "#be185d", "#0e7490", "#4d7c0f", "#b91c1c", "#4338ca")
MARKERS = "osD^vP*X<>"
OTHER_SERIES = "#8a8f98"
ANNOTATED_POINTS = 12  # with more points their names would overlap
FRECHET = re.compile(r"[rg]?(fid|fd|fvd)(_|$)(?!.*_?(std|by_fold|bias|copy_last)$)")
LOWER = re.compile(r"[rg]?(kid|kd)(_|$)")
HIGHER = re.compile(r"(.*_)?psnr_db|[rg]?(precision|recall)(_|$)|inception_score|(.*_)?ssim")


@dataclass(frozen=True)
class PlotAxis:
    """The quantity along an axis: a metric, or the FLOPs of a network."""

    label: str
    value: Callable[[Mean], float | None]
    spread: Callable[[Mean], float] = lambda mean: 0.0
    paper: Callable[[Mean], float | None] = lambda mean: None
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True)
class Plot:
    """Two axes and the name of the files."""

    name: str
    x: PlotAxis
    y: PlotAxis


def metric_title(name: str) -> str:
    """ "psnr_db" -> "PSNR, dB"; for a metric that is not in `METRICS`, its name in words."""
    if name in METRICS:
        return ", ".join(filter(None, (METRICS[name].title, METRICS[name].unit)))
    return name.replace("_", " ")


def better_direction(name: str) -> str:
    """Whether "lower" or "higher" values of a metric are better; "" if that is not known."""
    if name in METRICS:
        return METRICS[name].better
    return "lower" if FRECHET.match(name) or LOWER.match(name) else "higher" if HIGHER.match(name) else ""


def frechet_metrics(names: Iterable[str]) -> list[str]:
    """Those metrics that are Fréchet distances between sets of images or clips."""
    return [name for name in names if FRECHET.match(name)]


def list_plots(means: Iterable[Mean]) -> list[Plot]:
    """The plots for which these points have the metrics."""
    means = list(means)
    names = list(dict.fromkeys(name for mean in means for name in mean.metrics))
    plots = [Plot("rate_psnr", metric_axis(RATE), metric_axis(QUALITY))]
    for name in frechet_metrics(names):
        plots.append(Plot(f"rate_{name}", metric_axis(RATE), metric_axis(name)))
    for name in frechet_metrics(names):
        if not name.startswith("r"):  # reconstructions do not depend on the base
            gflops = PlotAxis("forward pass of the base, GFLOPs", lambda mean: mean.gflops.get("base"))
            plots.append(Plot(f"gflops_{name}", gflops, metric_axis(name)))
    return [plot for plot in plots if any(_point(plot, mean) for mean in means)]


def draw(rows: Iterable[ResultRow], folder: Path, title: str = "") -> list[Path]:
    """Write every plot as PNG and SVG.

    Args:
        rows: of a store.
        folder: created if it does not exist.
        title: shown above every plot.

    Returns:
        The sorted paths of the files.

    Raises:
        ValueError: matplotlib cannot be imported, or no finished point has the metrics of a plot.
    """
    check_matplotlib()
    series = average(rows)
    plots = list_plots(mean for means in series.values() for mean in means)
    if not plots:
        raise ValueError(f"no finished point has metrics to plot, such as {RATE} and {QUALITY}")
    folder.mkdir(parents=True, exist_ok=True)
    return sorted(path for plot in plots for path in save_plot(plot, series, folder, title))


def metric_axis(name: str) -> PlotAxis:
    """The axis of a metric, with its spread and the paper's values."""
    return PlotAxis(
        metric_title(name),
        lambda mean: mean.metrics.get(name),
        lambda mean: mean.spread.get(name, 0.0),
        lambda mean: mean.paper.get(name),
    )


def _point(plot: Plot, mean: Mean) -> tuple[float, float] | None:
    x, y = plot.x.value(mean), plot.y.value(mean)
    return None if x is None or y is None else (x, y)


def save_plot(plot: Plot, series: dict[str, list[Mean]], folder: Path, title: str) -> list[Path]:
    """Write a plot as PNG and SVG into an existing folder."""
    import matplotlib

    style = {"svg.hashsalt": "ulzoo", "svg.fonttype": "none", "font.size": 10, "axes.spines.top": False}
    with matplotlib.rc_context({**style, "axes.spines.right": False}):
        figure = new_figure(figsize=(8, 5.2), layout="constrained")
        axes = figure.add_subplot()
        handles = _draw_series(axes, plot, series)
        axes.set(xlabel=plot.x.label, ylabel=plot.y.label, xscale=plot.x.scale, yscale=plot.y.scale)
        axes.set_title(title, loc="left", fontsize=11)
        axes.margins(x=0.08, y=0.1)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.legend(handles=handles, frameon=False, fontsize=8.5)
        paths = [folder / f"{plot.name}.{suffix}" for suffix in ("png", "svg")]
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
            write_atomically(path, partial(_write, figure, path.suffix[1:], metadata))
    return paths


def _write(figure: Any, kind: str, metadata: dict[str, None], path: Path) -> None:
    figure.savefig(path, format=kind, dpi=160, metadata=metadata)


def _draw_series(axes: Any, plot: Plot, series: dict[str, list[Mean]]) -> list[Any]:
    """Draw one line per series, the first ten in separate colours, the others in grey. Returns the legend's handles."""
    handles: list[Any] = []
    drawn = {name: [mean for mean in means if _point(plot, mean)] for name, means in series.items()}
    drawn = {name: means for name, means in drawn.items() if means}
    annotated = sum(map(len, drawn.values())) <= ANNOTATED_POINTS
    others: list[tuple[float, float]] = []
    for i, (name, means) in enumerate(drawn.items()):
        points = _sorted(plot, means)
        x, y = [p[0] for p in points], [p[1] for p in points]
        if i >= len(PALETTE):
            others += [*zip(x, y, strict=True), (float("nan"), float("nan"))]
            continue
        style = {"color": PALETTE[i], "marker": MARKERS[i], "markersize": 6, "linewidth": 1.6, "zorder": 3}
        spreads = [[axis.spread(mean) for _, _, mean in points] for axis in (plot.x, plot.y)]
        errors = [values if any(values) else None for values in spreads]
        style["linestyle"] = "-" if len(set(x)) == len(x) else "none"  # points of equal rate are not a curve
        bars = {"xerr": errors[0], "yerr": errors[1], "capsize": 2.5, "elinewidth": 1}
        handles.append(axes.errorbar(x, y, label=name, **bars, **style))
        handles += _draw_paper(axes, plot, means, PALETTE[i], name)
        for px, py, mean in points if annotated else ():
            offset = (5, -11) if y[0] <= y[-1] else (5, 5)  # on the concave side of the curve
            axes.annotate(_label(mean), (px, py), offset, textcoords="offset points", fontsize=8, color="#444")
    if others:
        count = len(drawn) - len(PALETTE)
        x, y = zip(*others, strict=True)
        style = {"color": OTHER_SERIES, "markersize": 3, "linewidth": 0.5, "alpha": 0.5}
        handles += axes.plot(x, y, ".-", label=f"{count} more series", **style)
    return handles


def _label(mean: Mean) -> str:
    """The name of a point; for a point of a grid, the settings that its series does not name."""
    words = [(key.rpartition(".")[2], point_word(value, key)) for key, value in mean.set.items()]
    if mean.point != "_".join(key + value for key, value in words):
        return mean.point
    own = [f"{key} {value}" for key, value in words if f"{key}={value}" not in mean.series.split()]
    return ", ".join(own).replace("_", " ")


def _sorted(plot: Plot, means: list[Mean]) -> list[tuple[float, float, Mean]]:
    points = [(*point, mean) for mean in means if (point := _point(plot, mean))]
    return sorted(points, key=lambda entry: entry[:2])


def _draw_paper(axes: Any, plot: Plot, means: list[Mean], colour: str, name: str) -> list[Any]:
    """Draw the paper's values of these points. They are measured on other data if the sweep is a small variant."""
    points = [(plot.x.paper(mean), plot.y.paper(mean)) for mean in means]
    curve: Curve = sorted((x, y) for x, y in points if x is not None and y is not None)
    if not curve:
        return []
    x, y = zip(*curve, strict=True)
    style = {"color": colour, "marker": "o", "markersize": 4, "fillstyle": "none", "alpha": 0.7}
    return axes.plot(x, y, "--", label=f"{name}, paper", **style)
