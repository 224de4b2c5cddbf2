"""The local engine: workers that die, a parent that is killed, and other processes on the same store."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ulzoo.registry.sweeps import engine_local
from ulzoo.registry.sweeps.engine_local import LocalEngine, worker_devices
from ulzoo.registry.sweeps.jobs import RETRIES, SweepCallback, plan_jobs, unsettled_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import PointBusy, acquire_lock, run_point
from ulzoo.registry.sweeps.store import VARYING, Store

TINY = Path(__file__).parents[2] / "tiny.yaml"
GRID = ["latent.channels=2,3", "decoder.weighting.loss_factor=1,2,3"]
SHORT_BASE = ["train.base.steps=4", "train.base.checkpoint_every=2"]


def plan(images: Path, folder: Path, settings=GRID):
    sweep, overrides = sweep_from_options(str(TINY), {}, [f"data.root={images}", *settings])
    return plan_jobs(sweep, Store(folder), overrides=overrides)


def same(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in VARYING}


@pytest.fixture
def warm_workers(forkserver, monkeypatch) -> None:
    """The engine's workers start in milliseconds; the test of an orphaned one starts them as users do."""
    monkeypatch.setattr(engine_local, "_SPAWN", forkserver)


class Killer(SweepCallback):
    """Kills the worker of a point in stage 1, a given number of times."""

    def __init__(self, times: dict[str, int]) -> None:
        self.left = times
        self.notes: list[str] = []

    def step(self, job, stage, step, steps, images_per_second):
        if stage == "latents" and self.left.get(job.point):
            self.left[job.point] -= 1
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    def note(self, job, message):
        self.notes.append(f"{job.point}: {message}")


@pytest.mark.slow
def test_a_point_whose_worker_dies_resumes_or_fails_without_affecting_others(images, tmp_path, warm_workers):
    """Channels 2: a worker that is killed once is replaced. Channels 3: retries are limited."""
    settings = ["latent.channels=2,3,4", *SHORT_BASE]
    killer = Killer({"channels2": 1, "channels3": 99})
    rows = {
        row["point"]: row for row in LocalEngine(["cpu"], callback=killer).run(plan(images, tmp_path / "a", settings))
    }
    assert Store(tmp_path / "a").rows() == list(rows.values())
    ended = "its process ended by signal 9"
    assert killer.notes == [f"channels{n}: {ended}; restarting from its last checkpoint" for n in (2, *[3] * RETRIES)]
    failed = rows.pop("channels3")
    assert failed["status"] == "failed" and failed["error"] == f"{ended}, 3 times"
    torch.set_num_threads(1)
    two, _, four = plan(images, tmp_path / "b", settings)
    assert {name: same(row) for name, row in rows.items()} == {job.point: same(run_point(job)) for job in (two, four)}


