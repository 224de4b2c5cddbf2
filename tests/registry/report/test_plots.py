"""Plots of a store: which ones are drawn, what they contain, and that the files are reproducible."""

import re
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from ulzoo.registry.report import plots
from ulzoo.registry.report.curves import Mean, average
from ulzoo.registry.report.plots import better_direction, draw, frechet_metrics, list_plots, metric_title


def row(point: str, series: str = "small", seed: int = 0, gflops: float = 1.0, **figures: float) -> dict[str, Any]:
    return {
        "point": point,
        "series": series,
        "seed": seed,
        "set": {},
        "spec": "tiny",
        "status": "done",
        "figures": figures,
        "paper": {},
        "gflops": {"base": gflops},
    }


def curve(series: str, points: int = 4, **other: Any) -> list[dict[str, Any]]:
    return [
        row(f"{series}-{i}", series, bits_per_pixel=0.1 + 0.1 * i, psnr_db=20 + i**0.5) | other for i in range(points)
    ]


def test_a_plot_is_listed_if_its_metrics_are_measured():
    names = {"bits_per_pixel": 0.1, "psnr_db": 20, "rfid_50k": 1, "gfid_50k": 2, "fd_transnetv2": 3, "loss": 3}
    means = [mean for series in average([row("a", **names)]).values() for mean in series]
    assert [plot.name for plot in list_plots(means)] == [
        *("rate_psnr", "rate_rfid_50k", "rate_gfid_50k", "rate_fd_transnetv2"),
        *("gflops_gfid_50k", "gflops_fd_transnetv2"),
    ]
    means = [mean for series in average([row("a", gfid_50k=2)]).values() for mean in series]
    assert [plot.name for plot in list_plots(means)] == ["gflops_gfid_50k"], "pixel diffusion has no rate"


def test_metrics_that_are_distances():
    assert frechet_metrics(["fvd", "rfd_dino", "gfid_30k", "psnr_db", "fidelity", "bits_per_pixel"]) == [
        "fvd",
        "rfd_dino",
        "gfid_30k",
    ]
    folds = ["fvd_k600_64", "fvd_k600_64_std", "fvd_k600_64_by_fold", "fvd_k600_64_2x512", "fvd_k600_64_2x512_bias"]
    assert frechet_metrics(folds) == ["fvd_k600_64", "fvd_k600_64_2x512"]
    names = ("gfid_5k", "rkd_dinov2", "grecall", "prediction_psnr_db", "bits_per_pixel")
    assert [better_direction(name) for name in names] == ["lower", "lower", "higher", "higher", "lower"]
    assert better_direction("loss") == ""
    assert metric_title("psnr_db") == "PSNR, dB" and metric_title("fd_another") == "fd another"
    assert frechet_metrics(["fd_transnetv2"]) == ["fd_transnetv2"] and "TransNetV2" in metric_title("fd_transnetv2")


def test_the_files_contain_titles_labels_and_names(tmp_path):
    rows = curve("small") + curve("medium", paper={"bits_per_pixel": 0.2, "psnr_db": 30})
    rows += [row("small-1", "small", seed=1, bits_per_pixel=0.22, psnr_db=21.5)]
    files = draw(rows, tmp_path / "plots", "a title")
    assert [path.name for path in files] == ["rate_psnr.png", "rate_psnr.svg"]
    with Image.open(files[0]) as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 20)) > 20
    text = files[1].read_text()
    words = ("a title", "rate, bits/pixel", "PSNR, dB", "small", "medium", "medium, paper", "small-3")
    assert all(f">{word}<" in text for word in words), [word for word in words if f">{word}<" not in text]
    assert "small, paper" not in text


def test_the_same_rows_make_the_same_bytes(tmp_path):
    rows = curve("small") + curve("medium")
    first, again = draw(rows, tmp_path / "a"), draw(rows, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_series_beyond_the_palette_are_grey_and_counted(tmp_path):
    _, svg = draw([r for i in range(13) for r in curve(f"s{i}")], tmp_path)
    text = svg.read_text()
    assert ">3 more series<" in text and ">s9<" in text and ">s10<" not in text


def test_nothing_to_plot(tmp_path):
    for rows in ([], [row("a", psnr_db=20)], [row("a", bits_per_pixel=1, psnr_db=2) | {"status": "failed"}]):
        with pytest.raises(ValueError, match="no finished point has metrics to plot"):
            draw(rows, tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr("ulzoo.visualization.matplotlib_figure.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install 'ulzoo[plots]'")):
        draw(curve("small"), tmp_path)


def test_matplotlib_is_not_imported_before_it_is_needed():
    import subprocess

    code = "import ulzoo.registry.report.plots, sys; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_ten_thousand_rows_in_seconds(tmp_path):
    rows = [
        row(f"p{i}", f"s{i % 500}", bits_per_pixel=0.1 + i / 1e4, psnr_db=20 + i / 1e3, gfid_50k=i, rfid_50k=i)
        for i in range(10_000)
    ]
    started = time.process_time()
    assert len(draw(rows, tmp_path)) == 8
    assert time.process_time() - started < 10, "about 4 s"


def test_points_of_a_grid_are_labelled_by_what_their_series_does_not_name():
    grid = {"latent.channels": 8, "decoder.weighting.loss_factor": 1.7}
    mean = Mean("channels8_loss_factor1.7", "tiny channels=8", "tiny", grid, {}, {}, {}, {}, 1)
    assert plots._label(mean) == "loss factor 1.7"
    assert plots._label(replace(mean, point="baseline")) == "baseline"
