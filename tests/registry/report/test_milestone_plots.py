"""Plots over training: which metrics are drawn, of which rows, and the points of a store that have curves."""

import json
from typing import Any

import pytest

from ulzoo.registry.report.milestone_plots import PFLOPS, _means, curve_metrics, draw_curves, store_curves


def milestone(step: int, protocol: str = "a", **figures: Any) -> dict[str, Any]:
    return {
        "stage": "base",
        "step": step,
        "images": 10 * step,
        "training_flops": step * 2e15,
        "checkpoint": str(step),
        "settings": protocol,
        "figures": figures,
        "protocol": {},
        "hashes": {name: protocol + name for name in figures},
    }


def test_a_line_has_the_metrics_of_its_last_protocol():
    rows = [milestone(step, gfid_50k=9.0 - step, psnr_db=20.0) for step in (1, 2)]
    rows += [milestone(2, "b", psnr_db=30.0, psnr_by_frame=[1.0])]
    means = _means("run", rows)
    assert [mean.metrics for mean in means] == [
        {PFLOPS: 2.0, "gfid_50k": 8.0},
        {PFLOPS: 4.0, "gfid_50k": 7.0, "psnr_db": 30.0},
    ]
    assert curve_metrics([rows]) == ["gfid_50k", "psnr_db"]


def test_every_metric_has_a_plot_with_a_line_per_run(tmp_path):
    curves = {name: [milestone(n, fvd=n + 1.0, bits_per_pixel=0.1) for n in (1, 2, 3)] for name in ("small", "medium")}
    files = draw_curves(curves, tmp_path / "plots", "a title")
    assert [path.name for path in files] == [
        f"pflops_{metric}.{suffix}" for metric in ("bits_per_pixel", "fvd") for suffix in ("png", "svg")
    ]
    words = ("a title", "training FLOPs of the stage base, PFLOPs", "FVD, one clip per video", "small", "medium", "3")
    text = files[-1].read_text()
    assert all(f">{word}<" in text for word in words), [word for word in words if f">{word}<" not in text]


def test_the_points_of_a_store(tmp_path):
    rows = [{"point": "a", "seed": seed, "folder": f"points/a-{seed}"} for seed in (0, 1, 2)]
    for seed in (0, 1):
        (tmp_path / "points" / f"a-{seed}").mkdir(parents=True)
        content = json.dumps({"milestones": [milestone(1, fvd=2.0)]})
        (tmp_path / "points" / f"a-{seed}" / "milestones.json").write_text(content)
    (tmp_path / "milestones.json").write_text(content)
    rows += [{"point": "b", "folder": "points/.."}, {"point": "c"}]
    assert store_curves(tmp_path, rows) == {name: [milestone(1, fvd=2.0)] for name in ("a", "a seed 1")}
    (tmp_path / "points" / "a-1" / "milestones.json").write_text("[]")
    with pytest.raises(ValueError, match=r"milestones.json: damaged, not the milestones of a run"):
        store_curves(tmp_path, rows)
