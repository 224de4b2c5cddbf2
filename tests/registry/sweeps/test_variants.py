"""Rows that are seeds of one training, and series of rows that differ in anything else."""

import json
import re
import shutil

import pytest

from ulzoo.registry.report.curves import average
from ulzoo.registry.report.html_report import describe
from ulzoo.registry.report.target_search import find_settings
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.sweeps.jobs import JobOptions, plan_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import make_row
from ulzoo.registry.sweeps.store import Store
from ulzoo.registry.sweeps.variants import separate_variants, settings_to_add

FACTOR, STEPS = "decoder.weighting.loss_factor", "train.latents.steps"
OLD_ROWS = ("without run directories", "with run directories", "new")


@pytest.fixture
def plan(tmp_path):
    """plan(*settings, target=…, seeds=…): rows of a sweep in one store; PSNR is that of the last setting of steps."""

    def plan(*settings, target="emoji32_tiny", seeds=1, psnr=8.79, images=None):
        sweep, overrides = sweep_from_options(str(target), {}, settings, seeds)
        store = Store(tmp_path / "store")
        jobs = plan_jobs(sweep, store, JobOptions(seeds=seeds), overrides=overrides)
        for number, job in enumerate(jobs):
            figures = {"psnr_db": psnr + 2 * number, "bits_per_pixel": 0.1 + number}
            protocol = {"fingerprint": images} if images else {}
            store.append(make_row(job, 1.0, figures=figures, protocol=protocol))
            (store.folder / job.folder).mkdir(parents=True, exist_ok=True)
            (store.folder / job.folder / "spec.yaml").write_text(spec_from_dict(job.spec).to_yaml())
        return store

    return plan


def age(store: Store, version: str) -> None:
    """Rewrite the rows as an earlier version wrote them."""
    if version == "new":
        return
    rows = [{k: v for k, v in row.items() if k not in ("overrides", "resolved")} for row in store.rows()]
    store.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if version == "without run directories":
        shutil.rmtree(store.points)


@pytest.mark.parametrize("version", OLD_ROWS)
def test_another_setting_is_another_series_and_no_seed(plan, version):
    plan(f"{STEPS}=4", f"{FACTOR}=1.5,1.7", psnr=8.79)
    store = plan(f"{STEPS}=40", f"{FACTOR}=1.5,1.7", psnr=11.39)
    age(store, version)
    means = average(separate_variants(store.rows(), store.folder))
    values = [[mean.metrics["psnr_db"] for mean in series] for series in means.values()]
    assert values == [pytest.approx([8.79, 10.79]), pytest.approx([11.39, 13.39])]
    assert all(mean.rows == 1 and not mean.spread for series in means.values() for mean in series)
    if version != "without run directories":
        assert list(means) == ["emoji32_tiny steps=4", "emoji32_tiny steps=40"]
    data = describe(store)
    assert data["series"] == list(means) and len({(row["point"], row["training"]) for row in data["rows"]}) == 4
    result = find_settings(separate_variants(store.rows(), store.folder), psnr=9.5)
    assert (result.low, result.high) == pytest.approx((8.79, 13.39))


@pytest.mark.parametrize("version", OLD_ROWS)
def test_seeds_are_averaged_whatever_command_trained_them(plan, version):
    plan(f"{FACTOR}=1.5,1.7")
    store = plan(f"{FACTOR}=1.5,1.7", seeds=3)
    age(store, version)
    (series,) = average(separate_variants(store.rows(), store.folder)).values()
    assert [mean.rows for mean in series] == [3, 3]


def test_seeds_of_any_stage_are_seeds(plan):
    plan(f"{FACTOR}=1.5,1.7", "train.base.seed=5")
    store = plan(f"{FACTOR}=1.5,1.7", "train.base.seed=6")
    (series,) = average(store.rows()).values()
    assert [mean.rows for mean in series] == [2, 2]


def test_points_on_other_images_are_another_series(plan):
    """The images were replaced before the second seed was trained."""
    images = {"examples": 4, "content": "ab"}
    store = plan(f"{STEPS}=4", seeds=2, images=images)

    def series(second: dict) -> dict[str, list[int]]:
        rows = store.rows()
        next(row for row in rows if row["seed"] == 1)["protocol"] = second
        means = average(separate_variants(rows, store.folder))
        return {name.partition("images=")[2]: [mean.rows for mean in points] for name, points in means.items()}

    assert series({"fingerprint": images}) == {"": [2]}
    other = series({"fingerprint": {**images, "content": "cd"}})
    assert list(other.values()) == [[1], [1]] and all(re.fullmatch("[0-9a-f]{6}", name) for name in other)
    assert series({})["unknown"] == [1]  # a row of an earlier version


