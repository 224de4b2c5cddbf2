"""Runs: starting, resuming and overwriting, and stages one by one or all at once."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ulzoo.files import tensor_file
from ulzoo.registry.runs import stopwatch
from ulzoo.registry.runs.callbacks import TrainingCallback
from ulzoo.registry.runs.export import restore
from ulzoo.registry.runs.run_directory import LOCK, RunLock
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training import checkpoint
from ulzoo.training.checkpoint import TrainingState
from ulzoo.training.checkpointing import CheckpointManager

SHORT = (
    "train.latents.steps=4",
    "train.base.steps=4",
    "train.latents.checkpoint_every=2",
    "train.base.checkpoint_every=2",
)


@pytest.fixture(scope="module")
def short(tiny):
    return lambda *overrides: tiny(*SHORT, *overrides)


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(short(), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, to modify."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(spec, folder: Path, **options) -> str:
    """The error message, in one line; nothing may have been written."""
    before = content(folder) if folder.is_dir() else folder.exists()
    with pytest.raises(ValueError) as error:
        train(spec, folder, RunOptions(**options))
    assert (content(folder) if folder.is_dir() else folder.exists()) == before
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_the_files_of_a_run(finished, short):
    names = {path.name for path in finished.iterdir()}
    files = {"spec.yaml", "metrics.jsonl", "train.log", "figures.json", "model.safetensors", stopwatch.FILE}
    assert names == files | {"checkpoints", "samples"}
    assert {path.name for path in (finished / "samples").iterdir()} == {"reconstructions.png", "samples.png"}
    from ulzoo.registry import load_spec

    assert load_spec(finished / "spec.yaml").hash == short().hash
    results = json.loads((finished / "figures.json").read_text())
    assert results["protocol"]["images"] == 6 and results["protocol"]["data"] == short().data_identity()
    assert "root" not in results["protocol"]["data"]
    assert tensor_file.read_metadata(finished / "model.safetensors")["results"] == results


def test_the_callback_is_called_after_every_step(short, tmp_path):
    calls = []

    class Recorder(TrainingCallback):
        def on_stage(self, stage, config, start):
            calls.append((stage, config.steps, start))

        def on_step(self, step, row):
            calls.append((step, row and row["step"]))

    train(short("train.latents.log_every=3"), tmp_path / "run", RunOptions(stage="latents"), callback=Recorder())
    assert calls == [("latents", 4, 0), (1, None), (2, None), (3, 3), (4, 4)]


def test_restored_checkpoints_are_the_exported_models(finished):
    model, spec = restore(CheckpointManager(finished / "checkpoints").latest())
    exported = tensor_file.read(finished / "model.safetensors").tensors
    assert spec.name == "tiny" and model.state_dict().keys() == exported.keys()
    assert all(torch.equal(tensor, exported[name]) for name, tensor in model.state_dict().items())
    assert restore(CheckpointManager(finished / "checkpoints").latest("latents"))[0].base is None


# --------------------------------------------------------------------------------------------------------------- stages


def test_stage_by_stage_is_the_same_as_all_at_once(short, finished, tmp_path):
    train(short(), tmp_path, RunOptions(stage="latents"))
    first = tensor_file.read(tmp_path / "model.safetensors")
    assert first.metadata["stages"] == ["latents"] and not any(name.startswith("base.") for name in first.tensors)
    train(short(), tmp_path, RunOptions(stage="base"))
    at_once = tensor_file.read(finished / "model.safetensors")
    assert tensor_file.read(tmp_path / "model.safetensors").metadata == at_once.metadata
    second = tensor_file.read(tmp_path / "model.safetensors").tensors
    assert all(torch.equal(tensor, second[name]) for name, tensor in at_once.tensors.items())
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.tensors.items())  # frozen to the bit
    assert json.loads((tmp_path / "figures.json").read_text()) == json.loads((finished / "figures.json").read_text())


def test_the_first_stage_is_frozen_in_training_too(finished):
    """The checkpoints of the second stage contain the averages of the first one, bit by bit."""
    checkpoints = CheckpointManager(finished / "checkpoints")
    averages = checkpoints.latest("latents").read("ema.")
    weights = checkpoints.latest("base").read("model.")
    assert {name.partition(".")[0] for name in averages} == {"encoder", "prior", "decoder"}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in averages.items())


def test_the_base_may_change_between_the_stages(short, tmp_path):
    train(short(), tmp_path, RunOptions(stage="latents"))
    first = tensor_file.read(tmp_path / "model.safetensors").tensors
    other = short("base.backbone.width=48", "train.base.optimizer=muon")
    train(other, tmp_path, RunOptions(stage="base"))
    second = tensor_file.read(tmp_path / "model.safetensors")
    assert second.metadata["spec"] == other.to_dict()
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.items())
    third = short("base.backbone.width=64", "train.base.optimizer=muon")
    assert "base.backbone.width: 48 -> 64" in refused(third, tmp_path, stage="base", resume=True)


def test_the_first_stage_may_not_change_under_the_second(short, tmp_path):
    train(short(), tmp_path, RunOptions(stage="latents"))
    assert "encoder.width: 32 -> 48" in refused(short("encoder.width=48"), tmp_path, stage="base")
    assert "train.latents.steps: 4 -> 6" in refused(short("train.latents.steps=6"), tmp_path, stage="base")


def test_the_second_stage_needs_a_finished_first(short, tmp_path):
    assert "no stage latents to build on" in refused(short(), tmp_path / "new", stage="base")
    (tmp_path / "run").mkdir()
    train(short("train.latents.steps=2"), tmp_path / "run", RunOptions(stage="latents"))
    # as if it had been interrupted
    checkpoints = CheckpointManager(tmp_path / "run/checkpoints")
    stopped = checkpoints.latest()
    checkpoints.save(TrainingState("latents", 2, stopped.read(""), stopped.metadata | {"spec": short().to_dict()}))
    message = refused(short(), tmp_path / "run", stage="base")
    assert "its stage latents stopped at step 2" in message and "--stage latents" in message


def test_the_first_stage_is_kept_while_the_second_depends_on_it(short, run):
    assert "its stage base depends on latents" in refused(short(), run, stage="latents", resume=True)
    assert "train.latents.steps: 4 -> 8" in refused(short("train.latents.steps=8"), run, resume=True)
    assert "would remove the stage latents" in refused(short(), run, stage="base", fresh=True)


# --------------------------------------------------------------------------------------------------- resume and refusal


def test_an_existing_run_is_not_overwritten(short, run):
    assert "already contains a run; add --resume" in refused(short(), run)
    assert "already contains a run; add --resume" in refused(short(), run, stage="base")


def test_a_file_is_no_run_directory(short, tmp_path):
    (tmp_path / "file").touch()
    assert "is a file" in refused(short(), tmp_path / "file")


@pytest.mark.parametrize(
    "override", ["latent.channels=8", "train.latents.lr=1e-4", "train.base.seed=3", "data.hflip=false", "name=other"]
)
def test_another_spec_is_refused_and_the_key_named(override, short, run):
    key = override.partition("=")[0]
    assert re.search(
        rf"another spec, {key}: .* -> .*; use --fresh or another --out", refused(short(override), run, resume=True)
    )


def test_more_changes_are_counted(short, run):
    assert "(and 1 more)" in refused(short("train.latents.lr=1", "train.base.lr=1"), run, resume=True)


def test_keys_without_effect_on_training_may_change(short, run):
    spec = short("description=longer", "train.base.steps=6", "train.base.log_every=1", "sample.decoder.steps=1")
    train(spec, run, RunOptions(resume=True))
    assert (run / "checkpoints/base-00000006").exists()
    assert tensor_file.read_metadata(run / "model.safetensors")["spec"] == spec.to_dict()


def test_fewer_steps_than_were_trained(short, run):
    assert "has trained 4 steps, more than train.base.steps, 3" in refused(
        short("train.base.steps=3"), run, resume=True
    )


def test_resuming_a_finished_run_evaluates_and_exports_again(short, run, finished):
    for name in ("model.safetensors", "figures.json"):
        (run / name).unlink()
    train(short(), run, RunOptions(resume=True))
    assert (run / "figures.json").read_bytes() == (finished / "figures.json").read_bytes()
    assert content(run / "checkpoints") == content(finished / "checkpoints")


def test_the_time_of_a_run_is_that_of_all_its_processes(short, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(stopwatch, "time", clock)

    class Clock(TrainingCallback):
        stops = True

        def on_step(self, step, row):
            clock.now += 100
            if self.stops and step == 3:
                raise KeyboardInterrupt

    callback, folder = Clock(), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(short(), folder, callback=callback)
    clock.now, callback.stops = 5000.0, False
    resumed = train(short(), folder, RunOptions(stage="latents", resume=True), callback=callback)
    assert resumed.seconds == 300 + 200  # steps 1 to 3, then 3 and 4
    clock.now = 9000.0
    assert train(short(), folder, RunOptions(stage="base"), callback=callback).seconds == 500 + 400
    assert train(short(), folder, RunOptions(stage="latents", fresh=True), callback=callback).seconds == 400


def test_resuming_without_a_run_starts(short, tmp_path, finished):
    notes = []
    callback = TrainingCallback()
    callback.on_note = notes.append
    train(short(), tmp_path / "new", RunOptions(resume=True), callback=callback)
    assert notes[0].startswith("nothing to resume")
    assert (tmp_path / "new/figures.json").read_bytes() == (finished / "figures.json").read_bytes()


def test_fresh_removes_the_run_and_nothing_else(short, run):
    (run / "notes.txt").write_text("mine")
    (run / "tensorboard/latents").mkdir(parents=True)
    train(short("train.base.seed=1"), run, RunOptions(stage="latents", fresh=True))
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "tensorboard").exists()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {f"latents-0000000{n}" for n in (2, 4)}


@pytest.mark.parametrize("options", [{}, {"resume": True}], ids=["train", "resume"])
def test_a_finished_run_without_checkpoints_is_kept(options, short, run):
    shutil.rmtree(run / "checkpoints")
    assert "finished run without its checkpoints; use --fresh" in refused(short(), run, **options)
    (run / "model.safetensors").unlink()
    assert "contains figures.json of a finished run" in refused(short(), run, **options)
    train(short(), run, RunOptions(stage="latents", fresh=True))
    assert (run / "model.safetensors").exists()


def test_a_finished_stage_without_checkpoints_is_kept(short, run):
    for path in (run / "checkpoints").glob("base-*"):
        shutil.rmtree(path)
    assert "finished stage base without its checkpoints" in refused(short(), run, stage="base")
    assert "finished stage base" in refused(short("base.backbone.width=48"), run, stage="base")


def test_a_run_of_another_name_is_kept(short, tmp_path):
    train(short(), tmp_path, RunOptions(stage="latents"))
    other = short("base.backbone.width=48", "name=other")
    assert 'its run has another spec, name: "tiny" -> "other"' in refused(other, tmp_path, stage="base")


def test_a_run_without_a_base_gets_none_of_another_spec(short, tmp_path):
    train(short("base=null", "train.base=null"), tmp_path)
    assert "another spec, base" in refused(short(), tmp_path, stage="base")
    shutil.rmtree(tmp_path / "checkpoints")
    assert "no stage latents" in refused(short(), tmp_path, stage="base")


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(short, tmp_path):
    (tmp_path / "spec.yaml").write_text(short().to_yaml())
    assert "another spec, encoder.width: 32 -> 48" in refused(short("encoder.width=48"), tmp_path)
    assert train(short(), tmp_path, RunOptions(stage="latents"))


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"fresh": True}], ids=["train", "resume", "fresh"])
@pytest.mark.parametrize(
    "name", ["samples/a.png", "checkpoints/best.pt", "profile/me.txt", "metrics.jsonl", "spec.yaml"]
)
def test_files_of_something_else_are_kept(name, options, short, tmp_path):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("# mine\nname: a\n" + (short().to_yaml() if name == "spec.yaml" else ""))
    message = refused(short(), tmp_path / "mine", **options)
    assert f"contains {Path(name).parts[0]}, but not of a run of ulzoo; use another --out" in message


def test_a_spec_beside_its_run_is_kept(short, tmp_path):
    (tmp_path / "spec.yaml").write_text("# with a comment\n" + short().to_yaml())
    assert "contains spec.yaml, but not of a run" in refused(short(), tmp_path, fresh=True)


def test_fresh_removes_files_by_their_exact_names(short, run):
    kept = ["samples/mine.png", "samples/samples.txt", "profile/notes.txt", "tensorboard/a.csv", "checkpoints/best.pt"]
    kept += ["model-00001-of-00002.safetensors"]
    removed = ["profile/base.txt", "profile/latents.json.gz", "tensorboard/events.out.tfevents.1.host", "skipped.txt"]
    removed += ["tensorboard/base/events.out.tfevents.2.host"]
    for name in kept + removed:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    train(short(), run, RunOptions(stage="latents", fresh=True))
    assert all((run / name).read_text() == name for name in kept)
    assert not any((run / name).exists() for name in removed)
    assert not (run / "samples/samples.png").exists()


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_fresh_does_not_follow_links(name, short, run, tmp_path):
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path / "elsewhere")
    assert f"{name}: is a link, which --fresh does not follow" in refused(short(), run, fresh=True)
    assert before and content(tmp_path / "elsewhere") == before


def test_fresh_checks_all_before_it_removes(short, run):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    assert "metrics.jsonl: is a folder, unlike in a run" in refused(short(), run, fresh=True)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"fresh": True}], ids=["train", "resume", "fresh"])
def test_a_run_is_locked_while_it_is_trained(options, short, run):
    lock = RunLock(run)
    lock.acquire()
    assert "another process is training there" in refused(short(), run, **options)
    lock.release()
    (run / LOCK).touch()  # as a killed process leaves it
    assert train(short(), run, RunOptions(resume=True))
    assert not (run / LOCK).exists()


def test_of_two_trainings_that_start_in_a_new_folder_one_is_refused(short, tmp_path):
    messages = []

    class Second(TrainingCallback):
        def on_stage(self, stage, config, start):
            messages.append(refused(short(), tmp_path / "new"))

    train(short(), tmp_path / "new", RunOptions(stage="latents"), callback=Second())
    assert "another process is training there" in messages[0]


def test_a_run_that_began_during_the_checks_is_kept(short, finished, tmp_path, monkeypatch):
    folder = tmp_path / "new"

    def begin_elsewhere(*_):
        shutil.copytree(finished, folder)

    monkeypatch.setattr("ulzoo.registry.runs.train.check_encoded", begin_elsewhere)
    for options in (RunOptions(), RunOptions(resume=True)):
        with pytest.raises(ValueError, match="another process has just trained there; use --resume"):
            train(short(), folder, options)
        assert (folder / "figures.json").read_bytes() == (finished / "figures.json").read_bytes()
        shutil.rmtree(folder)


def test_damage_is_reported_before_anything_is_written(short, run, monkeypatch):
    for path in (run / "checkpoints").glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="going back"):
        assert "every checkpoint is damaged" in refused(short(), run, resume=True)
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    CheckpointManager(run / "checkpoints").save(TrainingState("base", 4, {}, {}))
    monkeypatch.undo()
    assert "upgrade ulzoo" in refused(short(), run, resume=True)


def test_resuming_before_a_damaged_checkpoint_gives_the_same_result(short, run, finished):
    next((run / "checkpoints/base-00000004").glob("*.safetensors")).write_bytes(b"")
    with pytest.warns(UserWarning, match="base-00000004"):
        train(short(), run, RunOptions(resume=True))
    assert (run / "figures.json").read_bytes() == (finished / "figures.json").read_bytes()


@pytest.mark.parametrize("optimizer, why", [("adahessian", "second derivatives"), ("bnbadamw", "cannot be used here")])
def test_an_optimizer_that_cannot_be_used(optimizer, why, short, tmp_path):
    if optimizer.startswith("bnb"):
        from timm.optim import list_optimizers

        if optimizer not in list_optimizers() or torch.cuda.is_available():
            pytest.skip("needs bitsandbytes and no GPU")
    message = refused(short(f"train.base.optimizer={optimizer}"), tmp_path / "new")
    assert "train.base.optimizer" in message and why in message


def test_missing_data(short, tmp_path):
    assert "data: " in refused(short(f"data.root={tmp_path / 'absent'}"), tmp_path / "new")


def test_missing_tensorboard_is_reported_before_anything_is_written(short, tmp_path, monkeypatch):
    monkeypatch.setattr("ulzoo.registry.runs.loggers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package tensorboard"):
        train(short("train.tensorboard=true"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_training_images_are_named_on_resume(short, images, tmp_path, recwarn):
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    spec = short(f"data.root={folder}")
    train(spec, tmp_path / "run", RunOptions(stage="latents"))
    copy = Path(shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile))
    train(short(f"data.root={copy}"), tmp_path / "run", RunOptions(resume=True, stage="latents"))
    assert not [warning for warning in recwarn if "images" in str(warning.message)]
    (copy / "train" / "odd" / "43.png").unlink()
    words = r"latents-00000004: its training images have changed since \(number of examples: 44 and 43; keys"
    with pytest.warns(UserWarning, match=words):
        train(short(f"data.root={copy}"), tmp_path / "run", RunOptions(resume=True))
