"""Atari rollouts to shards: what is in them, the same bytes in any order and after an interruption, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from ulzoo.data import VideoShards, WebDataset
from ulzoo.data.prepare import atari
from ulzoo.data.prepare.atari import RolloutEncoding, RolloutExample, prepare_atari, render_rollout
from ulzoo.data.prepare.pack import PackConfig
from ulzoo.data.storage.manifest import SplitSummary, verify
from ulzoo.data.videos.atari import open_emulator

pytest.importorskip("ale_py")
GAMES = ("pong", "breakout")
IMAGES = RolloutEncoding(32, games=GAMES)
CLIPS = RolloutEncoding(32, 4, GAMES)


@pytest.fixture(autouse=True)
def short_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images or six clips each."""
    monkeypatch.setattr(atari, "STEPS_PER_ROLLOUT", 24)
    monkeypatch.setattr(atari, "BURN_IN", 60)
    render_rollout.cache_clear()


def prepare(out: Path, encoding: RolloutEncoding, split: str = "train", count: int = 11) -> SplitSummary:
    return prepare_atari(PackConfig(out, split, encoding, per_shard=5), count=count)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_images_for_webdataset(tmp_path: Path) -> None:
    assert (prepare(tmp_path, IMAGES).count, prepare(tmp_path, IMAGES, "val", 4).count) == (11, 4)
    assert verify(tmp_path) == {"train": "11 images", "val": "4 images"}
    train, val = (WebDataset(split, root=str(tmp_path), resolution=32, num_classes=2) for split in ("train", "val"))
    assert train.contract.label_names == val.contract.label_names == GAMES
    samples = [train[i] for i in range(11)]
    assert [sample.label for sample in samples] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    assert [sample.key for sample in samples][-2:] == ["train/breakout/0000003", "train/breakout/0000004"]
    for i, sample in enumerate(samples):
        rollout = render_rollout(IMAGES, "train", GAMES[sample.label], i // 6)
        assert np.array_equal(sample.pixels.permute(1, 2, 0), rollout[i % 3, 0])
    assert len({val[i].pixels.numpy().tobytes() for i in range(4)} | {s.pixels.numpy().tobytes() for s in samples}) > 13


def test_clips_for_video_shards(tmp_path: Path) -> None:
    assert prepare(tmp_path, CLIPS, count=5).count == 5
    source = VideoShards("train", root=str(tmp_path), resolution=32, frames=4, frame_rate=15.0, num_classes=2)
    assert source.contract.label_names == GAMES and [source[i].label for i in range(5)] == [0, 0, 0, 1, 1]
    for i, sample in enumerate(source[i] for i in range(5)):
        assert np.array_equal(
            sample.pixels.permute(1, 2, 3, 0), render_rollout(CLIPS, "train", GAMES[i // 3], 0)[i % 3]
        )


def test_an_example_does_not_depend_on_those_before() -> None:
    examples = [RolloutExample("train", "pong", number, 0) for number in range(5)]
    files = [list(example.files(IMAGES)) for example in examples]
    assert len({suffixed[0][1] for suffixed in files}) == 5
    open_emulator("pong").advance(open_emulator("pong").actions[1], 7)
    render_rollout.cache_clear()
    assert [list(examples[i].files(IMAGES)) for i in (4, 1, 3)] == [files[i] for i in (4, 1, 3)]
    alone = RolloutEncoding(32, games=("pong",))
    assert next(iter(RolloutExample("train", "pong", 1, 0).files(alone))) == files[1][0]
    assert next(iter(RolloutExample("val", "pong", 1, 0).files(IMAGES))) != files[1][0]


def test_images_of_a_pause_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ms. Pac-Man waits more than four seconds before it starts, and its ghosts blink."""
    monkeypatch.setattr(atari, "STEPS_PER_ROLLOUT", 64)
    monkeypatch.setattr(atari, "BURN_IN", 0)
    images = render_rollout(RolloutEncoding(32, games=("ms_pacman",)), "train", "ms_pacman", 0)
    assert images.shape == (8, 1, 32, 32, 3) and len(np.unique(images.reshape(8, -1), axis=0)) == 8


def test_an_interrupted_preparation_continues_to_the_same_bytes(tmp_path: Path) -> None:
    def stop(progress) -> None:
        if progress.done == 7:
            raise KeyboardInterrupt

    prepare(tmp_path / "a", IMAGES)
    with pytest.raises(KeyboardInterrupt):
        prepare_atari(PackConfig(tmp_path / "b", "train", IMAGES, per_shard=5), count=11, on_progress=stop)
    assert [path.name for path in (tmp_path / "b").glob("*.tar")] == ["train-00000.tar"]
    written = (tmp_path / "b/train-00000.tar").stat().st_mtime_ns
    prepare(tmp_path / "b", IMAGES)
    assert (tmp_path / "b/train-00000.tar").stat().st_mtime_ns == written
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first == second


def test_a_split_with_other_settings_is_rejected(tmp_path: Path) -> None:
    prepare(tmp_path, IMAGES, count=2)
    for encoding, words in (
        (RolloutEncoding(32, games=GAMES[::-1]), "games was ['pong', 'breakout'], now ['breakout', 'pong']; choose"),
        (CLIPS, "train was prepared with other settings: frame_rate was None, now 15.0; "),
    ):
        with pytest.raises(ValueError) as error:
            prepare(tmp_path, encoding, "val", 2)
        assert str(error.value).startswith(f"{tmp_path}: train was prepared") and words in str(error.value)
    assert json.loads((tmp_path / "labels.json").read_text()) == list(GAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((32, None, ("pongg",)), "games: ale-py has no 'pongg'; did you mean 'pong'?"),
        ((0,), "resolution must be at least 1, not 0"),
        ((32, 1), "frames must be at least 2, not 1; leave it out for single images"),
        ((33, 4), "resolution must be an even number of at least 16"),
    ],
)
def test_encodings_out_of_range(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError) as error:
        RolloutEncoding(*arguments)
    assert str(error.value).startswith(message)
