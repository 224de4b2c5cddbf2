"""Training checkpoints: which are kept, what is verified when they are read, and how damage is handled."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ulzoo.files.tensor_file import DamagedFile
from ulzoo.training import checkpoint as format
from ulzoo.training.checkpoint import Checkpoint, TrainingState
from ulzoo.training.checkpointing import CheckpointManager

TENSORS = {
    "model.a": torch.arange(6.0).reshape(2, 3).T,
    "model.half": torch.tensor([1.5, float("nan")]).bfloat16(),
    "model.none": torch.zeros(0, 3),
    "ema.a": torch.zeros(1),
    "optimizer.state.0.step": torch.tensor(7.0),
    "optimizer.state.0.mask": torch.tensor([True, False]),
}


def state(stage: str = "latents", step: int = 1) -> TrainingState:
    return TrainingState(stage, step, TENSORS | {"model.step": torch.full((4,), float(step))}, {"x": [step]})


@pytest.fixture
def checkpoints(tmp_path) -> CheckpointManager:
    """A manager with steps 10 and 20 of the first stage."""
    checkpoints = CheckpointManager(tmp_path / "checkpoints")
    for step in (10, 20):
        checkpoints.save(state(step=step))
    return checkpoints


def names(checkpoints: CheckpointManager) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def shard(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def test_round_trip(checkpoints):
    latest = checkpoints.latest()
    assert (latest.stage, latest.step, latest.metadata) == ("latents", 20, {"x": [20]})
    tensors = latest.read("")
    assert tensors.keys() == state().tensors.keys()
    for name, tensor in state(step=20).tensors.items():
        assert tensors[name].dtype == tensor.dtype and tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name].nan_to_num(), tensor.nan_to_num())
    assert latest.read("ema.").keys() == latest.shapes("ema.").keys() == {"a"}


def test_tensors_are_read_in_place(checkpoints):
    tensor = torch.zeros(2, 8)
    checkpoints.latest().read_into({"step": tensor[:, ::2][1]}, "model.")
    assert tensor[1].tolist() == [20, 0] * 4 and not tensor[0].any()


def test_no_checkpoints(tmp_path):
    assert CheckpointManager(tmp_path / "none").latest() is None


def test_the_last_two_of_each_stage_are_kept(checkpoints):
    for stage, step in (("latents", 100), ("base", 5), ("base", 10), ("base", 15)):
        checkpoints.save(state(stage, step))
    assert names(checkpoints) == ["base-00000010", "base-00000015", "latents-00000020", "latents-00000100"]
    assert (checkpoints.latest().stage, checkpoints.latest().step) == ("base", 15)  # although latents has a higher step
    assert checkpoints.latest("latents").step == 100


def test_milestones_are_kept_for_good(tmp_path):
    kept = CheckpointManager(tmp_path / "checkpoints", milestone_every=20)
    for step in (10, 20, 30, 40, 50, 60, 70):
        kept.save(state(step=step))
    assert [step for _, step, _ in kept.list_checkpoints()] == [20, 40, 60, 70]
    kept.save(state(step=30))  # back to an earlier step: later ones will be trained again
    assert [step for _, step, _ in kept.list_checkpoints()] == [20, 30]


def test_only_checkpoints_of_exact_names_are_deleted(checkpoints, tmp_path):
    """Names that almost fit, links, files, and folders with files of the user stay when checkpoints become obsolete."""
    folder, elsewhere = checkpoints.folder, tmp_path / "elsewhere"
    elsewhere.mkdir()
    others = ["latents-10", "latents-000000011", "latents-0000000٣", "latents-00000010-x", "base-1", ".latents-7.tmp"]
    for name in others:
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("mine")
    (folder / "latents-00000012").symlink_to(elsewhere, target_is_directory=True)
    (folder / ".latents-00000013.tmp").symlink_to(elsewhere, target_is_directory=True)
    (folder / "latents-00000014").write_text("mine")
    (folder / ".latents-00000014.tmp").write_text("mine")
    (folder / "latents-00000010" / "notes.txt").write_text("mine")
    (folder / ".latents-00000015.tmp").mkdir()  # the remains of an interrupted write
    (folder / "latents-00000016").mkdir()  # the remains of an interrupted deletion
    before = set(names(checkpoints))
    for step in (30, 40):
        checkpoints.save(state(step=step))
    deleted = {".latents-00000015.tmp", "latents-00000016", "latents-00000020"}
    assert set(names(checkpoints)) == before - deleted | {"latents-00000030", "latents-00000040"}
    assert elsewhere.is_dir() and (folder / "latents-00000010" / "notes.txt").read_text() == "mine"


def test_steps_sort_as_numbers(checkpoints):
    checkpoints.save(state(step=100_000_000))
    assert checkpoints.latest().step == 100_000_000
    assert [step for _, step, _ in checkpoints.list_checkpoints()] == [20, 100_000_000]


# --------------------------------------------------------------------------------------------------------------- damage


def edit(folder: Path, change) -> None:
    """Change the content of checkpoint.json and update its digest."""
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["digest"]
    change(content)
    path.write_text(json.dumps({**content, "digest": format._digest(content)}))


def forge(folder: Path, offsets: list[int]) -> None:
    """A valid shard whose metadata places its tensor elsewhere in a huge one."""
    metadata = {"DCP_SHARDING_INFO": json.dumps({"model.a": {"saved_offsets": offsets}})}
    save_file({"model.a": torch.zeros(2)}, shard(folder), metadata=metadata)
    edit(folder, lambda content: content["files"].update({shard(folder).name: format.sha256(shard(folder))}))


DAMAGE = {
    "no metadata": lambda folder: (folder / "checkpoint.json").unlink(),
    "no shard": lambda folder: shard(folder).unlink(),
    "empty metadata": lambda folder: (folder / "checkpoint.json").write_bytes(b""),
    "an empty shard": lambda folder: shard(folder).write_bytes(b""),
    "a list": lambda folder: (folder / "checkpoint.json").write_text("[]"),
    "deeply nested": lambda folder: (folder / "checkpoint.json").write_text("[" * 100_000),
    "not text": lambda folder: (folder / "checkpoint.json").write_bytes(b"\xff" * 9),
    "a file instead of a folder": lambda folder: shutil.rmtree(folder) or folder.write_text("hello"),
    "an unlisted shard": lambda folder: shutil.copy(shard(folder), folder / "more.safetensors"),
    "a shard outside the folder": lambda folder: edit(
        folder, lambda content: content["files"].update({"../x.safetensors": "0"})
    ),
    "no digests": lambda folder: edit(folder, lambda content: content.update(files=3)),
    "no step": lambda folder: edit(folder, lambda content: content.pop("step")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, checkpoints):
    damage(checkpoints.folder / "latents-00000020")
    with pytest.warns(UserWarning, match=r"^[^\n]*latents-00000020: .*; going back to the checkpoint before$"):
        assert checkpoints.latest().step == 10


def test_truncated_files_and_flipped_bits_are_detected(checkpoints):
    folder = checkpoints.folder / "latents-00000020"
    for file in (shard(folder), folder / "checkpoint.json"):
        content = file.read_bytes()
        for i in range(0, len(content) - 1, 5):  # the last byte is the final newline, which is not checked
            flipped = bytearray(content)
            flipped[i] ^= 1 << i % 8
            for damaged in (bytes(flipped), content[:i]):
                file.write_bytes(damaged)
                with pytest.raises(DamagedFile, match="latents-00000020: ") as error:
                    Checkpoint.open(folder)
                assert str(error.value).isprintable()
        file.write_bytes(content)
    assert checkpoints.latest().step == 20


@pytest.mark.parametrize("offsets", [[10**15], [1], [-2], [], ["a"], None], ids=str)
def test_wrong_offsets_in_a_shard_do_not_fill_the_memory(offsets, checkpoints):
    folder = checkpoints.folder / "latents-00000020"
    forge(folder, offsets)
    with pytest.raises(DamagedFile, match="latents-00000020: a damaged checkpoint"):
        Checkpoint.open(folder).read("model.")


def test_from_a_damaged_second_stage_back_to_the_first(checkpoints):
    shard(checkpoints.save(state("base", 5))).write_bytes(b"")
    with pytest.warns(UserWarning, match="base-00000005"):
        assert (checkpoints.latest().stage, checkpoints.latest().step) == ("latents", 20)


def test_all_damaged(checkpoints):
    for _, _, path in checkpoints.list_checkpoints():
        shard(path).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="going back"),
        pytest.raises(ValueError, match=r"^[^\n]*every checkpoint is damaged; start again with --fresh$"),
    ):
        checkpoints.latest()


def test_a_run_that_went_back_deletes_later_checkpoints(checkpoints):
    """Otherwise the two newest would be the damaged one and a single good one."""
    for stage, step in (("latents", 20), ("base", 5)):
        shard(checkpoints.save(state(stage, step))).write_bytes(b"")
    checkpoints.save(state(step=15))
    assert names(checkpoints) == ["latents-00000010", "latents-00000015"]


def test_a_damaged_checkpoint_is_replaced(checkpoints):
    shard(checkpoints.folder / "latents-00000020").write_bytes(b"")
    checkpoints.save(state(step=20))
    assert checkpoints.latest().step == 20


def test_a_newer_format_is_refused_instead_of_skipped(checkpoints, monkeypatch):
    monkeypatch.setattr(format, "FORMAT", 3)
    checkpoints.save(state(step=30))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="written in format 3, this ulzoo reads format 2; upgrade ulzoo"):
        checkpoints.latest()


def test_unknown_files_are_ignored_and_kept(checkpoints):
    unknown = {"notes.txt", "latents-00000030.bak", "latents-x", ".notes.txt.tmp"}
    for name in unknown:
        (checkpoints.folder / name).touch()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="ulzoo")
        assert checkpoints.latest().step == 20
    checkpoints.save(state(step=30))
    assert unknown <= set(names(checkpoints))


def test_unfinished_checkpoints_are_ignored_and_deleted(checkpoints):
    unfinished = checkpoints.folder / ".latents-00000025.tmp"
    unfinished.mkdir()
    (unfinished / "half").write_bytes(b"half a checkpoint")
    assert checkpoints.latest().step == 20
    checkpoints.save(state(step=30))
    assert names(checkpoints) == ["latents-00000020", "latents-00000030"]


def test_a_deletion_that_was_interrupted_is_finished(checkpoints):
    checkpoints.save(state(step=30))
    kept = names(checkpoints)
    for name in ("latents-00000010", ".latents-00000015.tmp"):  # half deleted, after the last checkpoint was complete
        (checkpoints.folder / name).mkdir()
        (checkpoints.folder / name / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    checkpoints.finish_deletion("latents", 25)  # a checkpoint that does not exist: nothing is sure to be obsolete
    assert len(names(checkpoints)) == len(kept) + 2
    checkpoints.finish_deletion("latents", 30)
    assert names(checkpoints) == kept and not list(checkpoints.folder.glob(".*"))


# ---------------------------------------------------------------------------------------------- what cannot be written


def test_a_failed_write_keeps_the_earlier_checkpoints(checkpoints):
    """A file in place of a folder simulates missing permissions, which root always has."""
    (checkpoints.folder / ".latents-00000030.tmp").write_text("in the way")
    with pytest.raises(OSError):
        checkpoints.save(state(step=30))
    assert checkpoints.latest().step == 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the limit is set in a forked process")
def test_a_disk_that_fills_up_while_writing(checkpoints):
    """Files are limited to 300 bytes, so that the shard is truncated."""
    import resource
    import signal

    if (child := os.fork()) == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        try:
            checkpoints.save(state(step=30))
        except OSError as error:
            os._exit(0 if error.strerror else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(checkpoints) == ["latents-00000010", "latents-00000020"]
    assert checkpoints.latest().step == 20
