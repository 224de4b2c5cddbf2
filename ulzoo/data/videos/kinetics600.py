"""Kinetics-600, once `ulzoo prepare kinetics600` has made shards of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from ulzoo.data.prepare.clips import Clip
from ulzoo.data.prepare.kinetics_annotations import Annotation, find_videos, locate, read_annotations
from ulzoo.data.prepare.pack import Progress, pack
from ulzoo.data.prepare.transcode import VideoEncoding
from ulzoo.data.source import check_split
from ulzoo.data.storage.manifest import LABELS, SplitSummary
from ulzoo.data.videos.video_shards import VideoShards


class Kinetics600(VideoShards):
    """Kinetics-600: 600 human actions in stretches of about ten seconds of YouTube videos.

    The videos are not ours to give: download them, then `ulzoo prepare kinetics600` packs them into shards. Those
    are read as in `VideoShards`.

    Args:
        split: "train" or "val".
        root: the folder that was prepared.
        resolution: side of the square that frames are resized and cropped to.
        frames: frames of a clip.
        frame_rate: frames per second that videos are resampled to; null for their own frames.
        stride: a clip takes every stride-th of those frames.
        hflip: mirror every second training clip at random.
        num_classes: how many classes were prepared; null to leave the labels unread.

    Raises:
        ValueError: what `VideoShards` raises; the message about missing data names the command.
    """

    hint: ClassVar[str] = (
        "`ulzoo prepare kinetics600 --videos DIR --annotations FILE.csv --out DIR [--split val]` makes them"
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


def prepare_kinetics600(
    videos: Path,
    annotations: Path,
    out: Path,
    split: str,
    encoding: VideoEncoding,
    *,
    clips_per_shard: int,
    workers: int,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> SplitSummary:
    """Pack the videos that an annotation file speaks of; see `pack` for what is written and how it resumes.

    Classes are numbered by the sorted names in the train annotations. The split val takes the numbers of a train that
    was prepared before; without one, its own annotations must name them all.

    Raises:
        ValueError: annotations that make no sense, no video of theirs below `videos`, classes that are not those of
            the split prepared before; and what `pack` raises.
    """
    check_split(split)
    rows, names = read_annotations(annotations, split)
    labels = _labels(rows, names, out, split, annotations)
    numbers = {name: i for i, name in enumerate(labels)}
    found = find_videos(videos, split)
    clips = []
    for row in rows:
        video, trimmed = locate(row, found)
        clips.append(Clip(row.key, numbers[row.label], video, row.start, row.end, trimmed))
    if not any(clip.video for clip in clips):
        raise ValueError(
            f"{videos}: has none of the {len(clips):,} videos of {split}; looked for files such as {clips[0].key}.mp4 "
            f"and {rows[0].youtube_id}.mp4 in it and in the folders below"
        )
    return pack(
        clips,
        labels,
        out,
        split,
        encoding,
        unit="clips",
        per_shard=clips_per_shard,
        workers=workers,
        on_progress=on_progress,
    )


def _labels(rows: Sequence[Annotation], names: list[str], out: Path, split: str, annotations: Path) -> list[str]:
    """Names in the order of their numbers: those of the split prepared before, if there is one."""
    path = out / LABELS
    if not path.exists():
        return names
    try:
        known = json.loads(path.read_text("utf-8"))
    except ValueError:
        known = None
    if not isinstance(known, list) or not all(isinstance(name, str) for name in known):
        raise ValueError(f"{path}: not a list of class names: remove it or choose another --out")
    wrong = set(names) ^ set(known) if split == "train" else {row.label for row in rows} - set(known)
    if wrong:
        raise ValueError(
            f"{annotations}: its classes are not those in {path}: only one of them has {min(wrong)!r} "
            f"({len(wrong)} such names); choose another --out"
        )
    return known
