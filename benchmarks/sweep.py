"""Rate against distortion on the demo's data: a sweep of latent channels × loss factors, whose results are committed.

    python -m benchmarks sweep [--workers N] [--set KEY=VALUE]... [--store DIR] [--out benchmarks/results/sweep]

Runs `ulzoo sweep`, which continues an interrupted sweep, draws its plots, and writes its rows and a table of them.
Training is shorter than the demo's, as the results show; it takes about an hour on one core.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from benchmarks.pictures import save_picture
from ulzoo.registry.report.curves import average, bd_psnr, bd_rate, curve, pareto
from ulzoo.registry.sweeps.store import Store

SHORT = (
    "decoder.weighting.bias=5",
    "train.latents.steps=400",
    "train.latents.prior_warmup_steps=200",
    "train.base.steps=300",
)
CHANNELS, LOSS_FACTORS = "4,8,16", "1.3,1.7,2.1"
FRECHET = ("rfd_efficientnet_lite0", "gfd_efficientnet_lite0")


def ulzoo(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "ulzoo", *arguments], check=True)


def table(store: Store) -> str:
    """The points by series, the differences between the series, and the Pareto front, in Markdown."""
    rows = store.rows()
    means = average(rows)
    front = {row["spec_hash"] for row in pareto(rows)}
    best = {row["point"] for row in rows if row["spec_hash"] in front}
    lines = [
        "| series | point | bits/pixel | PSNR, dB | Fréchet distance of reconstructions | of samples | on the front |",
        "|---|---|---|---|---|---|---|",
    ]
    for series, points in means.items():
        for point in points:
            figures = point.metrics
            distances = " | ".join(f"{figures[name]:.1f}" if name in figures else "–" for name in FRECHET)
            mark = "yes" if point.point in best else ""
            rate, psnr = figures["bits_per_pixel"], figures["psnr_db"]
            lines.append(f"| {series} | {point.point} | {rate:.4f} | {psnr:.2f} | {distances} | {mark} |")
    curves = {series: curve(points) for series, points in means.items()}
    first, *others = curves
    lines += ["", f"Bjøntegaard's differences against {first}, where the curves overlap:", ""]
    for series in others:
        try:
            rate, psnr = bd_rate(curves[first], curves[series]), bd_psnr(curves[first], curves[series])
            lines.append(f"- {series}: {rate:+.1f} % bits at the same PSNR, {psnr:+.2f} dB at the same bits")
        except ValueError as error:
            lines.append(f"- {series}: {error}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs/sweeps/emoji32_tiny"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sweep"))
    parser.add_argument("--workers", default="1")
    parser.add_argument("--samples", default="1024")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    settings = [word for setting in (*SHORT, *options.set) for word in ("--set", setting)]
    grid = ["--latent-channels", CHANNELS, "--loss-factor", LOSS_FACTORS, "--frechet", "fd_efficientnet_lite0"]
    store = str(options.store)
    ulzoo(
        "sweep",
        "emoji32_tiny",
        *grid,
        "--samples",
        options.samples,
        *settings,
        "--workers",
        options.workers,
        "--out",
        store,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    ulzoo("plot", store, "--out", str(options.out))
    for plot in options.out.glob("*.png"):
        save_picture(Image.open(plot), plot)
    for name in ("results.jsonl", "sweep.yaml"):
        shutil.copyfile(options.store / name, options.out / name)
    (options.out / "table.md").write_text(table(Store(options.store)), encoding="utf-8")


if __name__ == "__main__":
    main()
