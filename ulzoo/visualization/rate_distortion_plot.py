"""A plot of the rate-distortion curve of a variable-rate model: its metrics against its rate, by loss factor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ulzoo.files.atomic import write_atomically
from ulzoo.visualization.matplotlib_figure import new_figure
from ulzoo.visualization.rate_plot import check_rate_plot

COLOUR = "#0b6fb8"
RATE = "bits_per_pixel"
LONG = 40  # letters that fit beside an axis


def save_rate_distortion_plot(
    path: Path, curve: Sequence[Mapping[str, Any]], metrics: Mapping[str, str], title: str
) -> None:
    """Plot metrics against bits/pixel, side by side, with the loss factor at each point.

    Args:
        path: a .png, .svg or .pdf file, written atomically.
        curve: {"loss_factor", "figures": {metric: value}} for each loss factor, with the metric "bits_per_pixel".
        metrics: the metrics to plot -> their labels.
        title: the model, above the plot.

    Raises:
        ValueError: the format is another one, or matplotlib cannot be imported.
    """
    check_rate_plot(path)
    rows = sorted(curve, key=lambda row: row["loss_factor"])
    figure = new_figure(figsize=(5.2 * len(metrics), 3.8), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics.items(), strict=True):
        points = [(row["figures"][RATE], row["figures"][name], row["loss_factor"]) for row in rows]
        x, y, _ = zip(*points, strict=True)
        axes.plot(x, y, "o-", color=COLOUR, markersize=5, linewidth=1.6)
        for bits, value, factor in points:
            offset = (5, -11) if y[0] <= y[-1] else (5, 5)  # on the concave side of the curve
            axes.annotate(f"{factor:g}", (bits, value), offset, textcoords="offset points", fontsize=8, color="#444")
        axes.set(xlabel="rate, bits/pixel", ylabel=label.replace(", ", ",\n") if len(label) > LONG else label)
        axes.margins(x=0.1, y=0.12)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}, by loss factor", fontsize="medium")
    kind = path.suffix.lower()[1:]
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=150))
