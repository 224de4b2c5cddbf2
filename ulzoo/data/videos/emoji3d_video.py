"""The embedded clips: animated 3D emoji. Source and licence are described in `ulzoo/data/embedded/README.md`."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from ulzoo.data.images.emoji3d import LABEL_NAMES, SHA256, read_shard
from ulzoo.data.source import DataContract, ListedExample, Sample, Source, check_split
from ulzoo.data.videos.decode import first_frame, read_video

FRAME_RATE = 8.0
MIN_FRAMES = 16  # of the embedded videos


class Emoji3DVideo(Source):
    """Microsoft's Fluent emoji in 3D, animated on white: 468 training clips and 47 in val, 8 frames per second.

    It is part of the package. The videos have 16 to 25 frames, and a clip is `frames` consecutive ones: at a random
    position in training, else the middle ones. The labels are those of `emoji3d`; most videos show people and some
    classes have none. The split is by emoji name. A split is decoded once per process, into memory (133 MB at 64×64).

    Args:
        split: "train" or "val".
        resolution: 64 as rendered, or 32, the averages of its 2×2 boxes.
        frames: frames per clip, at most 16.
        hflip: mirror training clips with probability 1/2.

    Raises:
        ValueError: an unsupported resolution, more frames, or a damaged shard.
    """

    def __init__(self, split: str, *, resolution: int = 64, frames: int = 16, hflip: bool = True) -> None:
        check_split(split)
        self.contract = self.describe(resolution=resolution, frames=frames)
        self.hflip = hflip
        self.shard = f"emoji3d-video-64-{split}.tar.gz"
        self.videos, self.labels, self.keys = _decoded(self.shard, resolution)

    @classmethod
    def describe(cls, *, resolution: int, frames: int, **_: object) -> DataContract:
        """The contract for these keys. Raises ValueError for an unsupported resolution or number of frames."""
        if resolution not in (32, 64):
            raise ValueError(f"resolution must be 32 or 64, not {resolution}")
        if not 1 <= frames <= MIN_FRAMES:
            raise ValueError(f"frames must be from 1 to {MIN_FRAMES}, the frames of the shortest video, not {frames}")
        return DataContract(3, resolution, len(LABEL_NAMES), LABEL_NAMES, frames, FRAME_RATE)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sample:
        return self._clip(index, None)

    def list_examples(self, count: int) -> Iterable[ListedExample]:
        return map(ListedExample, self.keys[:count], self.labels[:count])

    def content(self, index: int) -> bytes:
        """The hash of the shard, since decoded pixels depend on the version of FFmpeg and on the processor."""
        return SHA256[self.shard].encode()

    def draw(self, index: int, position: float) -> Sample:
        return self._clip(index, position)

    def _clip(self, index: int, position: float | None) -> Sample:
        video, frames = self.videos[index], self.contract.size[0]
        first = first_frame(video.shape[1], frames, position)
        return Sample(video[:, first : first + frames], self.labels[index], self.keys[index])


@functools.lru_cache(maxsize=2)
def _decoded(shard: str, resolution: int) -> tuple[list[Tensor], list[int], list[str]]:
    """Videos, uint8 (3, 16 to 25, H, W), labels and keys. Sources of a process share them and do not change them."""
    samples = list(read_shard(shard))
    videos = [read_video(sample["mp4"], 64) for sample in samples]
    if resolution != 64:
        videos = [_downsample(video) for video in videos]
    return videos, [sample["cls"] for sample in samples], [sample["__key__"] for sample in samples]


def _downsample(video: Tensor) -> Tensor:
    """Rounded averages of 2×2 boxes, as in Pillow's `reduce`."""
    rows = video[..., ::2, :].to(torch.int16) + video[..., 1::2, :]
    return ((rows[..., ::2] + rows[..., 1::2] + 2) // 4).to(torch.uint8)
