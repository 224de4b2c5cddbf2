"""`train N` ≡ `train k`, kill -9, `--resume`: the same bits in weights, averages and optimizer state on the CPU."""

import random

import pytest
import torch

from ulzoo.registry.runs import train as run_module
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training.monitoring import read_rows

RANGES = "decoder.weighting.loss_factor=[1.0, 4.0]", "decoder.weighting.bias=[3.0, 6.0]", "base.bias=4.0"
MUP = (
    "train.latents.parametrisation={kind: mup, proxy: {encoder: {width: 16}, decoder: {width: 16}}}",
    "train.base.parametrisation={kind: mup, proxy: {base: {width: 8}}}",
)


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory):
    """reference(*overrides): the folder of a run that was never stopped."""
    done = {}

    def folder(*overrides):
        if overrides not in done:
            done[overrides] = tmp_path_factory.mktemp("reference")
            train(tiny(*overrides), done[overrides])
        return done[overrides]

    torch.set_num_threads(1)
    return folder


@pytest.mark.slow
def test_two_runs_are_the_same_whatever_the_global_generator(tiny, reference, assert_same_run, tmp_path):
    torch.manual_seed(123)
    torch.randn(7)
    train(tiny(), tmp_path / "run")
    assert_same_run(tmp_path / "run", reference())


@pytest.mark.parametrize(
    "kill",
    [
        ["at", "latents", 13],  # in the middle of the third epoch and of a window of metrics
        ["writing", 3, "half"],
        pytest.param(["writing", 4, "whole"], marks=pytest.mark.slow),
        pytest.param(["between"], marks=pytest.mark.slow),
        ["at", "base", 3],  # before the stage's first checkpoint
    ],
    ids=str,
)
def test_a_kill_at_a_known_instant(kill, tiny, reference, train_and_kill, assert_same_run, tmp_path):
    assert train_and_kill(tiny(), tmp_path / "run", kill)
    train(tiny(), tmp_path / "run", RunOptions(resume=True))
    assert_same_run(tmp_path / "run", reference())


DISTILLED = ("distilled={steps: [1, 2]}", "train.distill={steps: 6, batch_size: 8, lr: 1e-3, checkpoint_every: 2}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (
            "train.latents.accumulate=2",
            "train.base.accumulate=4",
            "train.latents.log_every=7",
            "base.schedule={kind: adaptive}",
            *DISTILLED,
            "distilled.target=teacher",
            "train.distill.teacher_steps=2",
            "train.distill.accumulate=2",
        ),
        ("train.latents.optimizer=muon", "train.base.optimizer=muon", *MUP),
        ("train.latents.optimizer=lion", "train.base.optimizer=madgrad", *RANGES),
        (*(f"train.{stage}.precision=bf16" for stage in ("latents", "distill", "base")), *DISTILLED),
    ],
    ids=["accumulate, adaptive schedule, distilled", "muon, mup", "lion, madgrad, variable rate", "bf16, distilled"],
)
def test_many_kills_in_one_run(overrides, tiny, reference, train_and_kill, assert_same_run, tmp_path):
    """One run killed in each stage at seeded random steps and inside writes, resumed each time."""
    rng, spec, folder = random.Random(str(overrides)), tiny(*overrides), tmp_path / "run"
    kills = [
        ["at", "latents", rng.randint(6, 12)],
        ["writing", 2, "half"],
        *([["at", "distill", rng.randint(2, 5)]] if spec.distilled else []),
        ["at", "base", rng.randint(1, 10)],
        ["writing", 1, "whole"],
        ["at", "base", rng.randint(16, 24)],
    ]
    for resume, kill in enumerate(kills):
        assert train_and_kill(spec, folder, kill, resume=bool(resume))
    train(spec, folder, RunOptions(resume=True))
    assert_same_run(folder, reference(*overrides))


@pytest.mark.slow
def test_kills_at_random_times(tiny, reference, train_and_kill, assert_same_run, tmp_path):
    rng, spec, folder = random.Random(0), tiny(), tmp_path / "run"
    kills = 0
    while train_and_kill(spec, folder, ["after", rng.uniform(0.01, 0.05) * (1 + kills)], resume=folder.exists()):
        kills += 1  # later and later, so that a slow machine gets to a checkpoint too
    assert kills >= 2
    assert_same_run(folder, reference())


@pytest.mark.slow
def test_rows_come_once_and_in_order(tiny, train_and_kill, tmp_path):
    spec, folder = tiny(), tmp_path / "run"
    train_and_kill(spec, folder, ["at", "base", 13])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"stage": "base", "st')  # as a kill inside a write leaves it
    before = [(row["stage"], row["step"]) for row in read_rows(folder / "metrics.jsonl")]
    assert before[-1] == ("base", 12)
    train(spec, folder, RunOptions(resume=True))
    rows = [(row["stage"], row["step"]) for row in read_rows(folder / "metrics.jsonl")]
    assert rows == [(stage, step) for stage in ("latents", "base") for step in range(3, 25, 3)]


def test_workers_change_nothing(tiny, reference, tmp_path):
    train(tiny("train.latents.workers=2"), tmp_path / "run", RunOptions(stage="latents"))
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    expected = [row for row in read_rows(reference() / "metrics.jsonl") if row["stage"] == "latents"]
    assert len(rows) == 8
    assert [(row["loss"], row["grad_norm"]) for row in rows] == [(row["loss"], row["grad_norm"]) for row in expected]


def test_another_seed_is_another_run(tiny, reference, tmp_path):
    train(tiny("train.latents.seed=1", "train.latents.steps=3"), tmp_path / "run", RunOptions(stage="latents"))
    (row,) = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert row["loss"] != read_rows(reference() / "metrics.jsonl")[0]["loss"]


@pytest.mark.slow
def test_a_longer_run_goes_on(tiny, assert_same_run, tmp_path):
    """With the constant rate the first 20 steps of 30 are the 20 steps of a shorter run."""
    options = ("train.latents.decay=constant", "train.latents.log_every=10")
    short, long = (tiny(*options, f"train.latents.steps={n}") for n in (20, 30))
    train(short, tmp_path / "run", RunOptions(stage="latents"))
    train(long, tmp_path / "run", RunOptions(stage="latents", resume=True))
    train(long, tmp_path / "at once", RunOptions(stage="latents"))
    assert_same_run(tmp_path / "run", tmp_path / "at once")


@pytest.mark.slow
def test_kills_of_a_run_on_video(tiny_video, train_and_kill, assert_same_run, tmp_path, monkeypatch):
    """Clips are drawn, and given frames hidden, as if nothing had happened."""
    monkeypatch.setattr(run_module, "draw_stage", lambda *_: [])  # encoding pictures takes a third of the time
    spec = tiny_video()
    train(spec, tmp_path / "whole")
    assert train_and_kill(spec, tmp_path / "run", ["at", "latents", 3])
    assert train_and_kill(spec, tmp_path / "run", ["at", "base", 5], resume=True)
    train(spec, tmp_path / "run", RunOptions(resume=True))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
