"""Distances of a sweep's points: measured if requested, also for points that are already trained."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ulzoo.evaluation.features import clip as clip_features
from ulzoo.evaluation.features.clip import CLIPS
from ulzoo.registry.report.plots import frechet_metrics
from ulzoo.registry.runs.evaluate import DataOptions, DistanceOptions, Evaluation, EvaluationOptions
from ulzoo.registry.spec.sweep import METRICS
from ulzoo.registry.sweeps import point as point_module
from ulzoo.registry.sweeps.distances import DistanceConfig
from ulzoo.registry.sweeps.jobs import JobOptions, plan_jobs, unsettled_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.pruning import import_optuna
from ulzoo.registry.sweeps.store import Store
from ulzoo.registry.zoo.catalogue import open_model

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_distances_of_clips_are_those_of_evaluate(planned, monkeypatch, tmp_path):
    monkeypatch.setattr("ulzoo.registry.runs.train.EVALUATED_CLIPS", 2)
    monkeypatch.setattr("ulzoo.registry.runs.pictures.DRAWN_CLIPS", 1)
    job = planned(spec="tiny_video.yaml", distances=DistanceConfig("fd_transnetv2", clips=3))[0]
    row = run_point(job)
    assert row["error"] is None and row["distances"] == {"network": "fd_transnetv2", "samples": None, "clips": 3}
    loaded = open_model(str(tmp_path / "store" / job.folder))
    distance = DistanceOptions("fd_transnetv2", clips=3)
    options = EvaluationOptions(DataOptions(limit=2), distance, rate_samples=1)
    results = Evaluation.open(loaded, options, torch.device("cpu")).run(loaded.model)
    assert row["figures"]["fd_transnetv2"] == pytest.approx(results["figures"]["fd_transnetv2"], rel=1e-4)
    assert row["protocol"]["frechet"] == results["protocol"]["frechet"]
    assert "fd_transnetv2" in METRICS and frechet_metrics(row["figures"]) == ["fd_transnetv2"]


def test_distances_that_cannot_be_measured_are_errors_before_training(planned, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="data: --frechet fd_efficientnet_lite0 compares images"):
        planned(spec="tiny_video.yaml", distances=LITE)
    with pytest.raises(ValueError, match="data: --frechet fd_transnetv2 compares clips: this is a model of images"):
        planned(distances=DistanceConfig("fd_transnetv2"))
    with pytest.raises(ValueError, match="base: --frechet fd_transnetv2 needs all stages, not --stage latents"):
        planned(spec="tiny_video.yaml", stage="latents", distances=DistanceConfig("fd_transnetv2"))
    with pytest.raises(ValueError, match=r"data.frames: fvd needs clips of at least 10 frames, not 8"):
        planned(spec="tiny_video.yaml", distances=DistanceConfig("fvd"))
    with pytest.raises(ValueError, match="base: --samples needs all stages, not --stage latents"):
        planned(stage="latents", distances=LITE)
    for options, words in (
        ((None, 4, None), "--samples, --clips and --detector go with --frechet"),
        (("fd_transnetv2", 4, None), "--samples goes with --frechet fid or fd_efficientnet_lite0; clips take --clips"),
        (("fid", None, None, None, 4), "--clips goes with --frechet fvd or fd_transnetv2; images take --samples"),
        (("fd_efficientnet_lite0", None, Path("x")), "--detector gives the weights of a detector, so it goes with"),
        (("fvd", None, tmp_path / "x.pt"), "no such file"),
        (("fid", None, tmp_path / "x.pth"), "no such file"),
        (("fid", None, None, "vit_l14"), "--clip-score goes with --frechet and --samples"),
    ):
        with pytest.raises(ValueError, match=words):
            DistanceConfig.from_options(*options)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"--prune needs the package optuna: pip install 'ulzoo\[prune\]'"):
        import_optuna()
