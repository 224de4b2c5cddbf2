"""`ulzoo sweep`: output, files, resuming, and every user error in one line."""

import json
from types import SimpleNamespace

import pytest

from ulzoo.cli.commands.sweep import bind_list_options
from ulzoo.registry.report import curves
from ulzoo.registry.sweeps import estimate
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.store import Store


class InProcess:
    """An engine that trains in this process, so that the fixtures apply."""

    trained: list[str] = []  # noqa: RUF012

    def __init__(self, devices, threads, callback, *, per_point):
        assert devices == ["cpu"] and threads >= 1 and per_point == 1
        self.callback = callback

    def run(self, jobs):
        for job in jobs:
            self.callback.started(job)
            self.trained.append(job.label)
            yield run_point(job, lambda *progress, job=job: self.callback.step(job, *progress[:3], 10.0))


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    monkeypatch.setattr("ulzoo.registry.sweeps.engine_local.LocalEngine", InProcess)
    monkeypatch.setattr(InProcess, "trained", [])
    return InProcess


@pytest.fixture
def sweep(ulzoo, here):
    """sweep(*args) of tiny.yaml in runs/sweeps/tiny, on the CPU."""
    return lambda *args: ulzoo("sweep", "tiny.yaml", "--device", "cpu", *args)


def test_a_sweep_ends_with_a_table_the_front_and_the_report(sweep, here):
    result = sweep("--loss-factor", "1.5,2")
    assert result.exit_code == 0, result.stderr
    cautions = result.stderr.splitlines()  # so short a training does not reach the mean image
    assert len(cautions) == 2 and all("below that of the mean training image" in line for line in cautions)
    assert "2 points to train, 1 at a time on cpu; results in runs/sweeps/tiny" in result.stdout
    for words in ("1/2  loss_factor1.5  ", "2/2  loss_factor2  ", "bits/pixel", "Pareto front", "PSNR"):
        assert words in result.stdout
    assert "report  runs/sweeps/tiny/report.html" in result.stdout
    assert (here / "runs/sweeps/tiny/report.html").is_file()
    store = Store("runs/sweeps/tiny")
    rows = store.rows()
    assert [(row["point"], row["set"]) for row in rows] == [
        (f"loss_factor{value}", {"decoder.weighting.loss_factor": value}) for value in (1.5, 2)
    ]
    assert [point.name for point in store.sweep.list_points()] == ["loss_factor1.5", "loss_factor2"]
    assert [spec.name for _, spec in store.sweep.resolve()] == ["tiny", "tiny"]
    assert curves.pareto(rows)
    assert {path.name for path in (here / "runs/sweeps/tiny").iterdir()} >= {"sweep.yaml", "results.jsonl", "points"}


@pytest.mark.slow
def test_only_new_points_are_run(sweep, engine):
    assert sweep("--loss-factor", "1.5").exit_code == 0
    assert sweep("--loss-factor", "1.5,2", "--seeds", "2").exit_code == 0
    assert engine.trained == ["loss_factor1.5", "loss_factor1.5 seed 1", "loss_factor2", "loss_factor2 seed 1"]
    again = sweep("--loss-factor", "1.5,2", "--seeds", "2")
    assert len(engine.trained) == 4 and "0 points to train, 4 there already" in again.stdout
    assert "±" in again.stdout and "runs" in again.stdout


def test_stage_latents_then_the_base(sweep):
    assert sweep("--loss-factor", "1.5", "--stage", "latents").exit_code == 0
    (row,) = Store("runs/sweeps/tiny").rows()
    assert row["stages"] == ["latents"]
    assert sweep("--loss-factor", "1.5").exit_code == 0
    (row,) = Store("runs/sweeps/tiny").rows()
    assert row["stages"] == ["latents", "base"] and "base_bits_per_pixel" in row["figures"]


