"""A run whose machine is lost continues on another one, from the copies of its checkpoints in S3."""

import shutil
from pathlib import Path

import pytest
import torch
from s3fs import S3FileSystem

from ulzoo.data.storage.remote import RemotePath
from ulzoo.files import retries, tensor_file
from ulzoo.registry.runs.callbacks import TrainingCallback
from ulzoo.registry.runs.restore import open_store, restore
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training.checkpointing import CheckpointManager

SHORT = (
    *(
        "train.latents.steps=6",
        "train.latents.checkpoint_every=2",
        "train.base.steps=4",
        "train.base.checkpoint_every=2",
    ),
    "train.base.posthoc_ema={lengths: [0.05, 0.2], snapshot_every: 1}",
)


class Lost(Exception):
    """The machine of a run is lost."""


class LostAt(TrainingCallback):
    def __init__(self, stage: str, step: int) -> None:
        self.at, self.stage, self.notes = (stage, step), "", []

    def on_stage(self, stage: str, *_: object) -> None:
        self.stage = stage

    def on_step(self, step: int, row: object) -> None:
        if (self.stage, step) == self.at:
            raise Lost

    def on_note(self, note: str) -> None:
        self.notes.append(note)


@pytest.fixture(scope="module")
def spec(tiny):
    return tiny(*SHORT)


@pytest.fixture(scope="module")
def undisturbed(spec, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(spec, folder)
    return folder


def lose(spec, folder: Path, store: RemotePath, stage: str, step: int) -> None:
    with pytest.raises(Lost):
        train(spec, folder, RunOptions(remote=store), callback=LostAt(stage, step))
    shutil.rmtree(folder)


def same_weights(folder: Path, other: Path) -> bool:
    one, two = (tensor_file.read(run / "model.safetensors").tensors for run in (folder, other))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("stage", "step", "copied"),
    [pytest.param("latents", 5, "latents-00000004", marks=pytest.mark.slow), ("base", 3, "base-00000002")],
)
def test_a_lost_run_ends_in_the_same_bits_elsewhere(stage, step, copied, spec, undisturbed, s3, tmp_path):
    lose(spec, tmp_path / "lost", s3, stage, step)
    callback = LostAt("", 0)
    train(spec, tmp_path / "run", RunOptions(resume=True, remote=s3), callback=callback)
    assert f"downloaded {copied} from {s3}" in callback.notes
    assert same_weights(tmp_path / "run", undisturbed)
    for name in ("checkpoints", "snapshots"):
        own, expected = (CheckpointManager(run / name).steps() for run in (tmp_path / "run", undisturbed))
        assert own[-2:] == expected[-2:]
    snapshots = [sorted(path.name for path in (run / "snapshots").iterdir()) for run in (tmp_path / "run", undisturbed)]
    assert snapshots[0] == snapshots[1]


def test_from_a_damaged_copy_to_the_one_before(spec, undisturbed, s3, tmp_path):
    lose(spec, tmp_path / "lost", s3, "latents", 5)
    (tmp_path / "zeros").write_bytes(bytes(100))
    shard = "shard-00001-model-00001-of-00001.safetensors"
    (s3 / "checkpoints" / "latents-00000004" / shard).upload(tmp_path / "zeros")
    with pytest.warns(
        UserWarning, match=rf"^{s3}/checkpoints/latents-00000004: a damaged checkpoint \({shard} .*not used$"
    ):
        train(spec, tmp_path / "run", RunOptions(resume=True, remote=s3))
    assert same_weights(tmp_path / "run", undisturbed)
    lose(spec, tmp_path / "lost", s3 / "other", "latents", 3)
    (s3 / "other" / "checkpoints" / "latents-00000002" / shard).upload(tmp_path / "zeros")
    with (
        pytest.warns(UserWarning, match="a damaged checkpoint"),
        pytest.raises(ValueError, match=rf"^{s3}/other: every checkpoint is damaged; remove them, or use another URL$"),
    ):
        train(spec, tmp_path / "new", RunOptions(resume=True, remote=s3 / "other"))


def test_newer_checkpoints_of_the_folder_are_kept(spec, undisturbed, s3, tmp_path):
    lose(spec, tmp_path / "lost", s3, "latents", 5)
    shutil.copytree(undisturbed, tmp_path / "run")
    callback = LostAt("", 0)
    train(spec, tmp_path / "run", RunOptions(resume=True, remote=s3), callback=callback)
    assert not any("downloaded" in note for note in callback.notes)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_new_run_does_not_replace_the_copies_of_another(fresh, spec, s3, tmp_path):
    lose(spec, tmp_path / "lost", s3, "latents", 5)
    with pytest.raises(ValueError, match=rf"^{s3}: already contains checkpoints, up to latents-00000004; add --resume"):
        train(spec, tmp_path / "run", RunOptions(fresh=fresh, remote=s3))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_store_that_cannot_be_written_is_an_error_before_training(resume, spec, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "DELAYS", ())
    with pytest.raises(ValueError, match=r"^s3://no-such-bucket/run/[^\n]*: .*bucket does not exist"):
        train(spec, tmp_path / "run", RunOptions(resume=resume, remote=RemotePath("s3://no-such-bucket/run")))
    assert not list((tmp_path / "run").glob("*"))
    assert not s3.list_names()


def test_checkpoints_that_may_not_be_listed_are_no_empty_store(s3, monkeypatch):
    async def denied(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr("s3fs.S3FileSystem._ls", denied)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match=r"no permission to read it \(Access Denied\)"):
        restore(Path("run"), s3)


@pytest.mark.parametrize("url", ["bucket/run", "/data/run", "https://example.org/run"])
def test_only_stores_that_can_be_written(url):
    with pytest.raises(ValueError, match=rf"^--remote-checkpoints {url}: must be a URL of an object store"):
        open_store(url)
