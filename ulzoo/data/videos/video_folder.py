"""A folder of the user's own videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ulzoo.data.storage.class_folders import ClassFolders
from ulzoo.data.videos.source import Video, VideoSource

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v"),
    *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".ogv", ".ogm", ".mxf", ".rm", ".rmvb", ".y4m", ".gif"),
)


class VideoFolder(VideoSource):
    """Videos in a folder of the user's, of any format that FFmpeg reads; one folder a class where there are classes.

    Splits, classes and labels are those of `ulzoo.data.storage.class_folders`: `root/train` and `root/val`, or a share of
    `root` held out. A video's key is its path below `root`. One that cannot be read, or is too short, is left out.

    Args:
        split: "train" or "val".
        root: the folder.
        resolution: side of the square that frames are resized and cropped to.
        frames: frames of a clip.
        frame_rate: frames per second that videos are resampled to; null for their own frames.
        stride: a clip takes every stride-th of those frames.
        hflip: mirror every second training clip at random.
        num_classes: how many class folders there are; null for videos without labels.
        val_fraction: share of the videos held out where there are no folders train and val.

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

    def video(self, index: int) -> Video:
        path, label = self.files[index]
        return Video(path, path, label, self.folders.key(path))
