from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ulzoo.data import VideoFolder
from ulzoo.data.videos.decode import UnreadableVideo

MakeVideo = Callable[..., bytes]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video: MakeVideo) -> Path:
    """Two classes, several formats, and in `train/b` a file that is not a video."""
    root = tmp_path_factory.mktemp("videos")
    for name, container in (("a/0.mp4", "mp4"), ("a/1.MKV", "matroska"), ("b/deep/2.avi", "avi"), ("b/3.ts", "mpegts")):
        for split in ("train", "val"):
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_video(20, container=container))
    (root / "train/b/4.webm").write_bytes(b"hello")
    (root / "train/b/notes.txt").write_text("not a video")
    return root


def test_classes_and_formats(videos: Path, frame_numbers: Callable[[Tensor], list[int]]) -> None:
    with pytest.warns(UserWarning, match=r"train: passed over 1 \.txt"):
        train = VideoFolder("train", root=str(videos), resolution=16, frames=4, num_classes=2)
    val = VideoFolder("val", root=str(videos), resolution=16, frames=4, num_classes=2)
    assert (len(train), len(val)) == (5, 4)
    read = [val[i] for i in range(4)]
    assert [(label, key) for _, label, key, _ in read] == [
        (0, "val/a/0.mp4"),
        (0, "val/a/1.MKV"),
        (1, "val/b/3.ts"),
        (1, "val/b/deep/2.avi"),
    ]
    assert all(clip.dtype == torch.uint8 and clip.shape == val.shape == (3, 4, 16, 16) for clip, *_ in read)
    assert [frame_numbers(clip) for clip, *_ in read][:3] == [[8, 9, 10, 11]] * 3
    assert frame_numbers(val.draw(0, 0.0)[0]) == [0, 1, 2, 3]
    assert train.contract == val.contract and train.label_names == ("a", "b") and train.skips_unreadable
    with pytest.raises(UnreadableVideo, match=r"train/b/4\.webm: "):
        train[3]


def test_contract(videos: Path) -> None:
    keys = {"root": str(videos), "resolution": 16, "frames": 3, "stride": 2}
    source = VideoFolder("val", **keys, frame_rate=4)  # type: ignore[arg-type]
    assert source.contract == VideoFolder.describe(**keys, frame_rate=4, num_classes=None, hflip=True)
    assert source.contract.frame_rate == 2 and source.contract.size == (3, 16, 16)
    assert VideoFolder.describe(**keys, frame_rate=None, num_classes=None).frame_rate is None
    assert {source[i][1] for i in range(4)} == {-1}


def test_val_is_held_out_without_split_folders(videos: Path, tmp_path: Path, make_video: MakeVideo) -> None:
    content = make_video(4)
    for i in range(40):
        (tmp_path / f"{i}.mp4").write_bytes(content)
    train, val = (VideoFolder(split, root=str(tmp_path), resolution=8, frames=4) for split in ("train", "val"))
    assert len(val) > 0 and len(train) + len(val) == 40
    assert not {train[i][2] for i in range(len(train))} & {val[i][2] for i in range(len(val))}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"resolution": 0}, "resolution must be at least 1, not 0"),
        ({"frames": 0}, "frames must be at least 1, not 0"),
        ({"stride": 0}, "stride must be at least 1, not 0"),
        ({"frame_rate": 0.0}, "frame_rate must be above 0 .*, not 0"),
        ({"frame_rate": -1.0}, "frame_rate must be above 0 .*, not -1"),
        ({"num_classes": 0}, "num_classes must be at least 1, or null for videos .* not 0"),
        ({"num_classes": 3}, "train: has 2 class folders, but num_classes is 3"),
        ({"val_fraction": 1.0}, "val_fraction must lie between 0 and 1"),
        ({"root": "/nowhere/at/all"}, "no such folder .expected one of videos"),
    ],
)
def test_bad_keys(videos: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        VideoFolder("train", **{"root": str(videos), "resolution": 16, **keys})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_no_videos(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no videos in it \(expected files \*\.mp4"):
        VideoFolder("train", root=str(tmp_path), resolution=16)
