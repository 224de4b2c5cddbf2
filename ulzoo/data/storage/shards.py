"""Tar files as WebDataset packs them: which there are, what is in them, and one part of one."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ulzoo.data.source import check_split
from ulzoo.data.storage.manifest import NAME, NoManifest, read_splits
from ulzoo.data.storage.remote import RemotePath

NO_LABEL, NOT_A_LABEL = -1, -2
LABEL, LONGEST_LABEL = "cls", 32  # bytes
Place = Path | RemotePath


class Part(NamedTuple):
    """Where a file lies in a shard, in bytes."""

    offset: int
    size: int


def find_shards(folder: Place, split: str, hint: str = "") -> dict[Place, str]:
    """The shards `folder/SPLIT-*.tar` of a split in order, each with a mark that another content would not have.

    That is the SHA-256 in the `manifest.json` of `ulzoo prepare`, or size and time of modification where there is none.

    Raises:
        ValueError: there are none (`hint` says how to get them), a number among them is missing, or they are not what
            the manifest says.
    """
    check_split(split)
    prepared = _prepared(folder, split)
    shards: list[Place] = sorted(folder.glob(f"{split}-*.tar"), key=str)
    if isinstance(folder, RemotePath):  # which may not be listed
        shards = shards or [folder / name for name in prepared]
    if not shards:
        raise ValueError(f"{folder}: no shards in it (expected {split}-*.tar){f'; {hint}' if hint else ''}")
    numbers = {int(match[1]) for shard in shards if (match := re.fullmatch(rf"{split}-(\d+)\.tar", shard.name))}
    if missing := sorted(set(range(max(numbers, default=-1) + 1)) - numbers):
        width = len(shards[0].name) - len(split) - len("-.tar")
        raise ValueError(
            f"{folder}: {split}-{missing[0]:0{width}d}.tar is missing ({len(missing)} of {max(numbers) + 1} shards)"
        )
    with ThreadPoolExecutor() as threads:  # behind a URL each is a question that takes its time
        stats = dict(zip(shards, threads.map(lambda shard: shard.stat(), shards), strict=True))
    sizes = {shard.name: stat.st_size for shard, stat in stats.items()}
    for name, row in prepared.items():
        if (size := sizes.get(name)) != row["bytes"]:
            wrong = "is missing" if size is None else f"has {size:,} bytes, not {row['bytes']:,} as in the manifest"
            raise ValueError(f"{folder / name}: not a whole shard, it {wrong}: prepare it again")
    marks = {name: row["sha256"] for name, row in prepared.items()}
    return {shard: marks.get(shard.name, f"{stat.st_size} {stat.st_mtime_ns}") for shard, stat in stats.items()}


def examples(shard: Place, suffixes: Collection[str]) -> Iterator[tuple[str, dict[str, Part], int]]:
    """Key, files by suffix and label of a shard's examples, in its order; files of other suffixes are passed over.

    The label is the number in KEY.cls, if "cls" is among the suffixes: NO_LABEL where there is no such file,
    NOT_A_LABEL for anything but ASCII digits. Raises ValueError where the shard is damaged or cut short, or holds a
    file twice.
    """
    found: dict[str, dict[str, Part]] = {}
    labels: dict[str, int] = {}
    for name, part, file in _members(shard):
        key, suffix = _split_name(name)
        if suffix in suffixes:
            parts = found.setdefault(key, {})
            if suffix in parts:
                raise ValueError(f"{shard}: holds {key!r}.{suffix} twice")
            parts[suffix] = part
            if suffix == LABEL:
                file.seek(part.offset)
                text = _text(file.read(min(part.size, LONGEST_LABEL)))
                labels[key] = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else NOT_A_LABEL
    for key, parts in found.items():
        yield key, parts, labels.get(key, NO_LABEL)


def bad_label(shard: Place, key: str, part: Part | None, num_classes: int) -> ValueError:
    """The error about an example without a label below `num_classes`."""
    text = "no label"
    if part is not None:
        text = _text(read_part(shard, part._replace(size=min(part.size, LONGEST_LABEL))))
    return ValueError(f"{shard}: {key!r}.cls must hold a label from 0 to {num_classes - 1}, not {text!r}")


def read_part(shard: Place, part: Part) -> bytes:
    """Through a handle of its own, since workers would share a position."""
    try:
        if isinstance(shard, RemotePath):
            content = shard.read(part.offset, part.size)
        else:
            with open(shard, "rb") as file:
                content = os.pread(file.fileno(), part.size, part.offset)
    except OSError as error:
        raise ValueError(f"{shard}: {error.strerror}") from error
    if len(content) < part.size:
        raise ValueError(f"{shard}: cut short since it was opened")
    return content


def label_names(path: Place, num_classes: int) -> tuple[str, ...]:
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


def _prepared(folder: Place, split: str) -> Mapping[str, Any]:
    """File names and rows of a split in the folder's manifest, in order; none where it is not one of ours."""
    try:
        entry = read_splits(folder / NAME).get(split)
    except NoManifest:  # somebody else's file of that name
        return {}
    if entry is None:
        return {}
    if not entry["complete"]:
        raise ValueError(f"{folder}: the preparation of {split} is not complete: run the same command again")
    return {f"{row['name']}.tar": row for row in entry["shards"]}


def _text(content: bytes) -> str:
    return content.decode("ascii", "replace").strip()


def _split_name(name: str) -> tuple[str, str]:
    """WebDataset's key and suffix: apart at the first dot of the last part of the path."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _members(shard: Place) -> Iterator[tuple[str, Part, BinaryIO]]:
    """Name and place of the plain files in a tar, and the tar. Raises ValueError where it is damaged or cut short."""
    try:
        length = shard.stat().st_size
        with (
            shard.open() if isinstance(shard, RemotePath) else shard.open("rb") as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            while (member := tar.next()) is not None:
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"{member.name!r} is cut short")
                if member.isreg():
                    yield member.name, Part(member.offset_data, member.size), file
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps all it has seen
            file.seek(tar.offset)
            if not (rest := file.read(512)) or any(rest):  # blocks of zeros end a tar
                raise tarfile.ReadError(f"it has no end after {tar.offset} bytes: damaged or cut short")
    except (tarfile.TarError, OSError, EOFError, MemoryError, OverflowError) as error:  # of a length that lies
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{shard}: not a whole tar file: {' '.join(reason.split())}") from error
