"""Tar files as WebDataset packs them: which there are, what is in them, and one part of one."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ulzoo.data.manifest import Manifest
from ulzoo.data.source import check_split

NO_LABEL, NOT_A_LABEL = -1, -2


class Part(NamedTuple):
    """Where a file lies in a shard, in bytes."""

    offset: int
    size: int


def find_shards(folder: Path, split: str, hint: str = "") -> list[Path]:
    """The shards `folder/SPLIT-*.tar` of a split, in order.

    Raises:
        ValueError: there are none (`hint` says how to get them), a number among them is missing, or they are not what
            the `manifest.json` of `ulzoo prepare` in the folder says.
    """
    check_split(split)
    shards = sorted(folder.glob(f"{split}-*.tar"))
    if not shards:
        raise ValueError(f"{folder}: no shards in it (expected {split}-*.tar){f'; {hint}' if hint else ''}")
    numbers = [int(match[1]) for shard in shards if (match := re.fullmatch(rf"{split}-(\d+)\.tar", shard.name))]
    if missing := sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers)):
        width = len(shards[0].stem) - len(split) - 1
        raise ValueError(
            f"{folder}: {split}-{missing[0]:0{width}d}.tar is missing ({len(missing)} of {max(numbers) + 1} shards)"
        )
    _check_manifest(folder, split)
    return shards


def examples(shard: Path, suffixes: Collection[str]) -> Iterator[tuple[str, dict[str, Part]]]:
    """Key and files, by suffix, of a shard's examples, in its order; files of other suffixes are passed over.

    Raises ValueError where the shard is damaged or cut short, or holds a file twice.
    """
    found: dict[str, dict[str, Part]] = {}
    for name, part in _members(shard):
        key, suffix = _split_name(name)
        if suffix in suffixes:
            parts = found.setdefault(key, {})
            if suffix in parts:
                raise ValueError(f"{shard}: holds {key!r}.{suffix} twice")
            parts[suffix] = part
    yield from found.items()


def read_label(shard: Path, part: Part | None) -> int:
    """The number in a KEY.cls of ASCII digits; NO_LABEL where there is no such file, NOT_A_LABEL for anything else."""
    if part is None:
        return NO_LABEL
    text = _label_text(shard, part)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else NOT_A_LABEL


def bad_label(shard: Path, key: str, part: Part | None, num_classes: int) -> ValueError:
    """The error about an example without a label below `num_classes`."""
    text = "no label" if part is None else _label_text(shard, part)
    return ValueError(f"{shard}: {key!r}.cls must hold a label from 0 to {num_classes - 1}, not {text!r}")


def read_part(shard: Path, part: Part) -> bytes:
    """Through a handle of its own, since workers would share a position."""
    try:
        with open(shard, "rb") as file:
            content = os.pread(file.fileno(), part.size, part.offset)
    except OSError as error:
        raise ValueError(f"{shard}: {error.strerror}") from error
    if len(content) < part.size:
        raise ValueError(f"{shard}: cut short since it was opened")
    return content


def label_names(path: Path, num_classes: int) -> tuple[str, ...]:
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


def _check_manifest(folder: Path, split: str) -> None:
    """Shards that were prepared must be all there, by size; `ulzoo prepare --verify` reads them too."""
    try:
        entry = Manifest(folder).splits.get(split)
    except ValueError:  # somebody else's file of that name
        return
    if entry is None:
        return
    if not entry["complete"]:
        raise ValueError(f"{folder}: the preparation of {split} is not complete: run the same command again")
    for row in entry["shards"]:
        path = folder / f"{row['name']}.tar"
        size = path.stat().st_size if path.is_file() else None
        if size != row["bytes"]:
            wrong = "is missing" if size is None else f"has {size:,} bytes, not {row['bytes']:,} as in the manifest"
            raise ValueError(f"{path}: not a whole shard, it {wrong}: prepare it again")


def _label_text(shard: Path, part: Part) -> str:
    return read_part(shard, Part(part.offset, min(part.size, 32))).decode("ascii", "replace").strip()


def _split_name(name: str) -> tuple[str, str]:
    """WebDataset's key and suffix: apart at the first dot of the last part of the path."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _members(shard: Path) -> Iterator[tuple[str, Part]]:
    """Name and place of the plain files in a tar. Raises ValueError where it is damaged or cut short."""
    try:
        length = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"{member.name!r} is cut short")
                if member.isreg():
                    yield member.name, Part(member.offset_data, member.size)
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps all it has seen
            end = Part(tar.offset, min(512, max(length - tar.offset, 0)))
        if not (rest := read_part(shard, end)) or any(rest):  # blocks of zeros end a tar
            raise tarfile.ReadError(f"it has no end after {end.offset} bytes: damaged or cut short")
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{shard}: not a whole tar file: {' '.join(reason.split())}") from error
