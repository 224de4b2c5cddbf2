"""The fingerprint of a data set by its content: protocols, stored latents, packed shards and statistics record it.

Its **identity** is the same on every machine, also after the files were copied: the number of examples, their keys,
labels and label names, the sizes of their files, and the content of examples spread evenly over them. Two sources with
one identity are taken to be the same images, so the identity is part of what is compared between machines.

Its **files** are a digest of the sizes and times of modification. A copy has other times, so it is only compared on one
machine: equal files were not written since, and other ones are compared by content or read again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulzoo.data.source import ListedExample, Source, Unreadable, sample_content

PROBED = 32  # examples whose content is read
MAX_BYTES = 2**20  # read from each end of a file
WORDS = {
    "examples": "number of examples",
    "label_names": "label names",
    "sizes": "sizes of the files",
    "content": "content of the examples",
}


@dataclass(frozen=True)
class Fingerprint:
    """Which examples a source has.

    Attributes:
        identity: "examples", their number, and digests of "keys", "labels", "label_names", "sizes" and "content", as
            far as the source has them; ready for JSON.
        files: digest of sizes and times of modification; None if the examples are not in files.
    """

    identity: dict[str, Any]
    files: str | None

    def to_dict(self) -> dict[str, Any]:
        """Both parts, to name what is cached on this machine."""
        return {**self.identity, "files": self.files}


def fingerprint(source: Source, count: int | None = None) -> Fingerprint:
    """The fingerprint of the first `count` examples of a source, all of them if None.

    All examples are listed (`Source.list_examples`), which asks for the status of every file, and 32 of them are read.
    Of a source that cannot list them, only the keys, labels and content of these 32 are used. Of a source in memory,
    all examples are read.

    Raises:
        ValueError: as raised by reading an example, unless it is Unreadable; that is part of the content.
    """
    count = len(source) if count is None else min(count, len(source))
    entries = source.list_examples(count)
    identity: dict[str, Any] = {"examples": count}
    files = None
    if entries is not None:
        entries = list(entries)
        identity["keys"] = digest(entry.key for entry in entries)
        identity["labels"] = digest(entry.label for entry in entries)
        sizes = [entry.size for entry in entries]
        if any(size is not None for size in sizes):
            identity["sizes"] = digest(sizes)
            files = stamp(entries)
    if source.label_names:
        identity["label_names"] = digest(source.label_names)
    indices = range(count) if source.in_memory else spread(count)
    identity["content"] = digest(_read(source, index, listed=entries is not None) for index in indices)
    return Fingerprint(identity, files)


def describe_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two identities: ["number of examples: 24 and 10", "keys"]; [] if they agree."""
    changes = []
    for field in dict.fromkeys((*before, *after)):
        if before.get(field) != after.get(field):
            word = WORDS.get(field, field)
            changes.append(f"{word}: {before.get(field)} and {after.get(field)}" if field == "examples" else word)
    return changes


def stamp(entries: Iterable[ListedExample]) -> str:
    """A digest that changes when one of the examples' files is written again."""
    return digest(f"{entry.size} {entry.written}" for entry in entries)


def digest(items: Iterable[object]) -> str:
    """Sixteen hex digits of the SHA-256 of items, which are bytes or taken as strings."""
    sha256 = hashlib.sha256()
    for item in items:
        content = item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogateescape")
        sha256.update(f"{len(content)} ".encode())
        sha256.update(content)
    return sha256.hexdigest()[:16]


def spread(count: int) -> list[int]:
    """The numbers of at most 32 of `count` examples, evenly spread, the first and the last among them."""
    if count <= PROBED:
        return list(range(count))
    return [i * (count - 1) // (PROBED - 1) for i in range(PROBED)]


def describe_files(key: str, label: int, *paths: str | Path) -> ListedExample:
    """An example with these files, of which one that is missing has no size."""
    sizes, times = [], []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        sizes.append(status.st_size)
        times.append(status.st_mtime_ns)
    return ListedExample(key, label, sum(sizes) if sizes else None, sum(times))


def file_content(path: str | Path) -> bytes:
    """The size of a file and up to a MiB from each end, which identify a large video too; b"" if it is unreadable."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(MAX_BYTES)
            file.seek(max(MAX_BYTES, size - MAX_BYTES))
            return f"{size} ".encode() + start + file.read(MAX_BYTES)
    except OSError:
        return b""


def _read(source: Source, index: int, *, listed: bool) -> bytes:
    """The content of an example, and its key and label if the source does not list them."""
    try:
        if listed:
            return source.content(index)
        sample = source[index]
    except Unreadable:
        return b"unreadable"
    return f"{sample.key} {sample.label} ".encode("utf-8", "surrogateescape") + sample_content(sample)
