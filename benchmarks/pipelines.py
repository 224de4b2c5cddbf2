"""Distances and costs of pipelines that benchmarks/claims.py and latent_diffusion.py train with equal FLOPs."""

import json
from typing import Any

from benchmarks.estimates import Estimate, Measured
from benchmarks.measuring import RESULTS

FOLDER = RESULTS / "claims"
DISTANCE = "fd_efficientnet_lite0"
SAMPLES = f"g{DISTANCE}"


def read_latent_diffusion() -> dict[str, Any]:
    """The results of benchmarks/latent_diffusion.py."""
    return json.loads((FOLDER / "latent_diffusion.json").read_text(encoding="utf-8"))


def distances_by_weight(results: dict[str, Any]) -> dict[float, Estimate]:
    """The distance of samples by latent diffusion, by KL weight."""
    rows: dict[float, dict[int, float]] = {}
    for row in results["rows"]:
        rows.setdefault(row["kl_weight"], {})[row["seed"]] = row[SAMPLES]
    return {weight: Estimate(values, 0) for weight, values in rows.items()}


def best_by_first_seed(distances: dict[float, Estimate]) -> Estimate:
    """The distance with the best of the KL weights, judged by the first seed, which all have."""
    return min(distances.values(), key=lambda distance: distance.values[0])


def first_rows(measured: Measured) -> dict[str, dict[str, Any]]:
    """A row of Unified Latents and of diffusion on pixels."""
    return {point: next(row for row in measured.rows if row["point"] == point) for point in ("sigmoid", "pixels")}


def training_flops(measured: Measured) -> dict[str, float]:
    return {point: sum(row["training_flops"].values()) for point, row in first_rows(measured).items()}


def pipeline_costs(measured: Measured, results: dict[str, Any]) -> dict[str, str]:
    """FLOPs of training, and seconds of its steps, which were timed by turns in one process, by pipeline."""
    rows, flops = first_rows(measured), training_flops(measured)
    flops["latent_diffusion"] = sum(results["rows"][0]["training_flops"].values())
    names = {"sigmoid": "unified_latents", "pixels": "pixels", "latent_diffusion": "latent_diffusion"}
    steps = {"latent_diffusion": results["rows"][0]["steps"]}
    for point, row in rows.items():
        steps[point] = {stage: row["resolved"]["train"][stage]["steps"] for stage in row["training_flops"]}
    costs = {}
    for point, name in names.items():
        medians = {stage: results["step_seconds"][f"{name}.{stage}"]["median"] for stage in steps[point]}
        seconds = sum(count * medians[stage] for stage, count in steps[point].items())
        costs[point] = f"{flops[point] / 1e12:.1f} TFLOPs and {seconds:.0f} s"
    return costs
