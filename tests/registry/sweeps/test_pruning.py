"""Early stopping of a sweep's points: which are stopped, what is compared, and restarts after a kill."""

import copy
import warnings

import pytest

from ulzoo.registry.sweeps.jobs import JobOptions, plan_jobs, unsettled_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.pruning import Pruner, StoppedEarly, comparison_key
from ulzoo.registry.sweeps.store import Store

STEPS = 9


@pytest.fixture
def planned(images, request, tmp_path):
    """planned(*settings): jobs to be pruned, over tests/tiny.yaml with nine steps a stage."""

    def planned(*settings, prune=True):
        tiny = request.config.rootpath / "tests" / "tiny.yaml"
        short = [f"train.{stage}.{key}" for stage in ("latents", "base") for key in (f"steps={STEPS}", "log_every=1")]
        sweep, overrides = sweep_from_options(str(tiny), {}, [f"data.root={images}", *short, *settings])
        return plan_jobs(sweep, Store(tmp_path / "store"), JobOptions(prune=prune), overrides=overrides)

    return planned


def row(step: int, loss: float, bits: float = 1.0) -> dict:
    return {"stage": "latents", "step": step, "loss": loss, "rate_bits_per_pixel": bits}


def last_step(job, loss: float, bits: float = 1.0, start: int = 1, stop: int = STEPS) -> int:
    """The step at which a point with this loss is stopped, or the last."""
    pruner = Pruner(job)
    for step in range(start, stop + 1):
        try:
            pruner.report(row(step, loss, bits))
        except StoppedEarly:
            return step
    return stop


def test_the_best_third_continues(planned, tmp_path):
    jobs = planned("latent.channels=2,4,8,16")
    (tmp_path / "store").mkdir()
    assert [last_step(job, loss) for job, loss in zip(jobs, (2.0, 3.0, 1.0, 2.5), strict=True)] == [STEPS, 1, STEPS, 1]


def test_a_point_can_fall_behind_later(planned, tmp_path):
    first, second = planned("latent.channels=2,4")
    (tmp_path / "store").mkdir()
    pruner = Pruner(first)
    for step in range(1, STEPS + 1):
        pruner.report(row(step, 2.0 - 0.1 * step))
    pruner = Pruner(second)
    pruner.report(row(1, 1.8))
    pruner.report(row(2, 1.9))
    with pytest.raises(StoppedEarly, match=r"step 3: its loss, 1\.9, is behind those of 1 comparable points"):
        pruner.report(row(3, 1.9))


def test_points_with_different_losses_are_not_compared(planned, tmp_path):
    jobs = planned("decoder.weighting.loss_factor=1.5,2.0")
    (tmp_path / "store").mkdir()
    assert [last_step(job, loss) for job, loss in zip(jobs, (1.0, 9.0), strict=True)] == [STEPS, STEPS]
    assert comparison_key(jobs[0].spec) != comparison_key(jobs[1].spec)
    channels = planned("latent.channels=2,4")
    assert comparison_key(channels[0].spec) == comparison_key(channels[1].spec)
    longer = copy.deepcopy(channels[0].spec)
    longer["train"]["latents"]["steps"] += 1
    assert comparison_key(longer) != comparison_key(channels[0].spec)


def test_a_collapsed_latent_is_stopped_without_a_comparison(planned, tmp_path):
    (job,) = planned("latent.channels=2,4")[:1]
    (tmp_path / "store").mkdir()
    assert last_step(job, 1.0, bits=1e-4) == 3


def test_a_killed_point_resumes_its_trial(planned, tmp_path):
    first, second = planned("latent.channels=2,4")
    (tmp_path / "store").mkdir()
    last_step(first, 1.0)
    last_step(second, 0.9, stop=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of steps that are reported twice
        assert last_step(second, 0.9) == STEPS
    assert len(Pruner(planned("latent.channels=8,4")[0]).study.trials) == 3


def test_a_stopped_point_is_a_row_and_resumes_without_pruning(planned, tmp_path):
    bad = "train.latents.lr=1.0e-3,1.0"
    rows = [run_point(job) for job in planned(bad)]
    assert [row["status"] for row in rows] == ["done", "stopped"]
    assert rows[1]["error"].startswith("step ") and rows[1]["figures"] == {}
    assert not unsettled_jobs(planned(bad), rows)
    (again,) = unsettled_jobs(planned(bad, prune=False), rows)
    assert again.point == rows[1]["point"] and run_point(again)["status"] in ("done", "failed")
    assert not unsettled_jobs(planned(bad), Store(tmp_path / "store").rows())