@pytest.mark.slow
def test_a_failed_point_does_not_affect_others_and_is_recorded(sweep, engine):
    options = ("--set", "train.latents.lr=1.0e+30,1.0e-3", "--set", "train.latents.steps=5")
    result = sweep(*options)
    assert result.exit_code == 1
    first, second = (line for line in result.stderr.splitlines() if not line.startswith("caution: "))
    assert first.startswith("failed: lr1e+30: stage latents, step ") and "runs/sweeps/tiny/points/lr1e-30-" in first
    assert second == "1 of 2 points failed; --retry-failed runs them again"
    assert "report" in result.stdout
    assert [row["status"] for row in Store("runs/sweeps/tiny").rows()] == ["failed", "done"]
    again = sweep(*options)
    assert again.exit_code == 1 and again.stderr == result.stderr and len(engine.trained) == 2
    assert sweep(*options, "--retry-failed").exit_code == 1
    assert engine.trained == ["lr1e+30", "lr0.001", "lr1e+30"]


def test_results_are_shown_beside_the_papers(ulzoo, here):
    (here / "sweep.yaml").write_text(
        "name: mine\nspec: tiny.yaml\ncolumns: [bits_per_pixel, psnr_db, rfid_50k]\n"
        "points: {a: {set: {latent.channels: 2}, paper: {psnr_db: 27.6, rfid_50k: 0.47}}, b: {}, same_as_b: {}}\n"
    )
    result = ulzoo("sweep", "sweep.yaml", "--device", "cpu", "--set", "train.base.steps=1")
    assert result.exit_code == 0, result.stderr
    assert "27.6" in result.stdout and "0.47" in result.stdout and "paper's" in result.stdout
    assert len(Store("runs/sweeps/mine").rows()) == 2  # two identical points are trained once
    assert "same_as_b" in result.stdout
    assert Store("runs/sweeps/mine").rows()[0]["paper"] == {"psnr_db": 27.6, "rfid_50k": 0.47}


@pytest.mark.slow
def test_a_damaged_line_is_reported(sweep):
    assert sweep("--loss-factor", "1.5").exit_code == 0
    with open("runs/sweeps/tiny/results.jsonl", "a") as file:
        file.write('{"point": "1.')
    result = sweep("--loss-factor", "1.5,2")
    assert result.exit_code == 0
    assert "results.jsonl:2: not a complete row of results; skipped" in result.stderr
    lines = (Store("runs/sweeps/tiny").path).read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["point"] == "loss_factor2"


# -------------------------------------------------------------------------------------------------------------- dry run


def test_dry_run_prints_points_and_time_and_writes_nothing(sweep, here, engine):
    result = sweep("--latent-channels", "4,8", "--seeds", "2", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in here.iterdir()] == ["tiny.yaml"] and not engine.trained
    trial = f"on cpu, from {estimate.STEPS} steps on noise"
    for words in ("channels4", "channels8", "4 of 4 points to run", "FLOPs", trial):
        assert words in result.stdout


def test_dry_run_uses_existing_rows(sweep):
    assert sweep("--latent-channels", "4").exit_code == 0
    result = sweep("--latent-channels", "4,8", "--dry-run")
    assert "from 1 finished points in the store" in result.stdout and "1 of 2 points to run" in result.stdout


@pytest.mark.slow
def test_dry_run_of_networks_too_large_for_a_cpu(ulzoo, here):
    result = ulzoo("sweep", "imagenet512_small", "--loss-factor", "--dry-run", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "loss_factor1.3" in result.stdout and "too large for trial steps" in result.stdout


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("args", "bound"),
    [
        (["--loss-factor"], ["--loss-factor=paper"]),
        (["--loss-factor", "1,2", "a.yaml"], ["--loss-factor=1,2", "a.yaml"]),
        (["--loss-factor", "a.yaml"], ["--loss-factor=paper", "a.yaml"]),
        (["a.yaml", "--bias", "-3,-2"], ["a.yaml", "--bias=-3,-2"]),
        (["--bias", "--latent-channels", "4"], ["--bias=paper", "--latent-channels=4"]),
        (["--bias=1", "--set", "--bias"], ["--bias=1", "--set", "--bias=paper"]),
        (["--", "--bias"], ["--", "--bias"]),
    ],
)
def test_options_without_values(args, bound):
    assert bind_list_options(args) == bound


@pytest.mark.slow
def test_the_demo_and_the_papers_grid(ulzoo, here):
    result = ulzoo("sweep", "--latent-channels", "--dry-run")
    assert result.exit_code == 0
    for channels in (4, 8, 16, 32, 64):
        assert f"channels{channels} " in result.stdout
    assert "emoji32_tiny in runs/sweeps/emoji32_tiny" in result.stdout


