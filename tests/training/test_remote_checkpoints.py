"""Copies of checkpoints in S3, of a server on this machine."""

import json
from pathlib import Path

import pytest
import torch
from s3fs import S3FileSystem

from ulzoo.data.storage.remote import RemotePath
from ulzoo.files import retries
from ulzoo.files.tensor_file import DamagedFile
from ulzoo.training.checkpoint import Checkpoint, TrainingState
from ulzoo.training.checkpoint_steps import CheckpointStep
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.remote_checkpoints import RemoteCheckpoints


@pytest.fixture
def copies(s3: RemotePath) -> RemoteCheckpoints:
    return RemoteCheckpoints(s3 / "checkpoints", milestone_every=4)


@pytest.fixture
def manager(copies: RemoteCheckpoints, tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "checkpoints", 4, copies)


def save(manager: CheckpointManager, *steps: int) -> None:
    for step in steps:
        manager.save(TrainingState("latents", step, {"model.a": torch.full((3,), float(step))}, {"x": step}))


def steps(*numbers: int) -> list[CheckpointStep]:
    return [CheckpointStep.of("latents", number) for number in numbers]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_copies_are_kept_and_deleted_as_checkpoints_are(manager, copies):
    save(manager, 2, 4, 6, 8, 10)
    assert manager.steps() == copies.list_complete() == steps(4, 8, 10)
    (copies.root / "latents-00000008" / "notes.txt").upload(manager.path("latents", 8) / "checkpoint.json")
    save(manager, 6)  # went back
    assert manager.steps() == copies.list_complete() == steps(4, 6)
    assert (copies.root / "latents-00000008").list_names() == ["notes.txt"]


def test_a_copy_is_the_checkpoint(manager, copies, tmp_path):
    save(manager, 2)
    copies.download(*steps(2), tmp_path / "copy")
    assert files(tmp_path / "copy") == files(manager.path("latents", 2))
    assert Checkpoint.open(tmp_path / "copy").read("model.")["a"].tolist() == [2, 2, 2]


@pytest.mark.slow
def test_an_upload_that_was_interrupted_does_not_count_and_is_removed(manager, copies):
    save(manager, 2, 3)
    (copies.root / "latents-00000003" / "checkpoint.json").remove()
    assert copies.list_complete() == steps(2)
    save(manager, 5, 6)
    assert copies.list_complete() == steps(5, 6)
    assert not (copies.root / "latents-00000003").list_names()


SHARD = "shard-00001-model-00001-of-00001.safetensors"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SHARD, b"x", f"a damaged checkpoint \\({SHARD} does not match its digest\\)"),
        (SHARD, None, f"an incomplete checkpoint \\(no {SHARD}\\)"),
        ("checkpoint.json", b"{}", r"a damaged checkpoint \('digest'\)"),
    ],
)
def test_a_damaged_part_is_named(name, content, message, manager, copies, tmp_path):
    save(manager, 2)
    part = copies.root / "latents-00000002" / name
    if content is None:
        part.remove()
    else:
        (tmp_path / "part").write_bytes(content)
        part.upload(tmp_path / "part")
    with pytest.raises(DamagedFile, match=f"^s3://[^ ]*/checkpoints/latents-00000002: {message}$"):
        copies.download(*steps(2), tmp_path / "copy")
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(".copy*"))


def test_no_files_but_its_own_are_downloaded(manager, copies, tmp_path):
    """Names come from a server: none leads out of the folder."""
    save(manager, 2)
    metadata = manager.path("latents", 2) / "checkpoint.json"
    content = json.loads(metadata.read_text())
    (tmp_path / "edited").write_text(json.dumps({**content, "files": {"../escaped.safetensors": "0"}}))
    (copies.root / "latents-00000002" / "checkpoint.json").upload(tmp_path / "edited")
    with pytest.raises(DamagedFile, match="does not match the digest it carries"):
        copies.download(*steps(2), tmp_path / "deep" / "copy")
    assert not list((tmp_path / "deep").iterdir())


def test_a_store_that_refuses_deletions_keeps_its_copies(manager, copies, monkeypatch):
    async def denied(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    save(manager, 1, 2)
    monkeypatch.setattr("s3fs.S3FileSystem._rm_file", denied)
    S3FileSystem.clear_instance_cache()
    with pytest.warns(
        UserWarning, match=r"^latents-00000003 was copied, obsolete copies were not deleted \(s3://.*Denied"
    ):
        save(manager, 3)
    assert copies.list_complete() == steps(1, 2, 3) and manager.steps() == steps(2, 3)


def test_a_store_that_refuses_costs_a_warning_and_no_checkpoint(manager, copies, monkeypatch):
    monkeypatch.setattr(retries, "DELAYS", ())
    manager.remote = RemoteCheckpoints(RemotePath("s3://no-such-bucket/run"))
    with pytest.warns(UserWarning, match=r"^latents-00000002 was not copied \(s3://no-such-bucket/.*the last copy is"):
        save(manager, 2)
    assert manager.latest().step == 2
    manager.remote = copies
    save(manager, 3)
    assert copies.list_complete() == steps(3)
