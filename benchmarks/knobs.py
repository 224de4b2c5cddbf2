"""The main trade-off of Unified Latents on the demo: stage 1 at several loss factors, rate against PSNR.

    python -m benchmarks knobs [--loss-factors 4,8.5,17] [--set KEY=VALUE]... [--out benchmarks/results]

Trains the first stage of emoji32_tiny once per loss factor with everything else equal, measures it on the validation
images, and writes knobs.json and knobs.png. Exit status 1 if rate and PSNR do not both rise strictly.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.pictures import save_figure
from ulzoo.registry import load_spec
from ulzoo.registry.runs.export import versions
from ulzoo.registry.runs.train import RunOptions, train


def measure(spec_name: str, overrides: list[str], loss_factors: list[float]) -> list[dict[str, Any]]:
    """One row per loss factor: metrics, protocol, seconds."""
    rows = []
    for loss_factor in loss_factors:
        spec = load_spec(spec_name, [*overrides, f"decoder.weighting.loss_factor={loss_factor}"])
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            results = train(spec, Path(folder), RunOptions(stage="latents")).results
        seconds = round(time.perf_counter() - started, 1)
        rows.append({"loss_factor": loss_factor, "spec_hash": spec.hash, "seconds": seconds, **results})
        print(summary(rows[-1]), flush=True)
    return rows


def summary(row: dict[str, Any]) -> str:
    figures = row["figures"]
    return (
        f"loss factor {row['loss_factor']:g}: {figures['bits_per_pixel']:.4f} bits/pixel, "
        f"{figures['bits_per_dimension']:.4f} bits/dimension, {figures['psnr_db']:.2f} dB, {row['seconds']} s"
    )


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Plot rate against PSNR, with one labelled point per row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rates = [row["figures"]["bits_per_pixel"] for row in rows]
    qualities = [row["figures"]["psnr_db"] for row in rows]
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    axes.plot(rates, qualities, "o-")
    for row, x, y in zip(rows, rates, qualities, strict=True):
        axes.annotate(
            f"loss factor {row['loss_factor']:g}", (x, y), (0, -14), textcoords="offset points", ha="center", fontsize=9
        )
    axes.margins(x=0.25, y=0.15)
    axes.set(xlabel="rate bound, bits/pixel", ylabel="PSNR of reconstructions, dB", title=title)
    axes.grid(alpha=0.3)
    save_figure(figure, path.with_suffix(".png"), dpi=160)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss-factors", default="4,8.5,17")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    loss_factors = [float(value) for value in arguments.loss_factors.split(",")]
    rows = measure("emoji32_tiny", arguments.set, loss_factors)
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = {**versions(), "threads": torch.get_num_threads(), "device": "cpu"}
    content = {"overrides": arguments.set, "machine": machine, "rows": rows}
    (arguments.out / "knobs.json").write_text(json.dumps(content, indent=1) + "\n")
    plot(rows, "emoji32_tiny, stage 1, validation images", arguments.out / "knobs.png")
    figures = [row["figures"] for row in rows]
    rising = all(a[key] < b[key] for a, b in pairwise(figures) for key in ("bits_per_pixel", "psnr_db"))
    print(
        "rate and PSNR rise with the loss factor" if rising else "rate and PSNR do NOT both rise with the loss factor"
    )
    return 0 if rising else 1


if __name__ == "__main__":
    sys.exit(main())