NO_DATA = "{kind: image_folder, root: nowhere, resolution: 32, num_classes: 9}"
REFUSED = {
    "unknown key": (["--set", "latent.chanels=4,8"], "did you mean 'channels'?"),
    "wrong type": (["--latent-channels", "4,many"], "--latent-channels 4,many: latent.channels: expected an integer"),
    "out of bounds": (["--set", "latent.channels=4,-1"], "must be at least 1"),
    "invalid for a constructor": (["--loss-factor", "1,-1"], "--loss-factor 1,-1"),
    "parts that do not fit": (["--set", "latent.downsample=[8,8],[7,7]"], "latent.downsample"),
    "empty grid": (["--loss-factor="], "an empty grid"),
    "nothing to sweep": ([], "nothing to sweep over"),
    "twice": (["--loss-factor", "1,2", "--set", "decoder.weighting.loss_factor=3,4"], "already has values"),
    "address alone": (["--loss-factor", "--address", "a:1"], "go with --engine ray"),
    "workers for ray": (["--loss-factor", "--engine", "ray", "--workers", "2"], "--workers is for the local engine"),
    "GPUs and devices": (
        ["--loss-factor", "--engine", "ray", "--gpus-per-point", "1", "--devices-per-point", "2"],
        "--gpus-per-point and --devices-per-point exclude each other",
    ),
    "three processes": (["--loss-factor", "--devices-per-point", "3"], "batch_size: 4 cannot be shared by 3 processes"),
    "clips of images": (["--loss-factor", "--frechet", "fd_transnetv2"], "compares clips: this is a model of images"),
    "no cluster": (["--loss-factor", "--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster there"),
    "no such device": (["--loss-factor", "--device", "gpu"], "unknown device 'gpu'"),
    "out is a file": (["--loss-factor", "--out", "tiny.yaml"], "tiny.yaml: is a file, not the folder of a sweep"),
    "no data": (["--set", f"data={NO_DATA},{{kind: emoji3d, resolution: 32}}"], "nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_user_error_is_one_line_and_nothing_is_written(ulzoo, here, engine, case):
    args, words = REFUSED[case]
    result = ulzoo("sweep", "tiny.yaml", *args)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr and "Traceback" not in result.stderr
    assert [path.name for path in here.iterdir()] == ["tiny.yaml"] and not engine.trained


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tinny.yaml", "did you mean 'tiny.yaml'"),
        ("emoji32_tyni", "did you mean 'emoji32_tiny'"),
        ("high", "named 'high'"),
    ],
)
def test_a_spec_that_does_not_exist(ulzoo, here, spec, words):
    result = ulzoo("sweep", "--loss-factor", spec)
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1


def test_two_specs(ulzoo, here):
    result = ulzoo("sweep", "tiny.yaml", "--loss-factor", "emoji32_tiny")
    assert result.exit_code == 2 and "unexpected extra argument" in result.stderr


def test_an_interrupted_sweep_says_how_to_resume(sweep, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(InProcess, "run", interrupted)
    result = sweep("--loss-factor", "1.5")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; repeat the command to resume the sweep in runs/sweeps/tiny\n"


def test_the_time_left_follows_from_the_work_of_this_command(monkeypatch):
    from ulzoo.cli.display import sweep_progress

    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr(sweep_progress, "time", clock)
    cost = SimpleNamespace(flops=100, training_flops={"latents": 60, "base": 40})
    jobs = [SimpleNamespace(spec_hash=name, cost=cost, stages=("latents", "base"), label=name) for name in "ab"]
    work = sweep_progress.WorkEstimate(jobs)
    assert work.seconds_left is None
    work.reach(jobs[0], "latents", 5, 10)  # resumed at step 5, which was trained before
    assert work.seconds_left is None
    clock.now = 10.0
    work.reach(jobs[0], "base", 0, 10)
    assert work.seconds_left == pytest.approx(10 * 140 / 30)
    work.finish("a")
    assert work.seconds_left == pytest.approx(10 * 100 / 70)