def test_images_of_another_resolution_are_expected(plan):
    plan("data.resolution=32", f"{FACTOR}=1.5,1.7", images={"examples": 4, "content": "ab"})
    store = plan("data.resolution=64", f"{FACTOR}=1.5,1.7", images={"examples": 4, "content": "cd"})
    names = ["emoji32_tiny resolution=32", "emoji32_tiny resolution=64"]
    assert list(average(separate_variants(store.rows(), store.folder))) == names


def test_points_of_the_same_sweep_stay_on_one_curve(plan, tmp_path):
    """A point without the key of the line, and one that sets another kind."""
    (tmp_path / "s.yaml").write_text(
        "name: s\nspec: emoji32_tiny\ncolumns: [psnr_db]\nset: {latent.logsnr: 5}\n"
        f"points: {{plain: {{}}, more: {{set: {{{FACTOR}: 1.7}}}}}}\n"
    )
    store = plan(target=tmp_path / "s.yaml")
    assert {name: len(means) for name, means in average(store.rows()).items()} == {"emoji32_tiny": 2}


def test_an_edited_base_spec_is_another_series(plan, tmp_path):
    spec = tmp_path / "own.yaml"
    spec.write_text("extends: emoji32_tiny\nname: own\ntrain: {latents: {steps: 7}}\n")
    plan(f"{FACTOR}=1.5,1.7", target=spec)
    spec.write_text("extends: emoji32_tiny\nname: own\ntrain: {latents: {steps: 9}}\ndescription: edited\n")
    store = plan(f"{FACTOR}=1.7,1.9", target=spec)
    means = average(store.rows())
    assert {name: [mean.point for mean in series] for name, series in means.items()} == {
        "own steps=7": ["loss_factor1.5", "loss_factor1.7"],
        "own steps=9": ["loss_factor1.7", "loss_factor1.9"],
    }
    (before, _), (after, _) = means.values()
    assert settings_to_add(str(spec), {FACTOR: 1.6}, FACTOR, before.resolved) == {STEPS: 7}
    assert settings_to_add(str(spec), {FACTOR: 1.6}, FACTOR, after.resolved) == {}
    spec.unlink()
    assert settings_to_add(str(spec), {FACTOR: 1.6}, FACTOR, before.resolved) == {}


def test_a_named_point_whose_settings_were_edited_is_not_averaged(plan, tmp_path):
    file = tmp_path / "s.yaml"
    for factor in (1.5, 1.7):
        file.write_text(
            f"name: s\nspec: emoji32_tiny\ncolumns: [psnr_db]\npoints: {{a: {{set: {{{FACTOR}: {factor}}}}}}}\n"
        )
        store = plan(target=file)
    (means,) = average(store.rows()).values()
    assert [(mean.point, mean.rows, mean.set[FACTOR]) for mean in means] == [("a", 1, 1.5), ("a", 1, 1.7)]


def test_an_override_of_a_points_own_key_is_not_a_point_of_the_line(plan):
    plan("latent.channels=4,8")
    store = plan(f"{FACTOR}=1.5,1.7", "latent.channels=8")
    assert len(average(store.rows())) == 2


def test_a_setting_that_was_removed(plan):
    store = plan("base=null", "train.base=null", f"{FACTOR}=1.5,1.7")
    row = store.rows()[0]
    assert row["overrides"] == {"base": None, "train.base": None}
    added = settings_to_add("emoji32_tiny", {FACTOR: 1.6}, FACTOR, row["resolved"])
    assert (
        added["base"] is None and settings_to_add("emoji32_tiny", {FACTOR: 1.6, **added}, FACTOR, row["resolved"]) == {}
    )


def test_separated_rows_are_unchanged(plan):
    plan(f"{STEPS}=4", f"{FACTOR}=1.5,1.7")
    rows = separate_variants(plan(f"{STEPS}=40", f"{FACTOR}=1.5,1.7").rows())
    assert separate_variants(rows) == rows
