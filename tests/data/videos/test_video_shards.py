import gc
import io
import json
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from ulzoo.data import Emoji3DVideo, VideoShards, batches
from ulzoo.data.videos.decode import UnreadableVideo

Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def members(make_video: Callable[..., bytes]) -> Members:
    """Six videos of 16 to 21 frames with their labels."""
    return [part for i in range(6) for part in ((f"v{i}.mp4", make_video(16 + i)), (f"v{i}.cls", str(i % 3).encode()))]


@pytest.fixture
def root(tmp_path: Path, members: Members) -> Path:
    write_tar(tmp_path / "train-00000.tar", members[:4])
    write_tar(tmp_path / "train-00001.tar", members[4:])
    write_tar(tmp_path / "val-00000.tar", members[:2])
    (tmp_path / "labels.json").write_text(json.dumps(["x", "y", "z"]))
    return tmp_path


def opened(root: Path, split: str = "train", **keys: object) -> VideoShards:
    return VideoShards(split, **{"root": str(root), "resolution": 16, "frames": 4, "num_classes": 3, **keys})  # type: ignore[arg-type]


def refused(message: str, root: Path, split: str = "train", **keys: object) -> None:
    with pytest.raises(ValueError, match=message) as error:
        opened(root, split, **keys)
    assert str(error.value).isprintable()


def test_reads_every_video_with_its_label(root: Path, frame_numbers: Callable[[Tensor], list[int]]) -> None:
    source = opened(root)
    assert len(source) == 6 and len(opened(root, "val")) == 1
    for i in (5, 0, 3):
        clip, label, key, _ = source[i]
        assert (label, key) == (i % 3, f"v{i}")
        assert clip.shape == source.shape == (3, 4, 16, 16)
        middle = (16 + i - 4) // 2
        assert frame_numbers(clip) == list(range(middle, middle + 4))
        assert frame_numbers(source.draw(i, 1 - 1e-9)[0])[-1] == 15 + i
    assert source.label_names == ("x", "y", "z")
    described = VideoShards.describe(resolution=16, frames=4, frame_rate=None, stride=1, num_classes=3)
    assert (described.shape, described.num_classes) == (source.shape, 3)


def test_without_labels(root: Path) -> None:
    (root / "labels.json").write_text("no JSON")  # ignored
    source = opened(root, num_classes=None)
    assert {source[i][1] for i in range(6)} == {-1} and source.label_names == ()


def test_workers_read_the_same(root: Path) -> None:
    source = opened(root)
    serial, parallel = (list(islice(batches(source, 2, seed=0, workers=workers), 6)) for workers in (0, 2))
    for a, b in zip(serial, parallel, strict=True):
        assert a["key"] == b["key"] and torch.equal(a["x"], b["x"])


def test_keys_are_webdataset_s(tmp_path: Path, members: Members) -> None:
    video = members[0][1]
    names = ["a.mp4", "a.seg.mp4", "dir.x/b.mp4", "../../up.mp4", "/etc/c.MP4", "e\n\x1b[31m.mp4", "é.mp4", "._a.mp4"]
    write_tar(tmp_path / "train-0.tar", [(name, video) for name in names])
    source = opened(tmp_path, num_classes=None)
    assert source.keys == ["a", "dir.x/b", "../../up", "/etc/c", "e\n\x1b[31m", "é"]
    assert [source[i][0].shape for i in range(len(source))] == [source.shape] * len(source)


