"""Variable-rate points of a sweep: measured at several loss factors, a series beside trained points."""

import pytest
import torch

from ulzoo.registry.report.curves import average, curve
from ulzoo.registry.report.html_report import describe
from ulzoo.registry.spec.sweep import load_sweep, result_table
from ulzoo.registry.sweeps import point as point_module
from ulzoo.registry.sweeps.jobs import JobOptions, plan_jobs, unsettled_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.rate_curves import expand_curves
from ulzoo.registry.sweeps.store import Store
from ulzoo.registry.sweeps.variants import separate_variants

SWEEP = """\
name: variable
spec: {spec}
set: {{data.root: {images}, train.latents.steps: 2, sample.decoder.steps: 1}}
columns: [bits_per_pixel, psnr_db]
loss_factors: [1, 2, 4]
points:
  "3": {{set: {{decoder.weighting.loss_factor: 3}}}}
  variable: {{set: {{decoder.weighting.loss_factor: [1, 4]}}}}
"""


@pytest.fixture
def plan(images, request, tmp_path):
    """plan(old, new): sweep and jobs of stage 1 after a change of the sweep's file."""
    torch.set_num_threads(1)

    def plan(old="", new=""):
        path = tmp_path / "sweep.yaml"
        text = SWEEP.format(spec=request.config.rootpath / "tests" / "tiny.yaml", images=images)
        path.write_text(text.replace(old, new))
        sweep = load_sweep(path)
        return sweep, plan_jobs(sweep, Store(tmp_path / "store"), JobOptions(stage="latents"))

    return plan


def test_a_point_is_measured_as_a_curve_and_again_without_training(plan, tmp_path, monkeypatch):
    sweep, jobs = plan()
    store = Store(tmp_path / "store")
    rows = [run_point(job) for job in jobs]
    assert store.rows() == rows and not unsettled_jobs(jobs, rows)
    assert "curve" not in rows[0] and [job.loss_factors for job in jobs] == [(), (1, 2, 4)]
    entries = rows[1]["curve"]
    assert [entry["loss_factor"] for entry in entries] == [entry["protocol"]["loss_factor"] for entry in entries]
    assert entries[1]["figures"] == rows[1]["figures"]  # 2 is the default
    table = result_table(sweep, rows)
    assert [(entry["point"], entry["runs"]) for entry in table] == [
        ("3", 1), ("variable@1", 1), ("variable@2", 1), ("variable@4", 1)
    ]  # fmt: skip

    monkeypatch.setattr(point_module, "train", None)  # is not called
    _, jobs = plan("[1, 2, 4]", "[1, 4]")
    (job,) = unsettled_jobs(jobs, rows)
    row = run_point(job)
    assert row["curve"] == [entries[0], entries[2]] and row["figures"] == rows[1]["figures"]
    assert store.rows() == [rows[0], row]

    store.write_sweep(sweep)
    page = describe(store)
    assert page["series"] == ["tiny", "tiny loss_factor=1-4"] and len(page["rows"]) == 3 and len(page["protocols"]) == 1
    assert {tile["name"]: tile["value"] for tile in page["tiles"]}["runs"] == "2" and not page["notices"]


def test_seeds_of_a_curve_are_averaged_by_loss_factor():
    settings = {"decoder.weighting.loss_factor": [1, 4]}
    rows = [
        {
            **{"point": "v", "series": "s", "spec": "s", "seed": seed, "set": settings, "spec_hash": str(seed)},
            **{"status": "done", "figures": {"bits_per_pixel": 9.0}, "resolved": {"data": {}}, "protocol": {}},
            "curve": [
                {"loss_factor": factor, "figures": {"bits_per_pixel": factor + seed, "psnr_db": 10 * factor}}
                | {"protocol": {"seed": 0, "loss_factor": factor, "generated": {"loss_factor": factor}}}
                for factor in (1, 4)
            ],
        }
        for seed in (0, 1)
    ]
    expanded = expand_curves(separate_variants(rows))
    assert all(row["protocol"] == {"seed": 0, "generated": {}} for row in expanded)
    (means,) = average(expanded).values()
    assert [(mean.point, mean.rows, mean.set) for mean in means] == [
        (f"v@{factor}", 2, {"decoder.weighting.loss_factor": factor}) for factor in (1, 4)
    ]
    assert curve(means) == [(1.5, 10), (4.5, 40)]


def test_loss_factors_that_fit_no_point(plan):
    with pytest.raises(ValueError, match=r"loss_factor: does not contain all of the sweep's loss_factors, 1, 2, 5"):
        plan("[1, 2, 4]", "[1, 2, 5]")
    with pytest.raises(ValueError, match="loss_factors: no point has a range"):
        plan("[1, 4]}", "2}")
    with pytest.raises(ValueError, match=r"sweep.yaml:5: loss_factors.1: loss factors must be positive numbers"):
        plan("[1, 2, 4]", "[2, 1, 4]")


def test_a_range_on_the_command_line(request, images, tmp_path):
    tiny = str(request.config.rootpath / "tests" / "tiny.yaml")
    sweep, overrides = sweep_from_options(tiny, {"--loss-factor": "3,[1,4]"}, [f"data.root={images}"])
    jobs = plan_jobs(sweep, Store(tmp_path / "store"), overrides=overrides)
    assert [(job.point, job.series, job.loss_factors) for job in jobs] == [
        ("loss_factor3", "tiny", ()),
        ("loss_factor1-4", "tiny loss_factor=1-4", (1, 1.414, 2, 2.828, 4)),
    ]
