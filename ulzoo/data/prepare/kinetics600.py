"""Kinetics-600's videos and annotations to shards: for `kind: kinetics600`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ulzoo.data.prepare.kinetics_annotations import Annotation, find_videos, locate, read_annotations
from ulzoo.data.prepare.pack import PackConfig, Progress, pack
from ulzoo.data.prepare.transcode import VideoEncoding, transcode
from ulzoo.data.source import check_split
from ulzoo.data.storage.manifest import LABELS, SplitSummary


@dataclass(frozen=True)
class Clip:
    """A clip to be packed as KEY.mp4 and KEY.cls; see `ulzoo.data.prepare.pack.Example`.

    Args:
        key: its name in the shard.
        label: number of its class.
        video: path of the video; None if there is none.
        start: start of the segment in the full video, in seconds.
        end: end of the segment in the full video, in seconds.
        trimmed: the file contains only the segment.
    """

    key: str
    label: int
    video: str | None
    start: float
    end: float
    trimmed: bool

    absent: ClassVar[str] = "no video that can be opened"

    def identity(self) -> tuple[Any, ...]:
        return self.key, self.label, self.start, self.end

    def inputs(self, encoding: VideoEncoding) -> tuple[str, ...]:
        return () if self.video is None else (self.video,)

    def is_present(self) -> bool:
        return self.video is not None and os.access(self.video, os.R_OK)

    def files(self, encoding: VideoEncoding) -> Iterator[tuple[str, bytes]]:
        assert self.video is not None
        yield "mp4", transcode(self.video, self.start, self.end, encoding, trimmed=self.trimmed)
        yield "cls", str(self.label).encode()


def prepare_kinetics600(
    videos: Path,
    annotations: Path,
    config: PackConfig,
    *,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> SplitSummary:
    """Pack the videos listed in an annotation file; see `pack` for the files written and for resuming.

    Classes are numbered by the sorted names in the train annotations. The split val uses the numbers of a train split
    that was prepared before; without one, its own annotations must name all classes.

    Args:
        videos: folder of the videos, at any depth.
        annotations: CSV file; see `read_annotations`.
        config: what to write, and where; its encoding is a `VideoEncoding`.
        on_progress: progress callback.

    Raises:
        ValueError: invalid annotations, none of their videos below `videos`, classes other than those of the split
            prepared before; as `pack` raises.
    """
    check_split(config.split)
    rows, names = read_annotations(annotations, config.split)
    labels = _label_names(rows, names, config, annotations)
    numbers = {name: i for i, name in enumerate(labels)}
    paths = find_videos(videos, config.split)
    clips = []
    for row in rows:
        video, trimmed = locate(row, paths)
        clips.append(Clip(row.key, numbers[row.label], video, row.start, row.end, trimmed))
    if not any(clip.video for clip in clips):
        raise ValueError(
            f"{videos}: has none of the {len(clips):,} videos of {config.split}; looked for files such as "
            f"{clips[0].key}.mp4 and {rows[0].youtube_id}.mp4 in it and in its subfolders"
        )
    return pack(clips, labels, config, unit="clips", on_progress=on_progress)


def _label_names(rows: Sequence[Annotation], names: list[str], config: PackConfig, annotations: Path) -> list[str]:
    """The class names in the order of their numbers: those of the split prepared before, if there is one."""
    path = config.out / LABELS
    if not path.exists():
        return names
    try:
        previous = json.loads(path.read_text("utf-8"))
    except ValueError:
        previous = None
    if not isinstance(previous, list) or not all(isinstance(name, str) for name in previous):
        raise ValueError(f"{path}: not a list of class names: remove it or choose another --out")
    train = config.split == "train"
    mismatch = set(names) ^ set(previous) if train else {row.label for row in rows} - set(previous)
    if mismatch:
        raise ValueError(
            f"{annotations}: its classes are not those in {path}: only one of them has {min(mismatch)!r} "
            f"({len(mismatch)} such names); choose another --out"
        )
    return previous
