"""The index of a split's shards, which locates every image: computed by one scan, then cached in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from ulzoo.data.source import IMAGE_SUFFIXES
from ulzoo.data.storage.remote import RemotePath, StoragePath
from ulzoo.data.storage.shards import LABEL, ByteRange, find_shards, read_examples
from ulzoo.files.atomic import cache_folder, write_atomically

FORMAT = 3
IMAGES = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
TEXT = "npy"
COLUMNS = ("shard", "suffix", "offset", "size", "text_offset", "text_size", "label_offset", "label_size", "label")


@dataclass(frozen=True)
class ShardIndex:
    """The images of a split's shards, in the order of the shards.

    Attributes:
        shards: the tar files.
        keys: of the images.
        rows: (N, 9) int64 with the `COLUMNS`: index of the shard; index of the image's suffix in `IMAGES`; byte ranges
            of the image, its .npy and its .cls, of size -1 if there is no such file; the label, as in `read_examples`.
    """

    shards: Sequence[StoragePath]
    keys: Sequence[str]
    rows: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return self.rows[:, COLUMNS.index(name)]

    def image(self, index: int) -> tuple[StoragePath, str, ByteRange, ByteRange | None, int]:
        """Shard, file name and byte range of an image, the byte range of its caption, and its label."""
        shard, suffix, offset, size, text_offset, text_size, _, _, label = map(int, self.rows[index])
        text = None if text_size < 0 else ByteRange(text_offset, text_size)
        return self.shards[shard], f"{self.keys[index]}.{IMAGES[suffix]}", ByteRange(offset, size), text, label

    def label_range(self, index: int) -> ByteRange | None:
        offset, size = (int(self.column(name)[index]) for name in ("label_offset", "label_size"))
        return None if size < 0 else ByteRange(offset, size)


def open_index(folder: StoragePath, split: str, shards: Mapping[Any, str]) -> ShardIndex:
    """Load the index of a split's shards, or compute and cache it if there is none of the shards as they are now.

    `ulzoo prepare` writes the index beside the shards. Otherwise it is cached in `$XDG_CACHE_HOME/ulzoo`
    (`~/.cache/ulzoo`); if that is not writable, the index is computed on every call.

    Args:
        folder: folder of the shards.
        split: "train" or "val".
        shards: the result of `find_shards`; an index is only valid for shards with these fingerprints.

    Raises:
        ValueError: a shard is damaged, or contains a file twice or two images with one key.
    """
    cached = _cache_path(folder, split)
    for read in (cached.read_bytes, (folder / _index_name(split)).read_bytes):
        if content := _read(read, shards):
            return ShardIndex(list(shards), *content)
    keys, rows = _scan(list(shards))
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, lambda temporary: _write(temporary, shards, keys, rows))
    except OSError:
        pass
    return ShardIndex(list(shards), keys, rows)


def write_index(folder: Path, split: str) -> None:
    """Write the index of prepared shards beside them, unless it is there and up to date."""
    shards = find_shards(folder, split)
    if not _read((path := folder / _index_name(split)).read_bytes, shards):
        keys, rows = _scan(list(shards))
        write_atomically(path, lambda temporary: _write(temporary, shards, keys, rows))


def _index_name(split: str) -> str:
    return f".index-{split}.npz"


def _cache_path(folder: StoragePath, split: str) -> Path:
    name = str(folder).encode() if isinstance(folder, RemotePath) else os.fsencode(folder.resolve())
    return cache_folder() / "shards" / f"{sha256(name).hexdigest()}-{split}.npz"


def _scan(shards: Sequence[StoragePath]) -> tuple[list[str], np.ndarray]:
    keys: list[str] = []
    rows: list[tuple[int, ...]] = []
    absent = ByteRange(0, -1)
    with ThreadPoolExecutor() as threads:  # remote shards are slow to read
        scans = threads.map(lambda shard: list(read_examples(shard, (*IMAGES, TEXT, LABEL))), shards)
        for number, (shard, examples) in enumerate(zip(shards, scans, strict=True)):
            for key, ranges, label in examples:
                suffixes = [suffix for suffix in IMAGES if suffix in ranges]
                if len(suffixes) > 1:
                    raise ValueError(
                        f"{shard}: contains two images of one key, {key!r}.{suffixes[0]} and .{suffixes[1]}"
                    )
                if suffixes:
                    columns = ranges[suffixes[0]] + ranges.get(TEXT, absent) + ranges.get(LABEL, absent)
                    rows.append((number, IMAGES.index(suffixes[0]), *columns, label))
                    keys.append(key)
    return keys, np.array(rows, np.int64).reshape(len(rows), len(COLUMNS))


def _write(path: Path, shards: Mapping[Any, str], keys: Sequence[str], rows: np.ndarray) -> None:
    joined = np.frombuffer("\0".join(keys).encode("utf-8", "surrogateescape"), np.uint8)
    np.savez(path, format=np.array(FORMAT), shards=_fingerprints(shards), keys=joined, rows=rows)


def _read(read: Callable[[], bytes], shards: Mapping[Any, str]) -> tuple[list[str], np.ndarray] | None:
    """Keys and rows of an index file; None if it is damaged or was computed for other shards."""
    try:
        content = read()
        with ZipFile(BytesIO(content)) as archive:  # untrusted: nothing in it may be larger than the file
            if sum(entry.file_size for entry in archive.infolist()) > len(content):
                return None
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            if int(arrays["format"]) != FORMAT or not np.array_equal(arrays["shards"], _fingerprints(shards)):
                return None
            keys, rows = arrays["keys"].tobytes().decode("utf-8", "surrogateescape").split("\0"), arrays["rows"]
    except Exception:  # whatever is wrong, the index can be computed again
        return None
    keys = keys if len(rows) else []
    if rows.shape != (len(keys), len(COLUMNS)) or rows.dtype != np.int64:
        return None
    in_range = (rows[:, :2] >= 0) & (rows[:, :2] < (len(shards), len(IMAGES)))
    return (keys, rows) if in_range.all() and (rows[:, 2::2][:, :3] >= 0).all() else None


def _fingerprints(shards: Mapping[Any, str]) -> np.ndarray:
    return np.array([f"{shard.name} {fingerprint}" for shard, fingerprint in shards.items()])
