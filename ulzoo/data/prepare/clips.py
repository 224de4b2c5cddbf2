"""Stretches of videos, to be packed into shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ulzoo.data.prepare.transcode import VideoEncoding, transcode


@dataclass(frozen=True)
class Clip:
    """One clip to be packed, as `ulzoo.data.prepare.pack.Example`: KEY.mp4 and KEY.cls.

    Args:
        key: its name in the shard.
        label: number of its class.
        video: path of the video; None where there is none.
        start: seconds in the whole video.
        end: seconds in the whole video.
        trimmed: the file holds just that stretch.
    """

    key: str
    label: int
    video: str | None
    start: float
    end: float
    trimmed: bool

    absent: ClassVar[str] = "no video that can be opened"

    def described(self) -> tuple[Any, ...]:
        return self.key, self.label, self.start, self.end

    def there(self) -> bool:
        return self.video is not None and os.access(self.video, os.R_OK)

    def files(self, encoding: VideoEncoding) -> Iterator[tuple[str, bytes]]:
        assert self.video is not None
        yield "mp4", transcode(self.video, self.start, self.end, encoding, trimmed=self.trimmed)
        yield "cls", str(self.label).encode()
