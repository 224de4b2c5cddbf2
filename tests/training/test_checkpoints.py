"""Checkpoints: the last two of each stage, checked when read, and what happens when they are damaged."""

import struct
import warnings
from pathlib import Path

import pytest
import torch

from ulzoo import tensorfile
from ulzoo.training.checkpoints import Checkpoint, Checkpoints


def checkpoint(stage: str = "latents", step: int = 1) -> Checkpoint:
    return Checkpoint(stage, step, {"model.a": torch.full((4,), float(step)), "ema.a": torch.zeros(1)}, {"x": [step]})


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    """With the steps 10 and 20 of the first stage."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (10, 20):
        checkpoints.save(checkpoint(step=step))
    return checkpoints


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_round_trip(checkpoints):
    latest = checkpoints.latest()
    assert (latest.stage, latest.step, latest.metadata["x"]) == ("latents", 20, [20])
    assert torch.equal(latest.part("model.")["a"], torch.full((4,), 20.0))
    assert list(latest.part("ema.")) == ["a"]


def test_nothing_yet(tmp_path):
    assert Checkpoints(tmp_path / "none").latest() is None


def test_the_last_two_of_each_stage_are_kept(checkpoints):
    for stage, step in (("latents", 100), ("base", 5), ("base", 10), ("base", 15)):
        checkpoints.save(checkpoint(stage, step))
    assert names(checkpoints) == [f"{name}.safetensors" for name in ("base-00000010", "base-00000015")] + [
        f"{name}.safetensors" for name in ("latents-00000020", "latents-00000100")
    ]
    assert (checkpoints.latest().stage, checkpoints.latest().step) == ("base", 15)  # though latents went further
    assert checkpoints.latest("latents").step == 100


def test_milestones_are_kept_for_good(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoints", milestone_every=20)
    for step in (10, 20, 30, 40, 50, 60, 70):
        kept.save(checkpoint(step=step))
    assert [step for _, step, _ in kept.files()] == [20, 40, 60, 70]
    kept.save(checkpoint(step=30))  # gone back: what comes later is of a future that is trained again
    assert [step for _, step, _ in kept.files()] == [20, 30]


def test_steps_sort_as_numbers(checkpoints):
    checkpoints.save(checkpoint(step=100_000_000))
    assert checkpoints.latest().step == 100_000_000
    assert [step for _, step, _ in checkpoints.files()] == [20, 100_000_000]


def header_length(path: Path) -> int:
    return struct.unpack("<Q", path.read_bytes()[:8])[0]


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit in the data": lambda path: flip(path, -1),
    "a flipped bit in the header": lambda path: flip(path, 8 + path.read_bytes()[8:].index(b'\\"x\\"') + 2),
    "a flipped bit in the header's length": lambda path: flip(path, 0),
    "an export": lambda path: tensorfile.write(path, "export", {"a": torch.zeros(1)}, {}),
    "not a file of ours": lambda path: path.write_text("hello"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_one_is_named_and_the_one_before_taken(damage, checkpoints):
    damage(checkpoints.folder / "latents-00000020.safetensors")
    with pytest.warns(UserWarning, match=r"latents-00000020\.safetensors: .*; going back to the checkpoint before"):
        assert checkpoints.latest().step == 10


def test_from_a_damaged_second_stage_back_to_the_first(checkpoints):
    checkpoints.save(checkpoint("base", 5)).write_bytes(b"")
    with pytest.warns(UserWarning, match="base-00000005"):
        assert (checkpoints.latest().stage, checkpoints.latest().step) == ("latents", 20)


def test_all_damaged(checkpoints):
    for _, _, path in checkpoints.files():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="going back"),
        pytest.raises(ValueError, match=r"^[^\n]*every checkpoint is damaged; start again with --fresh$"),
    ):
        checkpoints.latest()


def test_a_run_that_went_back_forgets_the_damaged_future(checkpoints):
    """Or else its two newest would be the damaged one and a single good one."""
    for stage, step in (("latents", 20), ("base", 5)):
        checkpoints.save(checkpoint(stage, step)).write_bytes(b"")
    checkpoints.save(checkpoint(step=15))
    assert names(checkpoints) == ["latents-00000010.safetensors", "latents-00000015.safetensors"]


def test_a_newer_format_is_refused_not_passed_over(checkpoints, monkeypatch):
    monkeypatch.setattr(tensorfile, "FORMAT", 2)
    checkpoints.save(checkpoint(step=30))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="written in format 2"):
        checkpoints.latest()


def test_strange_files_beside_them_are_ignored_and_left(checkpoints):
    for name in ("notes.txt", "latents-00000030.safetensors.bak", "latents-x.safetensors", ".notes.txt.tmp"):
        (checkpoints.folder / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.latest().step == 20
    checkpoints.save(checkpoint(step=30))
    assert {"notes.txt", "latents-00000030.safetensors.bak", "latents-x.safetensors", ".notes.txt.tmp"} <= set(
        names(checkpoints)
    )


def test_the_rest_of_a_killed_write_is_ignored_and_cleaned_away(checkpoints):
    rest = checkpoints.folder / ".latents-00000025.safetensors.tmp"
    rest.mkdir()
    (rest / "half").write_bytes(b"half a checkpoint")
    assert checkpoints.latest().step == 20
    checkpoints.save(checkpoint(step=30))
    assert names(checkpoints) == ["latents-00000020.safetensors", "latents-00000030.safetensors"]
