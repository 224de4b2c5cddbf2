"""One point of a sweep: its row, its errors, its lock, and a stage 1 that another point has trained."""

import json
import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from ulzoo.files.atomic import sha256
from ulzoo.registry import open_model
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs import stopwatch
from ulzoo.registry.runs.export import save_export
from ulzoo.registry.runs.train import train
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.sweeps import point as point_module
from ulzoo.registry.sweeps.jobs import JobOptions, plan_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import PointBusy, acquire_lock, run_point
from ulzoo.registry.sweeps.store import VARYING, Store
from ulzoo.training.checkpoint import Checkpoint

SHORT = [
    *(f"train.{stage}.{key}" for stage in ("latents", "base") for key in ("steps=4", "checkpoint_every=2")),
    "train.latents.log_every=1",
]


@pytest.fixture
def jobs(images, request, tmp_path):
    """jobs(*settings): jobs of a sweep over tests/tiny.yaml; every `store` is a separate folder."""
    torch.set_num_threads(1)

    def jobs(*settings, store="store", **options):
        tiny = request.config.rootpath / "tests" / "tiny.yaml"
        sweep, overrides = sweep_from_options(str(tiny), {}, [f"data.root={images}", *SHORT, *settings])
        return plan_jobs(sweep, Store(tmp_path / store), JobOptions(**options), overrides=overrides)

    return jobs


def same(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in VARYING}


def test_a_row_describes_what_was_trained_and_measured(jobs, tmp_path):
    job = jobs("latent.channels=4,8")[1]
    steps = []
    row = run_point(job, lambda *progress: steps.append(progress[:3]))
    assert Store(tmp_path / "store").rows() == [row]
    assert json.loads(json.dumps(row)) == row
    assert (row["status"], row["error"], row["point"]) == ("done", None, "channels8")
    results = train(spec_from_dict(job.spec), tmp_path / "alone").results
    assert row["figures"] == results["figures"] and row["protocol"] == results["protocol"]
    assert row["folder"] == job.folder and (tmp_path / "store" / row["folder"] / "model.safetensors").is_file()
    assert row["training_images"] == {"latents": 32, "base": 32}
    assert [(stage, step) for stage, step, _ in steps] == [(s, n) for s in ("latents", "base") for n in range(5)]
    assert {"seconds", "finished", "versions", "gflops", "parameters", "training_flops", "series"} <= row.keys()


def test_the_same_point_twice_is_the_same_row(jobs):
    first, second = (run_point(jobs("latent.channels=4,8", store=name)[0]) for name in ("a", "b"))
    assert same(first) == same(second)


@pytest.mark.slow
def test_points_that_start_from_another_model(jobs, tiny, tmp_path):
    """Its SHA-256 is part of their hashes; a base that begins on a shared stage 1 has its weights too."""
    path = tmp_path / "model.safetensors"
    model = compile_model(tiny("train.latents.seed=5"))
    save_export(path, model, tiny(), {})
    settings = (f"init.model={path}", "base.label_dropout=0.1,0.2", "train.base.lr=1e-9", "train.base.weight_decay=0")
    planned = jobs(*settings, reuse_latents=True)
    assert planned[0].latents_hash == planned[1].latents_hash and planned[0].siblings == (planned[1].folder,)
    rows = [run_point(job) for job in planned]
    assert [row["status"] for row in rows] == ["done", "done"], rows
    assert {row["resolved"]["init"]["sha256"] for row in rows} == {open_model(path).weights_sha256}
    first, second = (open_model(tmp_path / "store" / row["folder"]).model.state_dict() for row in rows)
    for name, tensor in model.state_dict().items():
        if name.startswith("base."):
            torch.testing.assert_close(second[name], tensor, atol=1e-6, rtol=0)
        else:
            assert torch.equal(first[name], second[name])
    save_export(path, compile_model(tiny("train.latents.seed=6")), tiny(), {})
    assert planned[0].spec_hash != jobs(*settings)[0].spec_hash
    path.unlink()
    with pytest.raises(ValueError, match=r"init.model.*model.safetensors: no such file"):
        jobs(*settings)
    frozen = ("init={model: emoji32_tiny, freeze: [encoder, prior, decoder]}", "train.latents=null")
    job = jobs(*frozen, "train.base.lr=1e-3,1e-4")[0]
    assert job.stages == ("base",) and job.cost.training_flops.keys() == {"base"}


