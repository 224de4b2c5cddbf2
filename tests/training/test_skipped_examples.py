"""What cannot be read is counted, named and written down, and a run that was stopped knows the same."""

import warnings
from pathlib import Path

import pytest
from PIL import Image

from ulzoo.data import ImageFolder
from ulzoo.registry.compile import compile_model
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.monitoring import NAMED, SkippedExamples, read_rows
from ulzoo.training.trainer import Trainer


class Skipping(ImageFolder):
    skips_unreadable = True


@pytest.fixture
def source(tmp_path: Path) -> Skipping:
    """50 images, of which every tenth is none."""
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(50):
            Image.new("RGB", (16, 16), (5 * i, 0, 0)).save(tmp_path / "images" / split / f"{i:02}.png")
    for i in range(0, 50, 10):
        (tmp_path / "images" / "train" / f"{i:02}.png").write_bytes(b"hello")
    return Skipping("train", root=str(tmp_path / "images"), resolution=16, verify=False)


def trainer(tiny, source: Skipping, folder: Path, *overrides: str) -> Trainer:
    spec = tiny("train.latents.log_every=5", *overrides)
    return Trainer(compile_model(spec), "latents", spec.train.latents, source, folder, {})


def test_a_run_counts_warns_and_lists(tiny, source: Skipping, tmp_path: Path) -> None:
    one = trainer(tiny, source, tmp_path / "run", "train.latents.steps=10")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one.run()
    messages = [str(warning.message) for warning in caught if "left out" in str(warning.message)]
    assert len(messages) == NAMED + 1
    assert all(message.endswith(".png: not an image") for message in messages[:NAMED])
    assert messages[NAMED] == f"more is left out than {NAMED} examples: see {tmp_path}/run/left_out.txt"
    lines = (tmp_path / "run/left_out.txt").read_text().splitlines()
    assert lines == [f"{source.paths[i]}: not an image" for i in range(0, 50, 10)]
    found = read_rows(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in found] == [5, 10]
    assert 0 < found[0]["left_out"] <= found[1]["left_out"] == 5


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_resumed_run_knows_what_the_first_one_left_out(tiny, source: Skipping, tmp_path: Path) -> None:
    often = ("train.latents.log_every=2", "train.latents.decay=constant")
    whole = trainer(tiny, source, tmp_path / "whole", "train.latents.steps=10", *often)
    whole.run()
    trainer(tiny, source, tmp_path / "half", "train.latents.steps=6", *often).run()
    half = trainer(tiny, source, tmp_path / "half", "train.latents.steps=10", *often)
    half.resume(CheckpointManager(tmp_path / "half/checkpoints").latest())
    half.run()
    assert half.left_out.found == whole.left_out.found
    assert (tmp_path / "half/left_out.txt").read_bytes() == (tmp_path / "whole/left_out.txt").read_bytes()
    last = [read_rows(tmp_path / name / "metrics.jsonl")[-1] for name in ("whole", "half")]
    assert last[0]["left_out"] == last[1]["left_out"] and last[0]["loss"] == last[1]["loss"]


def test_nothing_left_out_leaves_no_trace(tiny, tmp_path: Path) -> None:
    from ulzoo.registry.runs.train import open_source

    spec = tiny("train.latents.steps=5", "train.latents.log_every=5")
    one = Trainer(compile_model(spec), "latents", spec.train.latents, open_source(spec, "train"), tmp_path, {})
    one.run()
    assert "left_out" not in read_rows(tmp_path / "metrics.jsonl")[-1]
    assert "left_out" not in CheckpointManager(tmp_path / "checkpoints").latest().metadata
    assert not (tmp_path / "left_out.txt").exists()


def test_the_list_is_that_of_both_stages(tmp_path: Path) -> None:
    for index, line in ((3, "b: broken"), (1, "a: broken"), (3, "b: broken")):
        stage = SkippedExamples(tmp_path)
        with pytest.warns(UserWarning, match=f"left out: {line}"):
            stage.add({index: line})
        assert stage.write() == 1
    assert (tmp_path / "left_out.txt").read_text() == "a: broken\nb: broken\n"
    assert SkippedExamples(tmp_path).write() == 0
