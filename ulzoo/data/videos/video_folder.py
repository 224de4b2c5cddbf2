"""Sources that decode videos on access, and the simplest of them: a folder of videos."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ulzoo.data.fingerprint import describe_files, file_content
from ulzoo.data.source import MIDDLE, DataContract, ListedExample, Placement, Sample, Source
from ulzoo.data.storage.class_folders import ClassFolders, check_num_classes
from ulzoo.data.videos.decode import UnreadableVideo, read_clip

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v"),
    *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".ogv", ".ogm", ".mxf", ".rm", ".rmvb", ".y4m", ".gif"),
)


class Video(NamedTuple):
    """One video of a source: its path or content, its name in messages, its label or -1, its key."""

    file: str | Path | bytes
    name: str
    label: int
    key: str


class VideoSource(Source):
    """One clip per video: at a random position in training, else the middle one. See `ulzoo.data.videos.decode`.

    Args:
        contract: of the clips.
        frame_rate: frames per second that videos are resampled to; None to use their own frames.
        stride: a clip uses every `stride`-th of these frames.
        hflip: whether `batches` may mirror the clips.
    """

    skips_unreadable = True

    def __init__(self, contract: DataContract, frame_rate: float | None, stride: int, hflip: bool) -> None:
        self.contract, self.frame_rate, self.stride, self.hflip = contract, frame_rate, stride, hflip

    @classmethod
    def describe(
        cls,
        *,
        resolution: int,
        frames: int,
        frame_rate: float | None,
        stride: int,
        num_classes: int | None,
        **_: object,
    ) -> DataContract:
        """The contract for these keys, without `label_names`. Raises ValueError for a key out of range."""
        for key, value in (("resolution", resolution), ("frames", frames), ("stride", stride)):
            if value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        if frame_rate is not None and not 0 < frame_rate <= 1000:
            raise ValueError(
                f"frame_rate must be above 0 and at most 1000, or null for the files' own, not {frame_rate}"
            )
        check_num_classes(num_classes, "videos")
        clip_rate = None if frame_rate is None else frame_rate / stride
        return DataContract(3, resolution, num_classes or 0, frames=frames, frame_rate=clip_rate)

    @abstractmethod
    def video(self, index: int) -> Video: ...

    def __getitem__(self, index: int) -> Sample:
        """Raises UnreadableVideo, a ValueError that names the video."""
        return self.place(index, MIDDLE)

    def draw(self, index: int, position: float) -> Sample:
        """Raises UnreadableVideo, a ValueError that names the video."""
        return self.place(index, Placement(position))

    def content(self, index: int) -> bytes:
        """The video itself, since its decoded pixels depend on the version of FFmpeg and on the processor."""
        file = self.video(index).file
        return file if isinstance(file, bytes) else file_content(file)

    def place(self, index: int, placement: Placement) -> Sample:
        """Raises UnreadableVideo, a ValueError that names the video."""
        video = self.video(index)
        if video.file == b"" or (not isinstance(video.file, bytes) and _is_empty(video.file)):
            raise UnreadableVideo(f"{video.name}: an empty file")
        frames, resolution, _ = self.contract.size
        clip = read_clip(
            video.file,
            video.name,
            frames=frames,
            resolution=resolution,
            frame_rate=self.frame_rate,
            stride=self.stride,
            placement=placement,
        )
        return Sample(clip, video.label, video.key)


def _is_empty(file: str | Path) -> bool:
    return os.path.isfile(file) and os.path.getsize(file) == 0


class VideoFolder(VideoSource):
    """A folder of videos of any format that FFmpeg reads, with one subfolder per class if there are classes.

    Splits, classes and labels are defined by `ulzoo.data.storage.class_folders`: `root/train` and `root/val`, or a
    held-out fraction of `root`. The key of a video is its path relative to `root`. Videos that cannot be read, or are
    too short, are skipped.

    Args:
        split: "train", "val", or "all" videos of the folder.
        root: the folder.
        resolution: side of the square that frames are resized and cropped to, in pixels.
        frames: frames per clip.
        frame_rate: frames per second that videos are resampled to; null to use their own frames.
        stride: a clip uses every stride-th of these frames.
        hflip: mirror training clips with probability 1/2.
        num_classes: number of class folders; null for videos without labels.
        val_fraction: fraction of the videos held out for val if there are no folders train and val.

    Raises:
        ValueError: no such folder, no videos in it, not `num_classes` class folders, or keys out of range.
    """

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
        val_fraction: float = 0.1,
    ) -> None:
        contract = self.describe(
            resolution=resolution, frames=frames, frame_rate=frame_rate, stride=stride, num_classes=num_classes
        )
        self.folders = ClassFolders(Path(root).expanduser(), "videos", SUFFIXES, num_classes, val_fraction)
        self.files, label_names = self.folders.split(split)
        super().__init__(replace(contract, label_names=label_names), frame_rate, stride, hflip)

    def __len__(self) -> int:
        return len(self.files)

    def list_examples(self, count: int) -> Iterable[ListedExample]:
        return (describe_files(self.folders.key(path), label, path) for path, label in self.files[:count])

    def video(self, index: int) -> Video:
        path, label = self.files[index]
        return Video(path, path, label, self.folders.key(path))