def test_a_point_that_is_settled_is_not_trained_again(jobs, tmp_path):
    job = jobs("latent.channels=4,8")[0]
    row = run_point(job)
    assert run_point(job) == row
    assert len((tmp_path / "store" / "results.jsonl").read_text().splitlines()) == 1


def test_a_base_is_added_to_an_existing_stage_1(jobs, tmp_path):
    latents = run_point(jobs("latent.channels=4,8", stage="latents")[0])
    assert "base_bits_per_pixel" not in latents["figures"] and latents["stages"] == ["latents"]
    both = run_point(jobs("latent.channels=4,8")[0])
    assert same(both) == same(run_point(jobs("latent.channels=4,8", store="other")[0]))
    assert Store(tmp_path / "store").rows() == [both]


def test_a_point_that_fails_is_a_row_with_its_error(jobs, tmp_path):
    job = jobs("train.latents.lr=1.0e+30,1.0e-3")[0]
    row = run_point(job)
    assert row["status"] == "failed" and row["figures"] == {} and row["checkpoint_sha256"] is None
    assert "\n" not in row["error"] and row["error"].startswith("stage latents, step ")
    assert "NonFiniteLoss" in (tmp_path / "store" / job.folder / "error.txt").read_text()
    again = run_point(jobs("train.latents.lr=1.0e+30,1.0e-3")[0])  # planned after the failure, so it is retried
    assert again["status"] == "failed" and again["finished"] > row["finished"]


def test_the_time_of_a_point_includes_interrupted_processes(jobs, tmp_path, monkeypatch):
    job, clock = jobs("latent.channels=4,8")[0], SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(stopwatch, "time", clock)

    def advance(stage, step, *_):
        clock.now += 10
        if stage == "base" and clock.now < 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_point(job, advance)
    worked = clock.now
    assert worked > 10 and stopwatch.seconds_worked(tmp_path / "store" / job.folder) == worked
    clock.now = 1000.0
    assert run_point(job, advance)["seconds"] == worked + clock.now - 1000


@pytest.mark.parametrize("content", ["", "x", "nan", "-3", "inf"])
def test_a_damaged_time_counts_as_none(tmp_path, content):
    (tmp_path / stopwatch.FILE).write_text(content)
    assert stopwatch.Stopwatch(tmp_path, 5.0).before == 5.0


