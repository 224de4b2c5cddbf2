"""Videos in WebDataset shards (tar files), with random access; Kinetics-600 as `ulzoo prepare` packs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from ulzoo.data.source import ListedExample
from ulzoo.data.storage.remote import StoragePath
from ulzoo.data.storage.shards import (
    ByteRange,
    find_shards,
    label_error,
    read_examples,
    read_label_names,
    read_range,
)
from ulzoo.data.videos.decode import UnreadableVideo
from ulzoo.data.videos.video_folder import Video, VideoSource

MAX_BYTES = 2**30  # of a video, which is read at once


class VideoShards(VideoSource):
    """WebDataset shards of MP4 videos: `root/train-*.tar` and `root/val-*.tar` with `KEY.mp4` and `KEY.cls`.

    `KEY.cls` contains the label in ASCII digits, `root/labels.json` optionally a list of label names. The shards are
    scanned once, and videos then read by random access. Shards are never unpacked to disk: the name of a member is only
    its key. Videos that cannot be read, or are too short, are skipped; a damaged shard is an error.

    Args:
        split: "train" or "val".
        root: the folder of shards.
        resolution: side of the square that frames are resized and cropped to, in pixels.
        frames: frames per clip.
        frame_rate: frames per second that videos are resampled to; null to use their own frames.
        stride: a clip uses every stride-th of these frames.
        hflip: mirror training clips with probability 1/2.
        num_classes: number of labels; null to ignore labels.

    Raises:
        ValueError: no shards, a shard missing or damaged, a video without a label below `num_classes`, a labels.json
            that does not match, or keys out of range.
    """

    hint: ClassVar[str] = ""
    """How to create the shards, for the error message if there are none."""

    def __init__(
        self,
        split: str,
        *,
        root: str,
        resolution: int,
        frames: int = 16,
        frame_rate: float | None = None,
        stride: int = 1,
        hflip: bool = True,
        num_classes: int | None = None,
    ) -> None:
        contract = self.describe(
            resolution=resolution, frames=frames, frame_rate=frame_rate, stride=stride, num_classes=num_classes
        )
        folder = Path(root).expanduser()
        self.shards = list(find_shards(folder, split, self.hint))
        names = () if num_classes is None else read_label_names(folder / "labels.json", num_classes)
        self.keys: list[str] = []
        rows: list[tuple[int, int, int, int]] = []
        for number, shard in enumerate(self.shards):
            for key, video, label in _videos(shard, num_classes):
                self.keys.append(key)
                rows.append((number, *video, label))
        if not rows:
            raise ValueError(f"{folder}: no videos (KEY.mp4) in its {len(self.shards)} {split} shards")
        self.rows = np.array(rows, np.int64)  # (N, 4): shard, offset, size, label
        super().__init__(replace(contract, label_names=names), frame_rate, stride, hflip)

    def __len__(self) -> int:
        return len(self.keys)

    def list_examples(self, count: int) -> Iterable[ListedExample]:
        written = [shard.stat().st_mtime_ns for shard in self.shards]
        for key, (shard, _, size, label) in zip(self.keys[:count], self.rows.tolist(), strict=False):
            yield ListedExample(key, label, size, written[shard])

    def video(self, index: int) -> Video:
        """Read a video. Raises ValueError if its shard has changed since the scan."""
        number, offset, size, label = map(int, self.rows[index])
        shard, key = self.shards[number], self.keys[index]
        if size > MAX_BYTES:
            raise UnreadableVideo(f"{shard}: {key}.mp4: larger than {MAX_BYTES >> 30} GiB")
        return Video(read_range(shard, ByteRange(offset, size)), f"{shard}: {key}.mp4", label, key)


def _videos(shard: StoragePath, num_classes: int | None) -> Iterator[tuple[str, ByteRange, int]]:
    """Key, byte range and label (-1 for none) of a shard's videos in order."""
    for key, ranges, label in read_examples(shard, ("mp4",) if num_classes is None else ("mp4", "cls")):
        if "mp4" in ranges:
            if num_classes is not None and not 0 <= label < num_classes:
                raise label_error(shard, key, ranges.get("cls"), num_classes)
            yield key, ranges["mp4"], label


class Kinetics600(VideoShards):
    """Kinetics-600: 600 human actions, in segments of about ten seconds of YouTube videos.

    ulzoo cannot distribute the videos: download them, then pack them into shards by `ulzoo prepare kinetics600`. The
    shards are read as in `VideoShards`.

    Args:
        split: "train" or "val".
        root: the folder of prepared shards.
        resolution: side of the square that frames are resized and cropped to, in pixels.
        frames: frames per clip.
        frame_rate: frames per second that videos are resampled to; null to use their own frames.
        stride: a clip uses every stride-th of these frames.
        hflip: mirror training clips with probability 1/2.
        num_classes: number of prepared classes; null to ignore labels.

    Raises:
        ValueError: as for `VideoShards`; the message about missing data names the command.
    """

    hint: ClassVar[str] = (
        "`ulzoo prepare kinetics600 --videos DIR --annotations FILE.csv --out DIR [--split val]` writes them"
    )

    def __init__(
        self,
        split: str,
        *,
        root: str,
        resolution: int = 128,
        frames: int = 16,
        frame_rate: float | None = None,
        stride: int = 1,
        hflip: bool = True,
        num_classes: int | None = 600,
    ) -> None:
        super().__init__(
            split,
            root=root,
            resolution=resolution,
            frames=frames,
            frame_rate=frame_rate,
            stride=stride,
            hflip=hflip,
            num_classes=num_classes,
        )
