"""Where every image of a split's shards lies: looked up once, then kept in a file."""

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

from ulzoo.data.storage.remote import RemotePath
from ulzoo.data.storage.shards import LABEL, Part, Place, examples, find_shards
from ulzoo.files.atomic import cache_folder, write_atomically

FORMAT = 2
IMAGES = ("jpg", "jpeg", "png", "webp")
TEXT = "npy"
COLUMNS = ("shard", "suffix", "offset", "size", "text_offset", "text_size", "label_offset", "label_size", "label")


@dataclass(frozen=True)
class ShardIndex:
    """The images of some shards, in the shards' order.

    Attributes:
        shards: the tar files.
        keys: of the images.
        rows: (N, 9) int64, as `COLUMNS`: number of the shard, of the image's suffix in `IMAGES`, its place, that of its
            .npy, that of its .cls (size -1 where there is none), and the label as `examples` has it.
    """

    shards: Sequence[Place]
    keys: Sequence[str]
    rows: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return self.rows[:, COLUMNS.index(name)]

    def image(self, index: int) -> tuple[Place, str, Part, Part | None, int]:
        """Its shard, its file's name, where it lies, where its caption lies, and its label."""
        shard, suffix, offset, size, text_offset, text_size, _, _, label = map(int, self.rows[index])
        text = None if text_size < 0 else Part(text_offset, text_size)
        return self.shards[shard], f"{self.keys[index]}.{IMAGES[suffix]}", Part(offset, size), text, label

    def label_part(self, index: int) -> Part | None:
        offset, size = (int(self.column(name)[index]) for name in ("label_offset", "label_size"))
        return None if size < 0 else Part(offset, size)


def open_index(folder: Place, split: str, shards: Mapping[Any, str]) -> ShardIndex:
    """The index of a split's shards: the one kept since the shards last changed, or a new one, which is then kept.

    `ulzoo prepare` leaves one beside the shards. Any other is kept below `$XDG_CACHE_HOME/ulzoo` (`~/.cache/ulzoo`);
    where that cannot be written, it is made anew each time.

    Args:
        folder, split: where the shards lie, and which.
        shards: what `find_shards` says of them: an index is of these very marks.

    Raises:
        ValueError: a shard is damaged, holds a file twice or two images under one key.
    """
    kept = _cached(folder, split)
    for read in (kept.read_bytes, (folder / _name(split)).read_bytes):
        if found := _read(read, shards):
            return ShardIndex(list(shards), *found)
    keys, rows = _look_through(list(shards))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, lambda aside: _write(aside, shards, keys, rows))
    except OSError:
        pass
    return ShardIndex(list(shards), keys, rows)


def write_index(folder: Path, split: str) -> None:
    """Look through shards that were just prepared, and leave their index beside them."""
    shards = find_shards(folder, split)
    if not _read((path := folder / _name(split)).read_bytes, shards):
        keys, rows = _look_through(list(shards))
        write_atomically(path, lambda aside: _write(aside, shards, keys, rows))


def _name(split: str) -> str:
    return f".index-{split}.npz"


def _cached(folder: Place, split: str) -> Path:
    cache = cache_folder() / "shards"
    name = str(folder).encode() if isinstance(folder, RemotePath) else os.fsencode(folder.resolve())
    return cache / f"{sha256(name).hexdigest()}-{split}.npz"


def _look_through(shards: Sequence[Place]) -> tuple[list[str], np.ndarray]:
    keys: list[str] = []
    rows: list[tuple[int, ...]] = []
    nowhere = Part(0, -1)
    with ThreadPoolExecutor() as threads:  # behind a URL they take their time
        found = threads.map(lambda shard: list(examples(shard, (*IMAGES, TEXT, LABEL))), shards)
        for number, (shard, content) in enumerate(zip(shards, found, strict=True)):
            for key, parts, label in content:
                kinds = [suffix for suffix in IMAGES if suffix in parts]
                if len(kinds) > 1:
                    raise ValueError(f"{shard}: holds two images of one key, {key!r}.{kinds[0]} and .{kinds[1]}")
                if kinds:
                    places = parts[kinds[0]] + parts.get(TEXT, nowhere) + parts.get(LABEL, nowhere)
                    rows.append((number, IMAGES.index(kinds[0]), *places, label))
                    keys.append(key)
    return keys, np.array(rows, np.int64).reshape(len(rows), len(COLUMNS))


def _write(path: Path, shards: Mapping[Any, str], keys: Sequence[str], rows: np.ndarray) -> None:
    packed = np.frombuffer("\0".join(keys).encode("utf-8", "surrogateescape"), np.uint8)
    np.savez(path, format=np.array(FORMAT), shards=_marks(shards), keys=packed, rows=rows)


def _read(read: Callable[[], bytes], shards: Mapping[Any, str]) -> tuple[list[str], np.ndarray] | None:
    """Keys and rows of an index of these very shards."""
    try:
        content = read()
        with ZipFile(BytesIO(content)) as packed:  # it may be anybody's: what it holds is as large as it is
            if sum(entry.file_size for entry in packed.infolist()) > len(content):
                return None
        with np.load(BytesIO(content), allow_pickle=False) as kept:
            if int(kept["format"]) != FORMAT or not np.array_equal(kept["shards"], _marks(shards)):
                return None
            keys, rows = kept["keys"].tobytes().decode("utf-8", "surrogateescape").split("\0"), kept["rows"]
    except Exception:  # whatever is wrong with a file that can be made anew
        return None
    keys = keys if len(rows) else []
    if rows.shape != (len(keys), len(COLUMNS)) or rows.dtype != np.int64:
        return None
    known = (rows[:, :2] >= 0) & (rows[:, :2] < (len(shards), len(IMAGES)))
    return (keys, rows) if known.all() and (rows[:, 2::2][:, :3] >= 0).all() else None


def _marks(shards: Mapping[Any, str]) -> np.ndarray:
    return np.array([f"{shard.name} {mark}" for shard, mark in shards.items()])
