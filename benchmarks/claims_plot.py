"""The plot of the claims: the variants of stage 1, the best rate by size of the base, and the pipelines."""

from pathlib import Path

from benchmarks.base_sizes import distances_by_rate, read_base_sizes
from benchmarks.estimates import FACTORS, PSNR, RATE, Measured
from benchmarks.pictures import save_figure
from benchmarks.pipelines import SAMPLES, best_by_first_seed, distances_by_weight, read_latent_diffusion
from ulzoo.visualization.matplotlib_figure import new_figure

VARIANTS = (
    "normal_prior",
    "no_prior_gradient",
    "logsnr10",
    "learned_variance",
    "learned_variance_logsnr10",
    "channels8",
    "channels16",
    "channels32",
)
BASES = ("sigmoid", "elbo", "pixels")


def save_claims_plot(measured: Measured, path: Path) -> None:
    """Rate and PSNR of stage 1, the distance of samples by rate and size of the base, and by variant of the base."""
    figure = new_figure(figsize=(14, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    for points, style in ((FACTORS, "o-"), *(((point,), "s") for point in VARIANTS)):
        x, y = measured.series(points, RATE), measured.series(points, PSNR)
        (xs, x_errors), (ys, y_errors) = ([[e.mean for e in axis], [e.deviation for e in axis]] for axis in (x, y))
        label = "loss factors 4 to 16" if points == FACTORS else points[0].replace("_", " ")
        left.errorbar(xs, ys, y_errors, x_errors, style, label=label, capsize=2)
    left.set(xlabel="rate by the prior, bits/pixel", ylabel="PSNR of reconstructions, dB")
    left.legend(fontsize=8)
    results = read_base_sizes()
    rates = [row[RATE] for row in results["latents"]]
    for size, estimates in distances_by_rate(results).items():
        means, errors = [e.mean for e in estimates], [e.deviation for e in estimates]
        label = f"{results['sizes'][size]['depth']} layers of {results['sizes'][size]['width']}"
        middle.errorbar(rates, means, errors, fmt="o-", capsize=2, label=label)
    middle.set(xlabel="rate by the prior, bits/pixel", ylabel="distance of samples, relative to that at the least rate")
    middle.legend(title="base", fontsize=8)
    distances = dict(zip(BASES, measured.series(BASES, SAMPLES), strict=True))
    distances["latent\ndiffusion"] = best_by_first_seed(distances_by_weight(read_latent_diffusion()))
    means = [e.mean for e in distances.values()]
    errors = [e.deviation if len(e.values) > 1 else 0.0 for e in distances.values()]
    right.bar(list(distances), means, yerr=errors, capsize=4, color="#0b6fb8")
    right.set(ylabel="Fréchet distance of samples,\nEfficientNet-Lite0 (not FID)")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    save_figure(figure, path)
