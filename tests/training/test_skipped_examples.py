"""Unreadable examples are counted, named in warnings and listed in a file; a resumed run continues the list."""

import warnings
from pathlib import Path

import pytest
from PIL import Image

from ulzoo.data import ImageFolder
from ulzoo.registry.compile import compile_model
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.monitoring import NAMED_IN_WARNINGS, SkippedExamples, read_rows
from ulzoo.training.trainer import Trainer, TrainerOptions


class Skipping(ImageFolder):
    skips_unreadable = True


@pytest.fixture
def source(tmp_path: Path) -> Skipping:
    """50 images, of which every tenth is unreadable."""
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(50):
            Image.new("RGB", (16, 16), (5 * i, 0, 0)).save(tmp_path / "images" / split / f"{i:02}.png")
    for i in range(0, 50, 10):
        (tmp_path / "images" / "train" / f"{i:02}.png").write_bytes(b"hello")
    return Skipping("train", root=str(tmp_path / "images"), resolution=16, verify=False)


def trainer(tiny, source: Skipping, folder: Path, *overrides: str) -> Trainer:
    spec = tiny("train.latents.log_every=5", *overrides)
    return Trainer(compile_model(spec), "latents", spec.train.latents, source, folder, TrainerOptions({}))


def test_a_run_counts_warns_and_lists(tiny, source: Skipping, tmp_path: Path) -> None:
    one = trainer(tiny, source, tmp_path / "run", "train.latents.steps=10")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one.run()
    messages = [str(warning.message) for warning in caught if "skipped" in str(warning.message)]
    assert len(messages) == NAMED_IN_WARNINGS + 1
    assert all(message.endswith(".png: not an image") for message in messages[:NAMED_IN_WARNINGS])
    expected = f"more than {NAMED_IN_WARNINGS} examples are skipped: see {tmp_path}/run/skipped.txt"
    assert messages[NAMED_IN_WARNINGS] == expected
    lines = (tmp_path / "run/skipped.txt").read_text().splitlines()
    assert lines == [f"{source.paths[i]}: not an image" for i in range(0, 50, 10)]
    rows = read_rows(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10]
    assert 0 < rows[0]["skipped"] <= rows[1]["skipped"] == 5


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("earlier_name", [False, True])
def test_a_resumed_run_continues_the_list(tiny, source: Skipping, tmp_path: Path, earlier_name: bool) -> None:
    often = ("train.latents.log_every=2", "train.latents.decay=constant")
    reference = trainer(tiny, source, tmp_path / "reference", "train.latents.steps=10", *often)
    reference.run()
    trainer(tiny, source, tmp_path / "half", "train.latents.steps=6", *often).run()
    half = trainer(tiny, source, tmp_path / "half", "train.latents.steps=10", *often)
    checkpoint = CheckpointManager(tmp_path / "half/checkpoints").latest()
    if earlier_name:  # of the key and the file in runs of earlier versions
        checkpoint.metadata["left_out"] = checkpoint.metadata.pop("skipped")
        (tmp_path / "half/skipped.txt").rename(tmp_path / "half/left_out.txt")
    half.resume(checkpoint)
    half.run()
    assert half.skipped.reasons == reference.skipped.reasons
    assert (tmp_path / "half/skipped.txt").read_bytes() == (tmp_path / "reference/skipped.txt").read_bytes()
    last = [read_rows(tmp_path / name / "metrics.jsonl")[-1] for name in ("reference", "half")]
    assert last[0]["skipped"] == last[1]["skipped"] and last[0]["loss"] == last[1]["loss"]


def test_a_run_that_skips_nothing_writes_no_list(tiny, tmp_path: Path) -> None:
    from ulzoo.registry.compile import open_source

    spec, options = tiny("train.latents.steps=5", "train.latents.log_every=5"), TrainerOptions({})
    one = Trainer(compile_model(spec), "latents", spec.train.latents, open_source(spec, "train"), tmp_path, options)
    one.run()
    assert "skipped" not in read_rows(tmp_path / "metrics.jsonl")[-1]
    assert "skipped" not in CheckpointManager(tmp_path / "checkpoints").latest().metadata
    assert not (tmp_path / "skipped.txt").exists()


def test_the_list_is_that_of_all_stages(tmp_path: Path) -> None:
    for index, line in ((3, "b: broken"), (1, "a: broken"), (3, "b: broken")):
        stage = SkippedExamples(tmp_path)
        with pytest.warns(UserWarning, match=f"skipped: {line}"):
            stage.add({index: line})
        assert stage.write() == 1
    assert (tmp_path / "skipped.txt").read_text() == "a: broken\nb: broken\n"
    assert SkippedExamples(tmp_path).write() == 0
