"""WebDataset shards (tar files): which ones a split has, the examples in them, and reading one file of one of them."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

from ulzoo.data.source import check_split
from ulzoo.data.storage.folder_walk import is_hidden
from ulzoo.data.storage.manifest import MANIFEST, NotAManifest, read_splits
from ulzoo.data.storage.remote import RemotePath, StoragePath

NO_LABEL, INVALID_LABEL = -1, -2
LABEL = "cls"
MAX_LABEL_BYTES = 32


class ByteRange(NamedTuple):
    """Position and size of a file in a shard, in bytes."""

    offset: int
    size: int


def find_shards(folder: StoragePath, split: str, hint: str = "") -> dict[StoragePath, str]:
    """The shards `folder/SPLIT-*.tar` of a split in order, each with a fingerprint that changes with its content.

    The fingerprint is the SHA-256 in the `manifest.json` of `ulzoo prepare`, or size and modification time without one.

    Raises:
        ValueError: there are no shards (`hint` tells how to create them), one of the numbers is missing, or they do not
            match the manifest.
    """
    check_split(split)
    listed = _shards_in_manifest(folder, split)
    shards: list[StoragePath] = sorted(folder.glob(f"{split}-*.tar"), key=str)
    if isinstance(folder, RemotePath):  # it may not support listing
        shards = shards or [folder / name for name in listed]
    if not shards:
        raise ValueError(f"{folder}: no shards in it (expected {split}-*.tar){f'; {hint}' if hint else ''}")
    numbers = {int(match[1]) for shard in shards if (match := re.fullmatch(rf"{split}-(\d+)\.tar", shard.name))}
    if missing := sorted(set(range(max(numbers, default=-1) + 1)) - numbers):
        width = len(shards[0].name) - len(split) - len("-.tar")
        raise ValueError(
            f"{folder}: {split}-{missing[0]:0{width}d}.tar is missing ({len(missing)} of {max(numbers) + 1} shards)"
        )
    with ThreadPoolExecutor() as threads:  # of remote files, each is a slow request
        stats = dict(zip(shards, threads.map(lambda shard: shard.stat(), shards), strict=True))
    sizes = {shard.name: stat.st_size for shard, stat in stats.items()}
    for name, row in listed.items():
        if (size := sizes.get(name)) != row["bytes"]:
            problem = "is missing" if size is None else f"has {size:,} bytes, not {row['bytes']:,} as in the manifest"
            raise ValueError(f"{folder / name}: not a complete shard, it {problem}: prepare it again")
    digests = {name: row["sha256"] for name, row in listed.items()}
    return {shard: digests.get(shard.name, f"{stat.st_size} {stat.st_mtime_ns}") for shard, stat in stats.items()}


def read_examples(shard: StoragePath, suffixes: Collection[str]) -> Iterator[tuple[str, dict[str, ByteRange], int]]:
    """Yield key, byte ranges by suffix, and label of a shard's examples in order.

    Other suffixes, and hidden files and folders, are ignored.

    The label is the number in KEY.cls, if "cls" is among the suffixes: NO_LABEL if there is no such file, INVALID_LABEL
    for anything but ASCII digits. Raises ValueError if the shard is damaged or truncated, or contains a file twice.
    """
    ranges_of: dict[str, dict[str, ByteRange]] = {}
    labels: dict[str, int] = {}
    for name, byte_range, file in _members(shard):
        key, suffix = _split_name(name)
        if suffix in suffixes and not any(is_hidden(part) for part in key.split("/")):
            ranges = ranges_of.setdefault(key, {})
            if suffix in ranges:
                raise ValueError(f"{shard}: contains {key!r}.{suffix} twice")
            ranges[suffix] = byte_range
            if suffix == LABEL:
                file.seek(byte_range.offset)
                text = _ascii(file.read(min(byte_range.size, MAX_LABEL_BYTES)))
                labels[key] = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else INVALID_LABEL
    for key, ranges in ranges_of.items():
        yield key, ranges, labels.get(key, NO_LABEL)


def label_error(shard: StoragePath, key: str, label: ByteRange | None, num_classes: int) -> ValueError:
    """The error for an example whose KEY.cls, if any, does not contain a label below `num_classes`."""
    text = "no label"
    if label is not None:
        text = _ascii(read_range(shard, label._replace(size=min(label.size, MAX_LABEL_BYTES))))
    return ValueError(f"{shard}: {key!r}.cls must contain a label from 0 to {num_classes - 1}, not {text!r}")


def read_range(shard: StoragePath, byte_range: ByteRange) -> bytes:
    """Read one file of a shard, through a new handle, since workers would share the position of an open one."""
    try:
        if isinstance(shard, RemotePath):
            content = shard.read(byte_range.offset, byte_range.size)
        else:
            with open(shard, "rb") as file:
                content = os.pread(file.fileno(), byte_range.size, byte_range.offset)
    except OSError as error:
        raise ValueError(f"{shard}: {error.strerror}") from error
    if len(content) < byte_range.size:
        raise ValueError(f"{shard}: truncated since it was opened")
    return content


def read_label_names(path: StoragePath, num_classes: int) -> tuple[str, ...]:
    """The names in a labels.json; () if there is no such file."""
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


def _shards_in_manifest(folder: StoragePath, split: str) -> Mapping[str, Any]:
    """File name -> row of a split's shards in the folder's manifest, in order; {} without a manifest of ulzoo's."""
    try:
        entry = read_splits(folder / MANIFEST).get(split)
    except NotAManifest:  # another program's file of the same name
        return {}
    if entry is None:
        return {}
    if not entry["complete"]:
        raise ValueError(f"{folder}: the preparation of {split} is not complete: run the same command again")
    return {f"{row['name']}.tar": row for row in entry["shards"]}


def _ascii(content: bytes) -> str:
    return content.decode("ascii", "replace").strip()


def _split_name(name: str) -> tuple[str, str]:
    """WebDataset's key and suffix, separated by the first dot in the last component of the path."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _members(shard: StoragePath) -> Iterator[tuple[str, ByteRange, BinaryIO]]:
    """Name and byte range of the regular files in a tar, and the open tar. Raises ValueError if it is damaged."""
    try:
        length = shard.stat().st_size
        with (
            shard.open() if isinstance(shard, RemotePath) else shard.open("rb") as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            while (member := tar.next()) is not None:
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"{member.name!r} is truncated")
                if member.isreg():
                    yield member.name, ByteRange(member.offset_data, member.size), file
                tar.members.clear()  # type: ignore[attr-defined]  # or tarfile keeps every member in memory
            file.seek(tar.offset)
            if not (rest := file.read(512)) or any(rest):  # a tar ends with blocks of zeros
                raise tarfile.ReadError(f"it has no end marker after {tar.offset} bytes: damaged or truncated")
    except (tarfile.TarError, OSError, EOFError, MemoryError, OverflowError) as error:  # the last two: absurd lengths
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{shard}: not a complete tar file: {' '.join(reason.split())}") from error
