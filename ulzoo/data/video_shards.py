"""Videos in tar files: WebDataset shards, read at random."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from ulzoo.data.source import check_split
from ulzoo.data.video_decode import UnreadableVideo
from ulzoo.data.video_source import Video, VideoSource

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
        self.shards = self._find(folder, split)
        label_names = () if num_classes is None else _label_names(folder / "labels.json", num_classes)
        self.keys: list[str] = []
        rows: list[tuple[int, int, int, int]] = []
        for number, shard in enumerate(self.shards):
            for key, offset, size, label in _videos(shard, num_classes):
                self.keys.append(key)
                rows.append((number, offset, size, label))
        if not rows:
            raise ValueError(f"{folder}: no videos (KEY.mp4) in its {len(self.shards)} {split} shards")
        self.rows = np.array(rows, np.int64)  # (N, 4): shard, offset, size, label
        super().__init__(replace(contract, label_names=label_names), frame_rate, stride, hflip)

    def __len__(self) -> int:
        return len(self.keys)

    def video(self, index: int) -> Video:
        """Reads the video. Raises ValueError where its shard has changed since it was looked through."""
        number, offset, size, label = map(int, self.rows[index])
        shard, key = self.shards[number], self.keys[index]
        if size > LARGEST:
            raise UnreadableVideo(f"{shard}: {key}.mp4: larger than {LARGEST >> 30} GiB")
        return Video(_read(shard, offset, size), f"{shard}: {key}.mp4", label, key)

    @classmethod
    def _find(cls, folder: Path, split: str) -> list[Path]:
        check_split(split)
        shards = sorted(folder.glob(f"{split}-*.tar"))
        if not shards:
            hint = f"; {cls.hint}" if cls.hint else ""
            raise ValueError(f"{folder}: no shards in it (expected {split}-*.tar){hint}")
        numbers = [int(match[1]) for shard in shards if (match := re.fullmatch(rf"{split}-(\d+)\.tar", shard.name))]
        if missing := sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers)):
            width = len(shards[0].stem) - len(split) - 1
            raise ValueError(
                f"{folder}: {split}-{missing[0]:0{width}d}.tar is missing ({len(missing)} of {max(numbers) + 1} shards)"
            )
        return shards


def _videos(shard: Path, num_classes: int | None) -> Iterator[tuple[str, int, int, int]]:
    """(key, offset, size, label or -1) of a shard's videos, in its order."""
    videos: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    for name, offset, size in _members(shard):
        key, suffix = _split_name(name)
        if suffix == "mp4":
            if key in videos:
                raise ValueError(f"{shard}: holds {key!r}.mp4 twice")
            videos[key] = offset, size
        elif suffix == "cls" and num_classes is not None:
            labels[key] = _read(shard, offset, min(size, 32)).decode("ascii", "replace").strip()
    for key, (offset, size) in videos.items():
        label = labels.get(key, "no label")
        if num_classes is not None and not (re.fullmatch(r"[0-9]{1,9}", label) and int(label) < num_classes):
            raise ValueError(f"{shard}: {key!r}.cls must hold a label from 0 to {num_classes - 1}, not {label!r}")
        yield key, offset, size, -1 if num_classes is None else int(label)


def _split_name(name: str) -> tuple[str, str]:
    """WebDataset's key and suffix: apart at the first dot of the last part of the path."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the plain files in a tar. Raises ValueError where it is damaged or cut short."""
    try:
        length = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"{member.name!r} is cut short")
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps all it has seen
            end = tar.offset
        if not (rest := _read(shard, end, min(512, max(length - end, 0)))) or any(rest):  # blocks of zeros end a tar
            raise tarfile.ReadError(f"it has no end after {end} bytes: damaged or cut short")
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{shard}: not a whole tar file: {' '.join(reason.split())}") from error


def _read(shard: Path, offset: int, size: int) -> bytes:
    """Through a handle of its own, since workers would share a position."""
    try:
        with open(shard, "rb") as file:
            content = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise ValueError(f"{shard}: {error.strerror}") from error
    if len(content) < size:
        raise ValueError(f"{shard}: cut short since it was opened")
    return content


def _label_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """The names in a labels.json, () where there is none."""
    if not path.is_file():
        return ()
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: expected a list of names")
    if len(names) != num_classes:
        raise ValueError(f"{path}: has {len(names)} names, but num_classes is {num_classes}")
    return tuple(names)
