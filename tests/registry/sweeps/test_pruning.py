"""Early stopping of a sweep's points: who is stopped, what is compared, and that the journal outlives a kill."""

import copy
import warnings

import pytest

from ulzoo.registry.sweeps.jobs import plan_jobs, to_run
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.pruning import Pruner, Stopped, comparable
from ulzoo.registry.sweeps.store import Store

STEPS = 9


@pytest.fixture
def planned(images, request, tmp_path):
    """planned(*settings): jobs to be pruned, over tests/tiny.yaml with nine steps a stage."""

    def planned(*settings, prune=True):
        tiny = request.config.rootpath / "tests" / "tiny.yaml"
        short = [f"train.{stage}.{key}" for stage in ("latents", "base") for key in (f"steps={STEPS}", "log_every=1")]
        sweep, overrides = sweep_from_options(str(tiny), {}, [f"data.root={images}", *short, *settings])
        return plan_jobs(sweep, Store(tmp_path / "store"), overrides=overrides, prune=prune)

    return planned


def row(step: int, loss: float, bits: float = 1.0) -> dict:
    return {"stage": "latents", "step": step, "loss": loss, "rate_bits_per_pixel": bits}


def told(job, loss: float, bits: float = 1.0, start: int = 1, stop: int = STEPS) -> int:
    """The step at which a point with this loss is stopped, or the last."""
    pruner = Pruner(job)
    for step in range(start, stop + 1):
        try:
            pruner.hear(row(step, loss, bits))
        except Stopped:
            return step
    return stop


def test_the_better_third_goes_on(planned, tmp_path):
    jobs = planned("latent.channels=2,4,8,16")
    (tmp_path / "store").mkdir()
    assert [told(job, loss) for job, loss in zip(jobs, (2.0, 3.0, 1.0, 2.5), strict=True)] == [STEPS, 1, STEPS, 1]


def test_a_point_can_fall_behind_later(planned, tmp_path):
    first, second = planned("latent.channels=2,4")
    (tmp_path / "store").mkdir()
    pruner = Pruner(first)
    for step in range(1, STEPS + 1):
        pruner.hear(row(step, 2.0 - 0.1 * step))
    pruner = Pruner(second)
    pruner.hear(row(1, 1.8))
    pruner.hear(row(2, 1.9))
    with pytest.raises(Stopped, match=r"step 3: its loss, 1\.9, is behind that of the 1 points like it"):
        pruner.hear(row(3, 1.9))


def test_points_whose_losses_mean_other_things_are_not_compared(planned, tmp_path):
    jobs = planned("decoder.weighting.loss_factor=1.5,2.0")
    (tmp_path / "store").mkdir()
    assert [told(job, loss) for job, loss in zip(jobs, (1.0, 9.0), strict=True)] == [STEPS, STEPS]
    assert comparable(jobs[0].spec) != comparable(jobs[1].spec)
    channels = planned("latent.channels=2,4")
    assert comparable(channels[0].spec) == comparable(channels[1].spec)
    longer = copy.deepcopy(channels[0].spec)
    longer["train"]["latents"]["steps"] += 1
    assert comparable(longer) != comparable(channels[0].spec)


def test_a_collapsed_latent_is_stopped_though_it_is_alone(planned, tmp_path):
    (job,) = planned("latent.channels=2,4")[:1]
    (tmp_path / "store").mkdir()
    assert told(job, 1.0, bits=1e-4) == 3


def test_a_point_that_was_killed_goes_on_as_the_same_one(planned, tmp_path):
    first, second = planned("latent.channels=2,4")
    (tmp_path / "store").mkdir()
    told(first, 1.0)
    told(second, 0.9, stop=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna's, about steps that were reported before
        assert told(second, 0.9) == STEPS
    assert len(Pruner(planned("latent.channels=8,4")[0]).study.trials) == 3


def test_a_stopped_point_is_a_row_and_goes_on_without_pruning(planned, tmp_path):
    bad = "train.latents.lr=1.0e-3,1.0"
    rows = [run_point(job) for job in planned(bad)]
    assert [row["status"] for row in rows] == ["done", "stopped"]
    assert rows[1]["error"].startswith("step ") and rows[1]["figures"] == {}
    assert not to_run(planned(bad), rows)
    (again,) = to_run(planned(bad, prune=False), rows)
    assert again.point == rows[1]["point"] and run_point(again)["status"] in ("done", "failed")
    assert not to_run(planned(bad), Store(tmp_path / "store").rows())
