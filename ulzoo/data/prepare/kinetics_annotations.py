"""Kinetics' annotation files, and the video files that belong to their rows."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ulzoo.data.storage.folder_walk import list_files

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")

COLUMNS = {
    "label": ("label", "labelname", "class", "classname", "action"),
    "youtube_id": ("youtubeid", "videoid", "id", "youtubeidentifier"),
    "time_start": ("timestart", "starttime", "start"),
    "time_end": ("timeend", "endtime", "end"),
    "split": ("split", "subset"),
}
SPLITS = {"train": "train", "training": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, order=True)
class Annotation:
    """One row: a segment of a YouTube video, in seconds, and the action in it. Annotations are ordered by key."""

    key: str
    youtube_id: str
    start: float
    end: float
    label: str


def read_annotations(path: Path, split: str) -> tuple[list[Annotation], list[str]]:
    """The split's rows, sorted by key, and the sorted class names.

    The file is a CSV with a header, as published by DeepMind and CVDF: `label,youtube_id,time_start,time_end,split`.
    Further columns and any order are allowed, and so are ActivityNet's names (`label-name`, `video-id`, `start-time`,
    `end-time`). Without a column split, all rows belong to `split`. The class names are those of the train rows or, in
    a file without train rows, of the split's rows. Duplicate rows count once.

    Raises:
        ValueError: not such a file, columns missing, an invalid row (with its line), no row of the split.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file (expected Kinetics' annotations, a CSV)")
    rows: dict[str, list[Annotation]] = {}
    lines: dict[tuple[str, str], tuple[int, Annotation]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = _columns(path, next(reader, []))
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                row_split, row = _row(f"{path}:{reader.line_num}", cells, columns, split)
                line, first = lines.setdefault((row_split, row.key), (reader.line_num, row))
                if first.label != row.label:
                    both = f"{first.label!r} (line {line}) and {row.label!r}"
                    raise ValueError(f"{path}:{reader.line_num}: {row.key} is labelled {both}: keep one of the rows")
                if first is row:
                    rows.setdefault(row_split, []).append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8: {error}") from None
    if split not in rows:
        others = f"only of {', '.join(sorted(rows))}" if rows else "none at all"
        raise ValueError(f"{path}: has no rows of the split {split}, {others}")
    return sorted(rows[split]), sorted({row.label for row in rows.get("train", rows[split])})


def find_videos(folder: Path, split: str) -> dict[str, str]:
    """Paths of the videos below `folder`, by file name without suffix.

    Of several files with one name, one in a folder named after the split is preferred, then one that is not in a folder
    named after another split, then the first path in alphabetical order. Raises ValueError if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder (expected one with Kinetics' videos)")
    best: dict[str, tuple[int, str]] = {}
    for path in list_files(folder, Counter()):
        parent, name = os.path.split(path)
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in VIDEO_SUFFIXES:
            splits = {SPLITS.get(part.lower()) for part in Path(parent).relative_to(folder).parts} - {None}
            candidate = (0 if split in splits else 2 if splits else 1), path
            best[stem] = min(best.get(stem, candidate), candidate)
    return {stem: path for stem, (_, path) in best.items()}


def locate(annotation: Annotation, videos: dict[str, str]) -> tuple[str | None, bool]:
    """The path of an annotation's video, or None, and whether the file is trimmed to the annotated segment.

    `{youtube_id}_{start:06d}_{end:06d}.mp4` is trimmed, `{youtube_id}.mp4` is the full video.
    """
    if path := videos.get(annotation.key):
        return path, True
    return videos.get(annotation.youtube_id), False


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Name of a column -> its index."""
    names = [re.sub(r"[^a-z]", "", cell.lower()) for cell in header]
    columns = {
        column: names.index(matches[0])
        for column, variants in COLUMNS.items()
        if (matches := [variant for variant in variants if variant in names])
    }
    if missing := [column for column in COLUMNS if column not in columns and column != "split"]:
        seen = ", ".join(cell.strip()[:40] for cell in header[:8]) or "nothing"
        raise ValueError(f"{path}: the header has no column {', '.join(missing)} (it has: {seen})")
    return columns


def _row(where: str, cells: Sequence[str], columns: dict[str, int], split: str) -> tuple[str, Annotation]:
    if len(cells) <= max(columns.values()):
        raise ValueError(f"{where}: {len(cells)} cells, fewer than the header has")
    cell = {column: cells[index].strip() for column, index in columns.items()}
    row_split = SPLITS.get(cell.get("split", split).lower())
    if row_split is None:
        raise ValueError(f"{where}: unknown split {cell['split']!r} (expected train, validate or test)")
    youtube_id = cell["youtube_id"]
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", youtube_id):
        raise ValueError(f"{where}: youtube_id {youtube_id[:80]!r} is not a YouTube identifier")
    if not cell["label"] and row_split != "test":
        raise ValueError(f"{where}: no label")
    try:
        start, end = float(cell["time_start"]), float(cell["time_end"])
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        raise ValueError(
            f"{where}: time_start {cell['time_start']!r} and time_end {cell['time_end']!r} are not a segment in seconds"
        )
    return row_split, Annotation(f"{youtube_id}_{int(start):06d}_{int(end):06d}", youtube_id, start, end, cell["label"])
