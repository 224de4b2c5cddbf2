"""Distances of a sweep's points: measured if requested, also for points that are already trained."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ulzoo.evaluation.features import clip as clip_features
from ulzoo.evaluation.features.clip import CLIPS
from ulzoo.registry.sweeps import point as point_module
from ulzoo.registry.sweeps.distances import DistanceConfig
from ulzoo.registry.sweeps.jobs import JobOptions, plan_jobs, unsettled_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.pruning import import_optuna
from ulzoo.registry.sweeps.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:.*dimensions it is far too large")
LITE = DistanceConfig("fd_efficientnet_lite0", samples=4)


@pytest.fixture
def planned(images, request, tmp_path):
    def planned(*settings, spec="tiny.yaml", **options):
        path = request.config.rootpath / "tests" / spec
        short = [f"train.{stage}.steps=2" for stage in ("latents", "base")]
        root = [f"data.root={images}"] if spec == "tiny.yaml" else []
        sweep, overrides = sweep_from_options(str(path), {}, [*root, *short, *settings], seeds=2)
        return plan_jobs(sweep, Store(tmp_path / "store"), JobOptions(**options), overrides=overrides)

    return planned


def test_distances_are_added_to_a_trained_point(planned, monkeypatch, tmp_path):
    trained = run_point(planned()[0])
    job = planned(distances=LITE)[0]
    assert unsettled_jobs([job], [trained]) == [job] and trained["distances"] is None
    monkeypatch.setattr(point_module, "train", None)  # nothing is trained again
    row = run_point(job)
    assert row["figures"] == trained["figures"] | {
        name: row["figures"][name] for name in ("rfd_efficientnet_lite0", "gfd_efficientnet_lite0")
    }
    assert row["protocol"]["generated"]["samples"] == 4 and row["checkpoint_sha256"] == trained["checkpoint_sha256"]
    assert Store(tmp_path / "store").rows() == [row]
    assert not unsettled_jobs([job], [row]) and not unsettled_jobs(planned()[:1], [row])
    assert unsettled_jobs(planned(distances=DistanceConfig("fd_efficientnet_lite0", samples=5))[:1], [row])


def test_the_clip_score_of_captioned_emoji(clip_weights, monkeypatch, tmp_path):
    path, digest = clip_weights
    monkeypatch.setitem(clip_features.CLIPS, "vit_b32", replace(CLIPS["vit_b32"], sha256=digest, cached=str(path)))
    config = DistanceConfig("fd_efficientnet_lite0", samples=4, clip_score="vit_b32")
    keys = ["data.captions=true", "base.class_conditional=false", "base.text_conditional=true"]
    short = [f"train.{stage}.{key}" for stage in ("latents", "base") for key in ("steps=1", "batch_size=2")]
    thin = [f"{network}.depth=1" for network in ("encoder", *(f"{n}.backbone" for n in ("prior", "decoder", "base")))]
    sweep, overrides = sweep_from_options("emoji32_tiny", {}, [*keys, *short, *thin], seeds=2)
    monkeypatch.setattr("ulzoo.registry.runs.train.EVALUATED_IMAGES", 2)
    jobs = plan_jobs(sweep, Store(tmp_path / "store"), JobOptions(distances=config), overrides=overrides)
    row = run_point(jobs[0])
    assert row["error"] is None and 0 <= row["figures"]["clip_score"] <= 100
    assert row["protocol"]["captioned"]["network_sha256"] == digest and row["distances"]["clip_score"] == "vit_b32"
    assert "clip_score" not in LITE.identity(), "rows of earlier versions stay settled"
    with pytest.raises(ValueError, match=r"base.text_conditional: --clip-score needs a base with captions"):
        sweep, _ = sweep_from_options("emoji32_tiny", {}, [], seeds=2)
        plan_jobs(sweep, Store(tmp_path / "store"), JobOptions(distances=config))


def test_distances_that_cannot_be_measured_are_errors_before_training(planned, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="data: --frechet fd_efficientnet_lite0 compares images"):
        planned(spec="tiny_video.yaml", distances=LITE)
    with pytest.raises(ValueError, match="base: --samples needs all stages, not --stage latents"):
        planned(stage="latents", distances=LITE)
    for options, words in (
        ((None, 4, None), "--samples and --detector go with --frechet"),
        (("fd_efficientnet_lite0", None, Path("x")), "--detector gives Inception's weights"),
        (("fid", None, tmp_path / "x.pth"), "no such file"),
        (("fid", None, None, "vit_l14"), "--clip-score goes with --frechet and --samples"),
    ):
        with pytest.raises(ValueError, match=words):
            DistanceConfig.from_options(*options)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"--prune needs the package optuna: pip install 'ulzoo\[prune\]'"):
        import_optuna()
