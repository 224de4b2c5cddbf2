"""`ulzoo find --pilot`: its plan, a pilot that is interrupted and resumed, and every user error in one line."""

import json

import pytest

from ulzoo.registry import load_spec
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.store import Store

FACTOR, BIAS = "decoder.weighting.loss_factor", "decoder.weighting.bias"
SETTINGS = (f"{FACTOR}=2", f"{BIAS}=5", "train.latents.lr=1e-2", "train.latents.steps=4")
PILOT = ("--bits", "0.2", "--pilot", "--device", "cpu", *(word for text in SETTINGS for word in ("--set", text)))


class InterruptedEngine:
    """An engine that trains in this process and is interrupted after `limit` runs."""

    limit, trained = 2, 0

    def __init__(self, devices, threads, callback):
        assert devices == ["cpu"]
        self.callback = callback

    def run(self, jobs):
        for job in jobs:
            if InterruptedEngine.trained == self.limit:
                InterruptedEngine.limit = 99
                raise KeyboardInterrupt
            InterruptedEngine.trained += 1
            self.callback.started(job)
            yield run_point(job, lambda *progress, job=job: self.callback.step(job, *progress[:3], 10.0))


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr("ulzoo.registry.runs.train.draw_stage", lambda *_: [])
    monkeypatch.setattr("ulzoo.registry.sweeps.engine_local.LocalEngine", InterruptedEngine)
    return InterruptedEngine


@pytest.mark.slow
def test_a_pilot_shows_its_cost_resumes_and_ends_with_a_spec(ulzoo, here, engine):
    plan = ulzoo("find", "tiny.yaml", *PILOT, "--dry-run")
    assert plan.exit_code == 0 and "3 runs of stage 1, 16 images" in plan.stdout and "20.0% of 5 full" in plan.stdout
    assert plan.stdout.splitlines()[-1] == "nothing was written" and not (here / "runs").exists()

    stopped = ulzoo("find", "tiny.yaml", *PILOT)
    assert stopped.exit_code == 130 and "repeat the command to resume the pilot in runs/pilots/tiny" in stopped.stderr
    result = ulzoo("find", "tiny.yaml", *PILOT, "--out", "found.yaml", "--json")
    assert result.exit_code == 0, result.stderr
    assert engine.trained == len(Store("runs/pilots/tiny").rows()) == 3
    assert "1 points to train, 1 at a time on cpu, 2 there already" in result.stderr
    data = json.loads(result.stdout)
    assert (
        data["training_images"] == 16 and data["expected"]["low"] < data["expected"]["bits"] < data["expected"]["high"]
    )
    spec, given = (
        load_spec("found.yaml"),
        load_spec("tiny.yaml", [*SETTINGS, f"{FACTOR}={data['expected']['loss_factor']}"]),
    )
    assert spec.name == "tiny_0.2bits" and spec.to_dict() == {**given.to_dict(), "name": spec.name}

    again = ulzoo("find", "tiny.yaml", *PILOT)
    assert engine.trained == 3 and again.stdout.splitlines()[-1] == "next  ulzoo train runs/pilots/tiny/0.2bits.yaml"
    assert "expected after the full 4 steps: " in again.stdout and (here / "runs/pilots/tiny/0.2bits.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--psnr", 27, "--pilot"), "--pilot finds a rate: give --bits and no --psnr"),
        (("--bits", 0.5, "--dry-run"), "--dry-run goes with --pilot"),
        (("--bits", 0.5, "--pilot", "--bias", "4;5"), "--bias 4;5: takes numbers with commas between them"),
        (("--bits", 0.5, "--pilot", "--share", 0), "--share 0: a share of a full sweep is above 0 and at most 1"),
        (("--bits", 0.5, "--pilot", "--set", "train.latents.stps=1"), "train.latents.stps"),
        (("--bits", 0.5, "--pilot", "--set", "decoder.kind=mse"), "a pilot varies loss_factor and bias"),
    ],
)
def test_what_is_refused(ulzoo, here, arguments, message):
    result = ulzoo("find", "tiny.yaml", *arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (here / "runs").exists()
