"""Jobs of a sweep: seeds, stages, series, cost, and which of them still have to run."""

import pickle

import pytest

from ulzoo.registry import SpecError, load_spec
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.sweeps.jobs import JobOptions, check_data, flops_to_train, plan_jobs, stage1_hash, unsettled_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.store import Store


@pytest.fixture
def plan(tmp_path):
    def plan(settings=(), target="emoji32_tiny", **options):
        sweep, overrides = sweep_from_options(target, {}, settings, options.get("seeds", 1))
        return plan_jobs(sweep, Store(tmp_path / "store"), JobOptions(**options), overrides=overrides)

    return plan


def test_a_job_describes_its_point(plan, tmp_path):
    first, second = plan(["latent.channels=4,8", "train.base.steps=7"])
    spec = load_spec("emoji32_tiny", ["latent.channels=8", "train.base.steps=7"])
    assert second.spec == spec.to_dict() and second.spec_hash == spec.hash
    assert (second.point, second.set, second.seed) == ("channels8", {"latent.channels": 8}, 0)
    assert second.folder == f"points/channels8-{spec.hash[:8]}" and second.store == str(tmp_path / "store")
    assert second.stages == ("latents", "base") and second.spec_name == "emoji32_tiny"
    summary = summarize(spec)
    assert second.cost.parameters == summary.parameters
    assert second.cost.training_images == {"latents": 600 * 32, "base": 7 * 64}
    assert second.cost.training_flops["base"] == 7 * 64 * summary.training_flops("base")
    assert first.cost.parameters != second.cost.parameters
    assert pickle.loads(pickle.dumps(second)) == second
    assert not (tmp_path / "store").exists()


def test_seeds_count_up_in_every_stage(plan):
    jobs = plan(["train.base.seed=5"], seeds=3)
    assert [job.seed for job in jobs] == [0, 1, 2]
    seeds = [(job.spec["train"]["latents"]["seed"], job.spec["train"]["base"]["seed"]) for job in jobs]
    assert seeds == [(0, 5), (1, 6), (2, 7)]
    assert len({job.spec_hash for job in jobs}) == 3
    fewer = plan(["train.base.seed=5"], seeds=2)
    assert [job.spec_hash for job in fewer] == [job.spec_hash for job in jobs[:2]]


def test_stage_latents_omits_the_base(plan):
    (job, _) = plan(["latent.channels=4,8"], stage="latents")
    assert job.stages == ("latents",) and set(job.cost.training_flops) == {"latents"}
    with pytest.raises(ValueError, match="has no stage 'latents'"):
        plan(["base.backbone.patch=2,4"], target="sd_vae512_300g", stage="latents")


def test_series_are_lines_along_the_loss_factor_or_the_most_common_key(plan):
    lines = plan(["decoder.weighting.loss_factor=1.5,2", "latent.channels=4,8"])
    assert {job.series for job in lines} == {"emoji32_tiny channels=4", "emoji32_tiny channels=8"}
    assert {job.series for job in plan(["latent.channels=4,8"])} == {"emoji32_tiny"}
    ablations = {job.point: job.series for job in plan(target="paper/small/table6_ablations")}
    alone = {"baseline", "a-no_prior_gradient", "c-other_data", "d-learned_variance"}
    assert {name for name in ablations if "logsnr10" not in name} == alone
    assert len({ablations[name] for name in alone}) == len(alone)
    assert ablations["b-logsnr10"] == ablations["baseline"]  # they differ in the log-SNR alone
    assert ablations["d-learned_variance_logsnr10"] == ablations["d-learned_variance"]


def test_invalid_points_are_errors_when_the_sweep_is_planned(plan):
    with pytest.raises(SpecError, match=r"--set latent\.downsample="):
        plan(["latent.downsample=[4,4],[5,5]"])
    with pytest.raises(SpecError, match=r"--set decoder\.weighting\.loss_factor=1,-1"):
        plan(["decoder.weighting.loss_factor=1,-1"])


def test_only_missing_points_are_run(plan):
    a, b = plan(["latent.channels=4,8"])
    done = {"spec_hash": a.spec_hash, "status": "done", "stages": ["latents", "base"]}
    assert unsettled_jobs([a, b, a], []) == [a, b]
    assert unsettled_jobs([a, b], [done]) == [b]
    assert unsettled_jobs([a, b], [{**done, "stages": ["latents"]}]) == [a, b]
    failed = {**done, "status": "failed"}
    assert unsettled_jobs([a, b], [failed]) == [b]
    assert unsettled_jobs([a, b], [failed], retry_failed=True) == [a, b]


def test_an_existing_folder_is_reused_whatever_its_name(plan, tmp_path):
    (job,) = plan(seeds=1, settings=["latent.channels=4,8"])[:1]
    existing = tmp_path / "store" / "points" / f"other-{job.spec_hash[:8]}"
    existing.mkdir(parents=True)
    assert plan(["latent.channels=4,8"])[0].folder == f"points/other-{job.spec_hash[:8]}"


def test_names_of_folders_are_safe(plan):
    (job, _) = plan(["data.hflip=true,false", "description=a/b/../ c"])
    assert "/" not in job.folder.removeprefix("points/") and " " not in job.folder


STAGE_1 = ["latent.logsnr=4", "prior.backbone.depth=1", "train.latents.seed=1", "decoder.weighting.bias=1"]
LATER = ["base.backbone.depth=1", "train.base.steps=3", "sample.base.steps=9", "name=x", "description=y"]


@pytest.mark.parametrize("override", STAGE_1 + LATER)
def test_the_hash_of_stage_1(override):
    same = stage1_hash(load_spec("emoji32_tiny")) == stage1_hash(load_spec("emoji32_tiny", [override]))
    assert same == (override in LATER)


def test_siblings_share_stage_1(plan):
    jobs = plan(["base.backbone.depth=1,2", "latent.channels=4,8"], reuse_latents=True)
    folders = {(job.set["base.backbone.depth"], job.set["latent.channels"]): job.folder for job in jobs}
    assert {job.folder: job.siblings for job in jobs} == {
        folders[depth, channels]: (folders[3 - depth, channels],) for depth in (1, 2) for channels in (4, 8)
    }
    assert plan(["base.backbone.depth=1,2"])[0].siblings is None


def test_rows_of_other_folders_are_not_siblings(plan, tmp_path):
    (job,) = plan(["base.backbone.depth=1,2"], reuse_latents=True)[:1]
    for folder in ("../elsewhere", "/etc", "points/../..", None, "points/mine-12345678"):
        row = {"point": "p", "spec_hash": str(folder), "status": "done", "figures": {}, "set": {}, "folder": folder}
        Store(job.store).append({**row, "latents_hash": job.latents_hash})
    (again,) = plan(["base.backbone.depth=1,2"], reuse_latents=True)[:1]
    assert set(again.siblings) == {*job.siblings, "points/mine-12345678"}


def test_a_shared_stage_1_costs_once(plan):
    settings = ["base.backbone.depth=1,2", "latent.channels=4,8"]
    alone, shared = (flops_to_train(plan(settings, reuse_latents=reuse)) for reuse in (False, True))
    assert alone["latents"] == 2 * shared["latents"] and alone["base"] == shared["base"] > 0


def test_data_that_does_not_exist(plan, tmp_path):
    sweep = plan(["latent.channels=16,32", f"data.root={tmp_path / 'nowhere'}"], target="imagenet64_small")
    with pytest.raises(SpecError, match="nowhere"):
        check_data(sweep)
    check_data(plan(["latent.channels=4,8"]))
