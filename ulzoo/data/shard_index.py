"""Where every image of a split's shards lies: looked up once, then kept in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from ulzoo.data.shards import Part, examples, read_label
from ulzoo.files import write_atomically

FORMAT = 1
IMAGES = ("jpg", "jpeg", "png", "webp")
TEXT, LABEL = "npy", "cls"
COLUMNS = ("shard", "suffix", "offset", "size", "text_offset", "text_size", "label_offset", "label_size", "label")


@dataclass(frozen=True)
class ShardIndex:
    """The images of some shards, in the shards' order.

    Attributes:
        shards: the tar files.
        keys: of the images.
        rows: (N, 9) int64, as `COLUMNS`: number of the shard, of the image's suffix in `IMAGES`, its place, that of its
            .npy, that of its .cls (size -1 where there is none), and the label as `read_label` has it.
    """

    shards: Sequence[Path]
    keys: Sequence[str]
    rows: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return self.rows[:, COLUMNS.index(name)]

    def image(self, index: int) -> tuple[Path, str, Part, Part | None, int]:
        """Its shard, its file's name, where it lies, where its caption lies, and its label."""
        shard, suffix, offset, size, text_offset, text_size, _, _, label = map(int, self.rows[index])
        text = None if text_size < 0 else Part(text_offset, text_size)
        return self.shards[shard], f"{self.keys[index]}.{IMAGES[suffix]}", Part(offset, size), text, label

    def label_part(self, index: int) -> Part | None:
        offset, size = (int(self.column(name)[index]) for name in ("label_offset", "label_size"))
        return None if size < 0 else Part(offset, size)


def open_index(folder: Path, split: str, shards: Sequence[Path]) -> ShardIndex:
    """The index of a split's shards: the one kept since the shards last changed, or a new one, which is then kept.

    It is kept beside them as `.index-SPLIT.npz` or, where that cannot be written, below `$XDG_CACHE_HOME/ulzoo`
    (`~/.cache/ulzoo`); where neither can, it is made anew each time. A shard has changed where its size or its time of
    modification has.

    Raises:
        ValueError: a shard is damaged, holds a file twice or two images under one key.
    """
    stamps = np.array([(entry.st_size, entry.st_mtime_ns) for entry in map(os.stat, shards)], np.int64)
    names = np.array([shard.name for shard in shards])
    places = _places(folder, split)
    for path in places:
        if kept := _read(path, names, stamps):
            return ShardIndex(shards, *kept)
    keys, rows = _look_through(shards)
    for path in places:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda aside: _write(aside, names, stamps, keys, rows))
            break
        except OSError:
            continue
    return ShardIndex(shards, keys, rows)


def _places(folder: Path, split: str) -> tuple[Path, Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ulzoo" / "shards"
    return folder / f".index-{split}.npz", cache / f"{sha256(os.fsencode(folder.resolve())).hexdigest()}-{split}.npz"


def _look_through(shards: Sequence[Path]) -> tuple[list[str], np.ndarray]:
    keys: list[str] = []
    rows: list[tuple[int, ...]] = []
    nowhere = Part(0, -1)
    for number, shard in enumerate(shards):
        for key, parts in examples(shard, (*IMAGES, TEXT, LABEL)):
            kinds = [suffix for suffix in IMAGES if suffix in parts]
            if len(kinds) > 1:
                raise ValueError(f"{shard}: holds two images of one key, {key!r}.{kinds[0]} and .{kinds[1]}")
            if kinds:
                places = parts[kinds[0]] + parts.get(TEXT, nowhere) + parts.get(LABEL, nowhere)
                rows.append((number, IMAGES.index(kinds[0]), *places, read_label(shard, parts.get(LABEL))))
                keys.append(key)
    return keys, np.array(rows, np.int64).reshape(len(rows), len(COLUMNS))


def _write(path: Path, names: np.ndarray, stamps: np.ndarray, keys: Sequence[str], rows: np.ndarray) -> None:
    packed = np.frombuffer("\0".join(keys).encode("utf-8", "surrogateescape"), np.uint8)
    np.savez(path, format=np.array(FORMAT), names=names, stamps=stamps, keys=packed, rows=rows)


def _read(path: Path, names: np.ndarray, stamps: np.ndarray) -> tuple[list[str], np.ndarray] | None:
    """Keys and rows of an index of these very shards."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            if int(kept["format"]) != FORMAT:
                return None
            if not (np.array_equal(kept["names"], names) and np.array_equal(kept["stamps"], stamps)):
                return None
            keys, rows = kept["keys"].tobytes().decode("utf-8", "surrogateescape").split("\0"), kept["rows"]
    except Exception:  # whatever is wrong with a file that can be made anew
        return None
    keys = keys if len(rows) else []
    return (keys, rows) if rows.shape == (len(keys), len(COLUMNS)) and rows.dtype == np.int64 else None
