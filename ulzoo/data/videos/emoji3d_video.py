"""The embedded clips: animated 3D emoji. Source and licence are in `shards/README.md`."""

from __future__ import annotations

import torch
from torch import Tensor

from ulzoo.data.images.emoji3d import LABEL_NAMES, read_shard
from ulzoo.data.source import DataContract, Sample, Source, check_split
from ulzoo.data.videos.decode import place, read_video

FRAME_RATE = 8.0
SHORTEST = 16  # frames


class Emoji3DVideo(Source):
    """Microsoft's Fluent emoji in 3D, animated on white: 468 clips to train and 47 to validate, 8 frames a second.

    It ships in the package. The videos have 16 to 25 frames, and a clip is `frames` of them in a row: any in training,
    the middle ones otherwise. The labels are those of `emoji3d`, though most videos are of people and some classes have
    none. The split is by emoji name. A split is decoded once, into memory (133 MB at 64×64).

    Args:
        split: "train" or "val".
        resolution: 64 as rendered, or 32, the averages of its 2×2 boxes.
        frames: frames of a clip, at most 16.
        hflip: mirror every second training clip at random.

    Raises:
        ValueError: another resolution, more frames, or a shard that is not the one released.
    """

    def __init__(self, split: str, *, resolution: int = 64, frames: int = 16, hflip: bool = True) -> None:
        check_split(split)
        self.contract = self.describe(resolution=resolution, frames=frames)
        self.hflip = hflip
        self.videos: list[Tensor] = []  # uint8 (3, 16 to 25, H, W)
        self.labels: list[int] = []
        self.keys: list[str] = []
        for sample in read_shard(f"emoji3d-video-64-{split}.tar"):
            video = read_video(sample["mp4"], 64)
            self.videos.append(video if resolution == 64 else _halved(video))
            self.labels.append(sample["cls"])
            self.keys.append(sample["__key__"])

    @classmethod
    def describe(cls, *, resolution: int, frames: int, **_: object) -> DataContract:
        """The contract of these keys. Raises ValueError on a resolution or a number of frames that it has not."""
        if resolution not in (32, 64):
            raise ValueError(f"resolution must be 32 or 64, not {resolution}")
        if not 1 <= frames <= SHORTEST:
            raise ValueError(f"frames must be from 1 to {SHORTEST}, the frames of the shortest video, not {frames}")
        return DataContract(3, resolution, len(LABEL_NAMES), LABEL_NAMES, frames, FRAME_RATE)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sample:
        return self._clip(index, None)

    def draw(self, index: int, chance: float) -> Sample:
        return self._clip(index, chance)

    def _clip(self, index: int, chance: float | None) -> Sample:
        video, frames = self.videos[index], self.contract.size[0]
        first = place(video.shape[1], frames, chance)
        return Sample(video[:, first : first + frames], self.labels[index], self.keys[index])


def _halved(video: Tensor) -> Tensor:
    """The rounded averages of 2×2 boxes, as Pillow's `reduce` has them."""
    rows = video[..., ::2, :].to(torch.int16) + video[..., 1::2, :]
    return ((rows[..., ::2] + rows[..., 1::2] + 2) // 4).to(torch.uint8)
