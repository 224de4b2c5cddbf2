"""What sources of clips have in common that decode videos as they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import NamedTuple

from ulzoo.data.source import DataContract, Sample, Source
from ulzoo.data.storage.class_folders import check_num_classes
from ulzoo.data.videos.decode import read_clip


class Video(NamedTuple):
    """One video of a source: its path or content, what messages call it, its label or -1, its key."""

    file: str | Path | bytes
    name: str
    label: int
    key: str


class VideoSource(Source):
    """One clip a video: any in training, the middle one otherwise. `ulzoo.data.videos.decode` has the rules.

    Args:
        contract: of the clips.
        frame_rate: frames per second that videos are resampled to; None for their own frames.
        stride: a clip takes every `stride`-th of those frames.
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
        """The contract of these keys, with `label_names` left to the disk. Raises ValueError on one out of range."""
        for key, value in (("resolution", resolution), ("frames", frames), ("stride", stride)):
            if value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        if frame_rate is not None and not 0 < frame_rate <= 1000:
            raise ValueError(
                f"frame_rate must be above 0 and at most 1000, or null for the files' own, not {frame_rate}"
            )
        check_num_classes(num_classes, "videos")
        shown = None if frame_rate is None else frame_rate / stride
        return DataContract(3, resolution, num_classes or 0, frames=frames, frame_rate=shown)

    @abstractmethod
    def video(self, index: int) -> Video: ...

    def __getitem__(self, index: int) -> Sample:
        """Raises UnreadableVideo, a ValueError that names the video."""
        return self._clip(index, None)

    def draw(self, index: int, chance: float) -> Sample:
        """Raises UnreadableVideo, a ValueError that names the video."""
        return self._clip(index, chance)

    def _clip(self, index: int, chance: float | None) -> Sample:
        video = self.video(index)
        frames, resolution, _ = self.contract.size
        rate, stride = self.frame_rate, self.stride
        clip = read_clip(
            video.file, video.name, frames=frames, resolution=resolution, frame_rate=rate, stride=stride, chance=chance
        )
        return Sample(clip, video.label, video.key)
