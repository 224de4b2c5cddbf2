"""A point that several processes train: the row of a single process, its interruption, and its errors."""

import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch

from ulzoo.registry.sweeps import ranks
from ulzoo.registry.sweeps.engine_local import LocalEngine, worker_devices
from ulzoo.registry.sweeps.jobs import JobOptions, plan_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.ranks import RankKilled
from ulzoo.registry.sweeps.store import VARYING, Store

SHORT = [
    *(f"train.{stage}.{key}" for stage in ("latents", "base") for key in ("steps=4", "checkpoint_every=2")),
    "train.latents.log_every=1",
    "prior.backbone.dropout=0",
    "decoder.backbone.dropout=0",
]


@pytest.fixture
def planned(images, request, tmp_path, forkserver, monkeypatch):
    """planned(*settings): the first job of a sweep over tests/tiny.yaml, on two processes unless `devices` says so."""
    monkeypatch.setattr(ranks, "_SPAWN", forkserver)
    torch.set_num_threads(1)

    def planned(*settings, store="store", devices=("cpu", "cpu"), **options):
        tiny = request.config.rootpath / "tests" / "tiny.yaml"
        sweep, overrides = sweep_from_options(str(tiny), {}, [f"data.root={images}", *SHORT, *settings], seeds=2)
        planned_options = JobOptions(processes=len(devices), **options)
        job = plan_jobs(sweep, Store(tmp_path / store), planned_options, overrides=overrides)[0]
        return replace(job, devices=devices)

    return planned


@pytest.mark.slow
def test_an_interrupted_point_resumes_to_the_row_of_a_single_process(planned, tmp_path):
    one = run_point(planned(store="one", devices=("cpu",)))

    def kill_one(stage, step, *_):
        if step == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    def interrupt(stage, step, *_):
        if stage == "base" and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    for stop, reason in ((kill_one, RankKilled), (interrupt, KeyboardInterrupt)):
        with pytest.raises(reason):
            run_point(planned(), stop)
        assert not Store(tmp_path / "store").rows() and not multiprocessing.active_children()
    steps = []
    row = run_point(planned(), lambda *progress: steps.append(progress[:3]))
    assert row["error"] is None and {stage for stage, *_ in steps} == {"base"} and steps[-1][1:] == (4, 4)
    for name in ("bits_per_pixel", "base_bits_per_pixel", "psnr_db"):
        assert row["figures"][name] == pytest.approx(one["figures"][name], rel=1e-3)
    ignored = {*VARYING, "figures", "checkpoint_sha256"}
    assert {k: v for k, v in row.items() if k not in ignored} == {k: v for k, v in one.items() if k not in ignored}


@pytest.mark.slow
def test_an_error_of_the_processes_is_a_row(planned, tmp_path):
    job = planned("train.latents.lr=1.0e+30")
    row = run_point(job)
    assert row["status"] == "failed" and row["error"].startswith("stage latents, step ")
    assert "NonFiniteLoss" in (tmp_path / "store" / job.folder / "error.txt").read_text()


def test_what_cannot_be_trained_jointly_is_refused_before_training(planned, monkeypatch):
    with pytest.raises(ValueError, match=r"train.latents.batch_size: 8 cannot be shared by 3 processes; 6 or 9 can"):
        planned(devices=("cpu",) * 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert worker_devices(None, None, 9, 2)[0] == [f"cuda:{i}" for i in range(4)]
    assert worker_devices(None, 2, 1, 2)[0] == ["cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match=r"^3 × 2 devices per point are 6 devices: there are 5$"):
        worker_devices(None, 3, 9, 2)
    with pytest.raises(ValueError, match=r"^1 × 2 devices per point are 2 devices: there is 1, cuda:1$"):
        worker_devices("cuda:1", None, 9, 2)
    assert worker_devices("cpu", 2, 9, 2)[0] == ["cpu"] * 4
    assert LocalEngine(["a", "b", "c", "d"], per_point=2).devices == [("a", "b"), ("c", "d")]