def test_unexpected_errors(jobs, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(point_module, "train", broken)
    assert run_point(jobs("latent.channels=4,8")[0])["error"] == "RuntimeError: out of memory"

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(point_module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_point(jobs("latent.channels=4,8", store="other")[0])


def test_a_metric_that_is_not_finite_is_a_failure(jobs, monkeypatch):
    monkeypatch.setattr(point_module, "train", lambda *args, **kwargs: object())
    for value in (float("inf"), [1.0, float("inf")]):
        monkeypatch.setattr(point_module, "summarize_run", lambda result, value=value: {"figures": {"psnr_db": value}})
        assert run_point(jobs("latent.channels=4,8")[0])["error"] == f"psnr_db is {value}"


def hold_lock(path, ready, release) -> None:
    with acquire_lock(path, wait=True):
        ready.set()
        release.wait()


@pytest.fixture
def holder():
    """holder(path) locks a file in another process, and returns a function that kills the process."""
    context, processes = multiprocessing.get_context("fork"), []

    def holder(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        ready, release = context.Event(), context.Event()
        process = context.Process(target=hold_lock, args=(path, ready, release))
        process.start()
        processes.append(process)
        assert ready.wait(60)

        def kill() -> None:
            process.kill()
            process.join()

        return kill

    yield holder
    for process in processes:
        process.kill()
        process.join()


def test_a_point_that_another_process_trains(jobs, holder, tmp_path):
    job = jobs("latent.channels=4,8")[0]
    kill = holder(tmp_path / "store" / job.folder / ".lock")
    with pytest.raises(PointBusy):
        run_point(job, wait=False)
    assert not (tmp_path / "store" / "results.jsonl").exists()
    kill()
    assert run_point(job)["status"] == "done"


def test_a_lock_ends_with_its_process(holder, tmp_path):
    kill = holder(tmp_path / "lock")
    with pytest.raises(PointBusy):
        acquire_lock(tmp_path / "lock", wait=False)
    kill()
    acquire_lock(tmp_path / "lock", wait=False).lock.release()
    assert (tmp_path / "lock").exists()


# ---------------------------------------------------------------------------------------------------------- warm starts

BASES = ("base.backbone.depth=1,2",)


def test_a_shared_stage_1_changes_no_bit(jobs, tmp_path, monkeypatch):
    alone = [run_point(job) for job in jobs(*BASES, store="alone")]
    shared = []
    for job in jobs(*BASES, store="shared", reuse_latents=True):
        steps = []
        shared.append(run_point(job, lambda stage, step, *_, steps=steps: steps.append((stage, step))))
        trained = [step for stage, step in steps if stage == "latents"]
        assert trained == ([0, 1, 2, 3, 4] if job.point == "depth1" else [4])
    assert [same(row) for row in shared] == [same(row) for row in alone]
    for row in alone:
        files = [tmp_path / name / row["folder"] / "checkpoints" for name in ("alone", "shared")]
        a, b = ({path.name: path for path in folder.iterdir()} for folder in files)
        assert "latents-00000004" in a.keys() & b.keys()
        for name in a.keys() & b.keys():
            one, other = (Checkpoint.open(folders[name]) for folders in (a, b))
            assert one.metadata == other.metadata
            tensors = one.read(""), other.read("")
            assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
    metrics = [tmp_path / name / alone[1]["folder"] / "metrics.jsonl" for name in ("alone", "shared")]
    losses = [[json.loads(line)["loss"] for line in path.read_text().splitlines()] for path in metrics]
    assert losses[0] == losses[1]


def test_a_stage_1_that_another_process_trains_is_waited_for(jobs, holder, tmp_path):
    first, second = jobs(*BASES, reuse_latents=True)
    kill = holder(tmp_path / "store" / "points" / f".latents-{first.latents_hash}.lock")
    with pytest.raises(PointBusy):
        run_point(second, wait=False)
    kill()
    assert run_point(second, wait=False)["status"] == "done"


def test_the_lock_is_released_when_stage_1_is_finished(jobs, tmp_path):
    first, _ = jobs(*BASES, reuse_latents=True)
    lock = tmp_path / "store" / "points" / f".latents-{first.latents_hash}.lock"
    free = {}

    def check_lock(stage, step, *_):
        free[stage, step] = is_free(lock)

    run_point(first, check_lock)
    assert not free["latents", 1] and not free["latents", 4] and free["base", 0]


def is_free(path) -> bool:
    try:
        acquire_lock(path, wait=False).lock.release()
    except PointBusy:
        return False
    return True


def test_a_damaged_stage_1_is_not_reused(jobs, tmp_path):
    first, second = jobs(*BASES, reuse_latents=True)
    run_point(first)
    for path in (tmp_path / "store" / first.folder / "checkpoints").glob("latents-*/*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="does not match its digest"):
        row = run_point(second)
    assert same(row) == same(run_point(jobs(*BASES, store="alone")[1]))


def test_points_with_different_latents_share_nothing(jobs):
    for job in jobs("latent.channels=4,8", reuse_latents=True):
        steps = []
        run_point(job, lambda stage, step, *_, steps=steps: steps.append((stage, step)))
        assert ("latents", 1) in steps


def test_the_digest_is_that_of_the_content(jobs, tmp_path):
    """The header of a file has no fixed order, so the row contains the digest that is stored in the file."""
    row = run_point(jobs("latent.channels=4,8")[0])
    assert len(row["checkpoint_sha256"]) == len(sha256(tmp_path / "store" / row["folder"] / "model.safetensors")) == 64
