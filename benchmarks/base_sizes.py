"""The best rate for generation by the size of the base, the paper's claim (b): four loss factors, three seeds.

    python -m benchmarks base_sizes [--runs runs/base_sizes]

Trains bases of base_sizes.yaml on the frozen latents of emoji32_curve, one model for all of its loss factors, so that a
base learns all rates, and measures the Fréchet distance of its samples at each of them: two to three hours on one core
without bf16. Runs are continued. Writes results/claims/base_sizes.json, which `python -m benchmarks claims` reads.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.estimates import PSNR, RATE, Estimate
from benchmarks.measuring import publish
from benchmarks.pipelines import DISTANCE, FOLDER
from benchmarks.sweep import ulzoo

SPEC = Path(__file__).with_suffix(".yaml")
SIZES = {"small": {"width": 64, "depth": 2, "heads": 1}, "medium": {"width": 128, "depth": 4, "heads": 2}}
CURVE = ("--loss-factor", "3,6,12,24")
SAMPLED = ("--frechet", DISTANCE, "--samples", "1000", "--limit", "64", "--rate-samples", "4")  # rates: of latents.json
SEEDS = 3


def train(size: str, seed: int, folder: Path) -> None:
    settings = {f"base.backbone.{key}": value for key, value in SIZES[size].items()} | {"train.base.seed": seed}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    resume = ["--resume"] if folder.exists() else []
    ulzoo("train", str(SPEC), "--device", "cpu", "--out", str(folder), *words, *resume)


def measure(model: str, out: Path, *options: str) -> list[dict[str, Any]]:
    """Figures and protocol by loss factor, as `ulzoo evaluate` writes them to `out`, unless it has done so before."""
    if not out.exists():
        ulzoo("evaluate", model, "--device", "cpu", *CURVE, *options, "--out", str(out))
    return json.loads(out.read_text("utf-8"))["curve"]


def read_base_sizes() -> dict[str, Any]:
    """The results of this benchmark."""
    return json.loads((FOLDER / "base_sizes.json").read_text("utf-8"))


def best_rates(results: dict[str, Any]) -> dict[str, Estimate]:
    """Bits/pixel with the least distance by size: of a parabola of its logarithm over that of the loss factor.

    ValueError if there is none between the least and the greatest loss factor.
    """
    factors = np.log2([row["loss_factor"] for row in results["latents"]])
    rates = [row[RATE] for row in results["latents"]]

    def best_rate(distances: Sequence[float]) -> float:
        curvature, slope, _ = np.polyfit(factors, np.log(distances), 2)
        best = -slope / (2 * curvature)
        if curvature <= 0 or not factors[0] < best < factors[-1]:
            raise ValueError(f"no least distance within the range: {distances}")
        return float(np.interp(best, factors, rates))

    return _by_size(results, best_rate, 3)


def distances_by_rate(results: dict[str, Any]) -> dict[str, list[Estimate]]:
    """The distance relative to that at the least loss factor, by loss factor, by size."""
    numbers = range(len(results["latents"]))
    by_number = [_by_size(results, lambda distances, n=n: distances[n] / distances[0], 3) for n in numbers]
    return {size: [by_size[size] for by_size in by_number] for size in results["sizes"]}


def _by_size(results: dict[str, Any], figure: Callable[[Sequence[float]], float], digits: int) -> dict[str, Estimate]:
    """A figure of the distances by loss factor, of every run."""
    runs: dict[str, dict[int, list[float]]] = {}
    for row in results["rows"]:
        runs.setdefault(row["size"], {}).setdefault(row["seed"], []).append(row["distance"])
    return {
        size: Estimate({seed: figure(distances) for seed, distances in seeds.items()}, digits)
        for size, seeds in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/base_sizes"))
    runs: Path = parser.parse_args().runs
    runs.mkdir(parents=True, exist_ok=True)
    rows = []
    for size, seed in product(SIZES, range(SEEDS)):
        folder = runs / f"{size}_{seed}"
        if not (folder / "figures.json").exists():
            train(size, seed, folder)
        curve = measure(str(folder), runs / f"{size}_{seed}.json", *SAMPLED)
        for point in curve:
            distance = point["figures"][f"g{DISTANCE}"]
            rows.append({"size": size, "seed": seed, "loss_factor": point["loss_factor"], "distance": distance})
    latents = measure("emoji32_curve", runs / "latents.json")
    rates = [
        {"loss_factor": point["loss_factor"], **{key: point["figures"][key] for key in (RATE, PSNR)}}
        for point in latents
    ]
    protocol = {key: value for key, value in curve[0]["protocol"]["generated"].items() if key != "loss_factor"}
    content = {"sizes": SIZES, "latents": rates, "rows": rows, "protocol": protocol}
    publish("base_sizes", content, torch.device("cpu"), FOLDER)


if __name__ == "__main__":
    main()
