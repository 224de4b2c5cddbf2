"""Videos in tar files: WebDataset shards, read at random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from ulzoo.data.storage.shards import Part, Place, bad_label, examples, find_shards, label_names, read_part
from ulzoo.data.videos.decode import UnreadableVideo
from ulzoo.data.videos.source import Video, VideoSource

LARGEST = 2**30  # bytes of a video; it is read whole


class VideoShards(VideoSource):
    """WebDataset shards of MP4 videos: `root/train-*.tar` and `root/val-*.tar` with `KEY.mp4` and `KEY.cls`.

    `KEY.cls` holds the label as ASCII digits; `root/labels.json` may hold a list of the labels' names. The tars are
    looked through once, and videos then read at random. They are never unpacked: a member's name is only its key. A
    video that cannot be read, or is too short, is left out; a shard that is damaged is an error.

    Args:
        split: "train" or "val".
        root: the folder of shards.
        resolution: side of the square that frames are resized and cropped to.
        frames: frames of a clip.
        frame_rate: frames per second that videos are resampled to; null for their own frames.
        stride: a clip takes every stride-th of those frames.
        hflip: mirror every second training clip at random.
        num_classes: how many labels there are; null to leave them unread.

    Raises:
        ValueError: no shards, a shard missing or damaged, a video without a label below `num_classes`, a labels.json
            that does not fit, or keys out of range.
    """

    hint: ClassVar[str] = ""
    """Said after "no shards": how to get them."""

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
        names = () if num_classes is None else label_names(folder / "labels.json", num_classes)
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

    def video(self, index: int) -> Video:
        """Reads the video. Raises ValueError where its shard has changed since it was looked through."""
        number, offset, size, label = map(int, self.rows[index])
        shard, key = self.shards[number], self.keys[index]
        if size > LARGEST:
            raise UnreadableVideo(f"{shard}: {key}.mp4: larger than {LARGEST >> 30} GiB")
        return Video(read_part(shard, Part(offset, size)), f"{shard}: {key}.mp4", label, key)


def _videos(shard: Place, num_classes: int | None) -> Iterator[tuple[str, Part, int]]:
    """(key, place, label or -1) of a shard's videos, in its order."""
    for key, parts, label in examples(shard, ("mp4",) if num_classes is None else ("mp4", "cls")):
        if "mp4" in parts:
            if num_classes is not None and not 0 <= label < num_classes:
                raise bad_label(shard, key, parts.get("cls"), num_classes)
            yield key, parts["mp4"], label
