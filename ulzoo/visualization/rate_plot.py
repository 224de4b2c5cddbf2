"""A plot of how a rate is distributed over log-SNR and over the latent's channels."""

from pathlib import Path
from typing import Any

from ulzoo.files.atomic import write_atomically
from ulzoo.visualization.matplotlib_figure import check_matplotlib, new_figure

COLOURS = {"prior": "#0b6fb8", "base": "#c2410c"}


def check_rate_plot(path: Path) -> None:
    """Check that a plot can be saved to `path`, before the rate is measured.

    Raises:
        ValueError: the format is not PNG, SVG or PDF, or matplotlib cannot be imported.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path}: a plot is a .png, .svg or .pdf file")
    check_matplotlib()


def save_rate_plot(path: Path, rates: dict[str, Any], title: str = "") -> None:
    """Plot bits/pixel over log-SNR, as a density whose integral is the rate, and per channel, in descending order.

    Args:
        path: a .png, .svg or .pdf file, written atomically.
        rates: network -> `RateMeasurement.decomposition`; networks without one are not plotted.
        title: above the plot.

    Raises:
        ValueError: no network has a decomposition.
    """
    check_rate_plot(path)
    rates = {name: rate for name, rate in rates.items() if rate is not None}
    if not rates:
        raise ValueError("there is no rate over log-SNR to plot: the model has neither a diffusion prior nor a base")
    figure = new_figure(figsize=(9, 3.6), layout="constrained")
    over_logsnr, over_channels = figure.subplots(1, 2)
    for name, rate in rates.items():
        edges, bits = rate["logsnr"], rate["bits_per_pixel"]
        width = edges[1] - edges[0]
        total = sum(rate["channels"]) + rate["encoder"]
        label = f"{name}: {total:.4g} bits/pixel"
        over_logsnr.stairs([value / width for value in bits], edges, color=COLOURS[name], label=label)
        channels = sorted(rate["channels"], reverse=True)
        positions = [channel + 1 for channel in range(len(channels))]
        over_channels.plot(positions, channels, "o-", color=COLOURS[name], markersize=3, linewidth=1, label=name)
    over_logsnr.set(xlabel="log-SNR of the latent", ylabel="bits/pixel per unit of log-SNR")
    over_channels.set(xlabel="latent channel, by its bits", ylabel="bits/pixel")
    for axes in (over_logsnr, over_channels):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    over_channels.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, fontsize="medium")
    kind = path.suffix.lower()[1:]
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=150))
