"""The claims: verdicts from rows with given figures, and the committed page is that of the committed rows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import base_sizes, claims, pipelines
from benchmarks.estimates import Estimate, Measured, apart, sign

FACTORS = {"4": (0.4, 23.0), "5.7": (0.5, 24.0), "8": (0.6, 25.0), "11.3": (0.7, 26.0), "16": (0.8, 27.0)}


def rows(point: str, *figures: dict[str, float]) -> list[dict[str, Any]]:
    """A row of each seed."""
    return [
        {"point": point, "spec_hash": f"{point}{seed}", "status": "done", "seed": seed, "figures": values, "set": {}}
        for seed, values in enumerate(figures)
    ]


def measured(folder: Path, **points: list[tuple[float, float]]) -> Measured:
    """The curve over loss factors, and points with (bits/pixel, PSNR) for each seed."""
    names = {**{name: [figures] * 3 for name, figures in FACTORS.items()}, **points}
    lines = [
        json.dumps(row)
        for name, seeds in names.items()
        for row in rows(name, *({"bits_per_pixel": rate, "psnr_db": psnr} for rate, psnr in seeds))
    ]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    return Measured(folder)


def test_estimates_are_apart_if_intervals_of_one_deviation_do_not_overlap() -> None:
    low, near, high = (Estimate({0: x - 1, 1: x, 2: x + 1}) for x in (0.0, 1.9, 2.1))
    assert low.deviation == 1 and str(low) == "0.000 ± 1.000"
    assert apart(low, high) == "shown" and apart(high, low) == "refuted" and apart(low, near) == "open"
    assert sign(high) == "shown" and sign(low) == "open"


def test_excess_is_interpolated_on_the_curve_of_the_same_seed(tmp_path: Path) -> None:
    table = measured(tmp_path, normal_prior=[(1.0, 24.5), (1.1, 25.0), (1.2, 25.5)])
    assert table.excess_bits("normal_prior").values == pytest.approx({0: 0.45, 1: 0.5, 2: 0.55})
    finding = claims.normal_prior(table)
    assert finding.verdict == "shown" and "0.500 ± 0.050 more" in finding.evidence
    with pytest.raises(ValueError, match=r"bits_per_pixel is 1\.000, outside of 0\.400 to 0\.800"):
        table.excess_psnr("normal_prior")


def test_the_latent_logsnr_is_compared_with_the_middle_of_the_curve(tmp_path: Path) -> None:
    finding = claims.latent_logsnr(measured(tmp_path, logsnr10=[(0.9, 24.0)] * 3))
    assert finding.verdict == "refuted"
    assert "0.900 ± 0.000 bits/pixel (24.00 ± 0.00 dB) instead of 0.600 ± 0.000 (25.00 ± 0.00 dB)" in finding.evidence


def test_a_variant_that_needs_fewer_bits_refutes_the_claim(tmp_path: Path) -> None:
    table = measured(tmp_path, normal_prior=[(0.5, 24.5), (0.5, 25.0), (0.5, 25.5)])
    assert claims.normal_prior(table).verdict == "refuted"


def test_little_difference_between_numbers_of_channels(tmp_path: Path) -> None:
    def verdict(psnr: float) -> str:
        points = {"channels8": 20.0, "channels16": 22.0, "channels32": psnr}
        return claims.channels(measured(tmp_path, **{name: [(0.5, x)] * 3 for name, x in points.items()})).verdict

    assert [verdict(psnr) for psnr in (22.2, 21.8, 23.0)] == ["shown", "shown", "refuted"]


def test_one_seed_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="logsnr10: measured with 1 seeds"):
        measured(tmp_path, logsnr10=[(0.5, 20.0)]).get("logsnr10", "psnr_db")


def generated(folder: Path, **distances: tuple[float, float, float]) -> Measured:
    """Points with the distance of samples for each seed, and what their training cost."""
    lines = []
    for point, values in distances.items():
        for row in rows(point, *({pipelines.SAMPLES: value} for value in values)):
            stages = {"base": {"steps": 10}} | ({} if point == "pixels" else {"latents": {"steps": 20}})
            costs, protocol = dict.fromkeys(stages, 1000000000000.0), {"generated": {"samples": 1500}}
            lines.append(
                json.dumps({**row, "protocol": protocol, "resolved": {"train": stages}, "training_flops": costs})
            )
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    return Measured(folder)


def test_the_best_rate_is_that_of_a_parabola_by_size() -> None:
    """Distances exp(log2(factor / best)²): the vertex is at `best`, and its rate between those of two factors."""
    factors, best = (2.0, 4.0, 8.0, 16.0), {"small": 4.0, "medium": 8.0}
    results = {
        "sizes": {size: {"width": 8, "depth": 1, "heads": 1} for size in best},
        "latents": [{"loss_factor": factor, "bits_per_pixel": factor / 10} for factor in factors],
        "rows": [
            {"size": size, "seed": seed, "loss_factor": factor, "distance": math.exp(math.log2(factor / vertex) ** 2)}
            for size, vertex in best.items()
            for seed in range(3)
            for factor in factors
        ],
    }
    rates = base_sizes.best_rates(results)
    assert rates["small"].mean == pytest.approx(0.4) and rates["medium"].mean == pytest.approx(0.8)
    times = base_sizes.distances_by_rate(results)
    assert times["small"][-1].mean == pytest.approx(math.exp(4 - 1)) and times["medium"][0].mean == 1
    results["rows"] = [row | {"distance": row["loss_factor"]} for row in results["rows"]]
    with pytest.raises(ValueError, match="no least distance within the range"):
        base_sizes.best_rates(results)


def test_pipelines_are_compared_at_what_they_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rival: dict[str, Any] = {
        "rows": [
            {"kl_weight": weight, "seed": seed, pipelines.SAMPLES: distance, "psnr_db": 20.0, "kl_bits_per_pixel": 0.5,
             "steps": {"latents": 5, "base": 6}, "training_flops": {"latents": 1e12, "base": 2e12}}
            for weight, seed, distance in ((0.1, 0, 130.0), (0.01, 0, 120.0), (0.01, 1, 122.0), (0.01, 2, 124.0))
        ],
        "step_seconds": {
            f"{pipeline}.{stage}": {"median": seconds}
            for pipeline, stage, seconds in (
                ("unified_latents", "latents", 0.1), ("unified_latents", "base", 0.2), ("pixels", "base", 0.5),
                ("latent_diffusion", "latents", 1.0), ("latent_diffusion", "base", 2.0),
            )
        },
    }  # fmt: skip
    monkeypatch.setattr(pipelines, "FOLDER", tmp_path)
    (tmp_path / "latent_diffusion.json").write_text(json.dumps(rival))
    table = generated(tmp_path, sigmoid=(99, 100, 101), pixels=(90, 91, 92))
    finding = claims.latent_diffusion(table)
    assert finding.verdict == "shown"
    assert (
        "100 ± 1 after 2.0 TFLOPs and 4 s; by latent diffusion after 3.0 TFLOPs and 17 s, 122 ± 2" in finding.evidence
    )
    assert "seed by seed: 130 with a KL weight of 0.1, whose latents give 20.0 dB" in finding.evidence
    assert "; 120, 122, 124 with a KL weight of 0.01, whose latents" in finding.evidence
    rival["rows"] = rival["rows"][:2]
    (tmp_path / "latent_diffusion.json").write_text(json.dumps(rival))
    assert claims.latent_diffusion(table).verdict == "open"  # one seed has no spread
    finding = claims.pixels(table)
    assert "distance of 1,500 samples 100 ± 1 after 2.0 TFLOPs, on pixels 91 ± 1 after 1.0 TFLOPs" in finding.evidence
    finding = claims.pixels_and_seconds(table)
    assert finding.verdict == "refuted" and "on pixels 91 ± 1 after 1.0 TFLOPs and 5 s" in finding.evidence


def test_the_committed_page_is_that_of_the_rows() -> None:
    page = (claims.FOLDER / "claims.md").read_text(encoding="utf-8")
    assert page == claims.page(*claims.read()), "run python -m benchmarks claims --no-training"