KILL = """
import multiprocessing, os, signal
from pathlib import Path
from ulzoo.registry.sweeps import engine_local
from ulzoo.registry.sweeps.store import Store

report = engine_local._ProgressSender.__call__

def report_and_kill(self, stage, step, *progress):
    report(self, stage, step, *progress)
    if stage == "latents" and step == 12 and len(Store(Path("FOLDER")).rows()) >= ROWS:
        os.kill(os.getppid(), signal.SIGKILL)

engine_local._SPAWN = multiprocessing.get_context("fork")
engine_local._ProgressSender.__call__ = report_and_kill
"""


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_has_the_same_rows_as_an_uninterrupted_one(images, tmp_path, start_command):
    """Six rows without duplicates, equal to those of the uninterrupted sweep except for times."""
    store = Store(tmp_path / "killed")
    settings = [f"--set={text}" for text in (f"data.root={images}", *GRID, *SHORT_BASE)]
    arguments = ["sweep", TINY, *settings, "--out", store.folder, "--device=cpu", "--workers=2"]

    def sweep(rows_before_the_kill: int) -> int:
        kill = KILL.replace("FOLDER", str(store.folder)).replace("ROWS", str(rows_before_the_kill))
        process = start_command(arguments, prepare=kill)
        process.join()
        return process.exitcode

    for least in (1, 3):
        assert sweep(least) == -signal.SIGKILL
        finished = {row["folder"] for row in store.rows()}
        trained = {str(path.parents[1].relative_to(store.folder)) for path in store.points.glob("*/checkpoints/*")}
        assert least <= len(finished) < 6 and trained - finished
    assert sweep(99) == 0
    lines = store.path.read_text().splitlines()
    assert len(lines) == len({json.loads(line)["spec_hash"] for line in lines}) == 6

    torch.set_num_threads(1)
    alone = {row["spec_hash"]: same(row) for row in map(run_point, plan(images, tmp_path / "whole", GRID + SHORT_BASE))}
    assert {row["spec_hash"]: same(row) for row in store.rows()} == alone
    assert unsettled_jobs(plan(images, store.folder, GRID + SHORT_BASE), store.rows()) == []


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(images, tmp_path):
    """The lock of an orphaned process would block the next sweep."""
    command = [sys.executable, "-m", "ulzoo", "sweep", TINY, "--loss-factor=1", f"--set=data.root={images}"]
    command += ["--set=train.latents.steps=100000", "--out", tmp_path / "store", "--device=cpu"]
    (job,) = plan(images, tmp_path / "store", ["train.latents.steps=100000", "decoder.weighting.loss_factor=1,2"])[:1]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not list((tmp_path / "store").glob("points/*/checkpoints/latents-*")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        with pytest.raises(PointBusy):
            run_point(job, wait=False)
        process.kill()
    free = False
    until = time.monotonic() + 120
    while not free and time.monotonic() < until:
        time.sleep(0.1)
        try:
            acquire_lock(tmp_path / "store" / job.folder / ".lock", wait=False).lock.release()
            free = True
        except PointBusy:
            continue
    assert free


@pytest.mark.parametrize(
    ("value", "threads"),
    [("1", (1, 1)), ("2", (2, 2)), ("3,1", (3, 2)), ("99", (8, 2)), ("", (8, 2)), ("many", (8, 2)), ("0", (8, 2))],
)
def test_the_limit_of_threads_of_the_environment(monkeypatch, value, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert tuple(worker_devices("cpu", workers, 9)[1] for workers in (None, 4)) == threads


class Interrupter(SweepCallback):
    """Raises KeyboardInterrupt in the parent at the first step of a stage, as Ctrl-C does."""

    def step(self, job, stage, step, steps, images_per_second):
        if step:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_point_is_not_a_failed_one(images, tmp_path, warm_workers):
    """It has no row, its checkpoint is saved, and the same jobs go on with it. Its time counts from the beginning."""
    settings = ["latent.channels=2,3", "train.latents.steps=80", "train.latents.checkpoint_every=80"]
    jobs = plan(images, tmp_path, settings)
    with pytest.raises(KeyboardInterrupt):
        list(LocalEngine(["cpu"] * 2, callback=Interrupter()).run(jobs))
    store = Store(tmp_path)
    assert store.rows() == [] and not list(store.points.glob("*/error.txt"))
    assert list(store.points.glob("*/checkpoints/latents-*"))
    assert unsettled_jobs(jobs, store.rows()) == jobs
    folder = store.folder / jobs[0].folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".seconds").write_text("1000\n")
    rows = {row["point"]: row for row in LocalEngine(["cpu"]).run(jobs)}
    assert {row["status"] for row in rows.values()} == {"done"}
    assert rows["channels2"]["seconds"] > 1000 > rows["channels3"]["seconds"]


def test_a_worker_without_its_parent_is_interrupted_and_not_failed(images, tmp_path):
    (job, _) = plan(images, tmp_path, ["latent.channels=2,3"])
    sending, receiving = multiprocessing.Pipe()
    receiving.close()
    with pytest.raises(KeyboardInterrupt):
        run_point(job, engine_local._ProgressSender(sending))
    assert Store(tmp_path).rows() == [] and not (tmp_path / job.folder / "error.txt").exists()


def test_jobs_that_other_processes_train_come_last(images, tmp_path):
    a, b, c = plan(images, tmp_path, ["latent.channels=2,3,4"])
    queue = engine_local._JobQueue([a, b, c])
    assert queue.pop() == (a, False)
    queue.defer(a)
    assert queue.pop() == (b, False) and queue.pop() == (c, False)
    queue.defer(c)
    assert queue.pop() == (a, True)  # other processes train all that remain: wait for the first
    queue.defer(a)
    queue.retry_busy()
    assert queue.pop() == (c, False)


def test_a_job_is_retried_twice(images, tmp_path):
    a, b = plan(images, tmp_path, ["latent.channels=2,3"])
    queue = engine_local._JobQueue([b])
    assert queue.retry(a) and queue.pop() == (a, False)
    assert queue.retry(a) and queue.pop() == (a, False)
    assert not queue.retry(a) and queue.pop() == (b, False) and not queue


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert worker_devices("cpu", None, 9) == (["cpu"], 8)
    assert worker_devices("cpu", 3, 9) == (["cpu"] * 3, 2)
    assert worker_devices("cpu", 3, 1) == (["cpu"], 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert worker_devices(None, None, 9)[0] == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda:1", None, 9)[0] == ["cuda:1"]
    assert worker_devices(None, 3, 9)[0] == ["cuda:0", "cuda:1", "cuda:0"]