def test_links_folders_and_devices_are_not_videos(tmp_path: Path, members: Members) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, kind in (("l.mp4", tarfile.SYMTYPE), ("h.mp4", tarfile.LNKTYPE), ("d.mp4", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("v.mp4")
        info.size = len(members[0][1])
        tar.addfile(info, io.BytesIO(members[0][1]))
    assert opened(tmp_path, num_classes=None).keys == ["v"]


def test_no_shards(tmp_path: Path) -> None:
    refused(r"no shards in it \(expected train-\*\.tar\)$", tmp_path)
    refused(r"no shards in it", tmp_path / "absent")

    class Prepared(VideoShards):
        hint: ClassVar[str] = "`ulzoo prepare` writes them"

    with pytest.raises(ValueError, match=r"\(expected val-\*\.tar\); `ulzoo prepare` writes them"):
        Prepared("val", root=str(tmp_path), resolution=16)


def test_a_missing_shard_is_named(root: Path, members: Members) -> None:
    write_tar(root / "train-00004.tar", members)
    refused(r"train-00002\.tar is missing \(2 of 5 shards\)", root)
    (root / "train-00000.tar").unlink()
    refused(r"train-00000\.tar is missing \(3 of 5 shards\)", root)


@pytest.mark.parametrize("where", ["header", "body", "end", "empty"])
def test_a_truncated_shard_is_named(root: Path, where: str, members: Members) -> None:
    path = root / "train-00001.tar"
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    cut = {"header": last.offset + 100, "body": 700, "end": last.offset_data + 512, "empty": 0}[where]
    path.write_bytes(content[:cut])
    refused(r"train-00001\.tar: not a complete tar file: ", root)


def test_a_damaged_shard_is_named(root: Path) -> None:
    path = root / "train-00001.tar"
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2]
    content = bytearray(path.read_bytes())
    content[third.offset : third.offset + 200] = b"\x07" * 200
    path.write_bytes(content)
    refused(r"train-00001\.tar: not a complete tar file: ", root)
    path.write_bytes(b"hello" * 1000)
    refused(r"train-00001\.tar: not a complete tar file: ", root)


def test_a_shard_that_changes_while_in_use_is_an_error_and_not_skipped(root: Path) -> None:
    source = opened(root)
    (root / "train-00000.tar").write_bytes(b"")
    (root / "train-00001.tar").unlink()
    for i, message in ((0, r"00000\.tar: truncated since"), (5, r"00001\.tar: No such file")):
        with pytest.raises(ValueError, match=message) as error:
            source[i]
        assert not isinstance(error.value, UnreadableVideo)


@pytest.mark.parametrize("label", [b"3", b"-1", b"", b"x", b"1" * 100, "\u0663".encode(), None])
def test_bad_labels_are_named(root: Path, members: Members, label: bytes | None) -> None:
    wrong = [("bad.mp4", members[0][1])] + ([] if label is None else [("bad.cls", label)])
    write_tar(root / "train-00001.tar", wrong)
    refused(r"train-00001\.tar: 'bad'\.cls must contain a label from 0 to 2, not '", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [("no JSON", "not JSON"), ("{}", "a list of names"), ("[1, 2, 3]", "a list"), ('["x"]', "1 names")],
)
def test_a_labels_json_that_does_not_match(root: Path, content: str, message: str) -> None:
    (root / "labels.json").write_text(content)
    refused(rf"labels\.json: .*{message}", root)


def test_other_mistakes(root: Path, members: Members) -> None:
    write_tar(root / "val-00000.tar", [("a.txt", b"hello")])
    refused(r"no videos \(KEY\.mp4\) in its 1 val shards", root, "val")
    write_tar(root / "val-00000.tar", [members[0], members[0]])
    refused(r"val-00000\.tar: contains 'v0'\.mp4 twice", root, "val")
    refused("'test'", root, "test")
    refused("frames must be at least 1", root, frames=0)


class Collecting(Emoji3DVideo):
    """Runs the garbage collector before each clip."""

    def draw(self, index, position):
        gc.collect()
        return super().draw(index, position)


def test_a_worker_does_not_free_objects_served_by_threads_of_its_parent():
    """A forked worker would hang when freeing garbage of the parent: a frame that several threads have scaled."""

    class Knot: ...

    frame = av.VideoFrame.from_ndarray(np.zeros((512, 512, 3), np.uint8), format="rgb24")
    knot = Knot()
    knot.frame, knot.self = frame, knot
    frame.reformat(width=256, height=256, format="yuv420p", threads=4)
    del frame, knot
    stream = batches(Collecting("val", resolution=64, frames=4), 2, seed=0, workers=1)
    assert next(stream)["x"].shape == (2, 3, 4, 64, 64)
