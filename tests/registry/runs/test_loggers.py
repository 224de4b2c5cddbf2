"""Loggers: what each receives, a resumed training, and loggers that are missing or fail."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from ulzoo.registry.runs import loggers
from ulzoo.registry.runs.callbacks import TrainingCallback
from ulzoo.registry.runs.loggers import Loggers
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training.monitoring import read_rows


@pytest.fixture
def short(tiny):
    steps = ["train.latents.steps=4", "train.base.steps=3", "train.latents.log_every=2", "train.base.log_every=1"]
    return lambda *keys: tiny(*steps, "train.latents.checkpoint_every=2", *keys)


class Tracker(types.ModuleType):
    """A stand-in for wandb and trackio."""

    def __init__(self, name):
        super().__init__(name)
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **keys):
        self.started.append(keys)

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1

    def Image(self, path):
        return ("image", path)


def events(folder, name):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder / "tensorboard" / name))
    reader.Reload()
    return reader


@pytest.mark.slow
def test_trackers_and_tensorboard_receive_rows_pictures_and_metrics(short, tmp_path, monkeypatch):
    trackers = {name: Tracker(name) for name in ("wandb", "trackio")}
    for name, tracker in trackers.items():
        monkeypatch.setitem(sys.modules, name, tracker)
    monkeypatch.setattr(loggers, "find_spec", lambda name: True)
    run, spec = tmp_path / "run", short("train.tensorboard=true", "train.logger=[wandb, trackio]")
    results = train(spec, run, RunOptions(stage="latents")).results
    results = train(spec, run, RunOptions(stage="base")).results
    rows = read_rows(run / "metrics.jsonl")
    for name, tracker in trackers.items():
        first, second = tracker.started
        assert first == second and first["project"] == "ulzoo" and first["resume"] == "allow"
        assert first["config"] == spec.to_dict() and first["name"].startswith("run")
        assert ("id" in first) == (name == "wandb")
        losses = [(step, values["base/loss"]) for step, values in tracker.logged if "base/loss" in values]
        assert losses == [(4 + row["step"], row["loss"]) for row in rows if row["stage"] == "base"]
        pictures = [values for _, values in tracker.logged if {"samples", "reconstructions"} & values.keys()]
        assert [list(values) for values in pictures] == [["reconstructions"], ["samples"]]
        assert pictures[1]["samples"] == ("image", str(run / "samples/samples.png"))
        step, values = tracker.logged[-1]
        assert step == 7 and values["evaluation/psnr_db"] == results["figures"]["psnr_db"]
        assert tracker.finished == 2
    for stage in ("latents", "base"):
        scalars = [(event.step, pytest.approx(event.value)) for event in events(run, stage).Scalars("loss")]
        assert scalars == [(row["step"], row["loss"]) for row in rows if row["stage"] == stage]
    assert len(events(run, "base").Images("samples")) == 1
    log = (run / "train.log").read_text()
    assert "stage latents from step 0 to 4" in log and "base 3/3" in log and "psnr_db" in log
    assert "checkpoint at step 2" in log and f"samples: {run / 'samples/samples.png'}" in log


class Failing(TrainingCallback):
    def __init__(self, folder, spec):
        self.steps = []
        Failing.last = self

    def on_step(self, step, row):
        self.steps.append(step)
        if step == 2:
            raise ConnectionError("no network")


def test_a_logger_that_fails_is_left_out(short, tmp_path, monkeypatch):
    entry = EntryPoint("mine", f"{__name__}:Failing", loggers.GROUP)
    monkeypatch.setattr(loggers, "entry_points", lambda group: [entry])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Failing)
    callback = Loggers(tmp_path, short("train.logger=[mine]"))
    callback.on_step(1, None)
    with pytest.warns(UserWarning, match="the logger mine failed and is left out: ConnectionError: no network"):
        callback.on_step(2, None)
    callback.on_step(3, None)
    assert Failing.last.steps == [1, 2]


def test_a_text_log_that_cannot_be_written_ends_no_training(short, tmp_path):
    (tmp_path / "train.log").mkdir()
    callback = Loggers(tmp_path, short())
    with pytest.warns(UserWarning, match=r"the logger train\.log failed and is left out: IsADirectoryError"):
        callback.on_note("one")
    callback.on_note("two")


def test_loggers_that_do_not_exist(short, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"train\.logger.*: there is no logger 'tensorbord'; did you mean"):
        train(short("train.logger=[tensorbord]"), tmp_path / "run")
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package wandb: pip install 'ulzoo\\[wandb\\]'"):
        train(short("train.logger=[wandb]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_logger_does_not_change_the_identity_of_a_spec(short):
    assert short("train.logger=[wandb]").hash == short().hash
    assert short("train.tensorboard=true", "train.logger=[tensorboard, trackio]").train.loggers == (
        "tensorboard",
        "trackio",
    )
