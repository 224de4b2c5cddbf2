"""The `manifest.json` of a folder of packed shards, which lists its content, and the verification against it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulzoo.data.storage.output import output_file
from ulzoo.data.storage.remote import StoragePath
from ulzoo.files.atomic import encode_text, sha256

MANIFEST = "manifest.json"
LABELS = "labels.json"


@dataclass(frozen=True)
class Shard:
    """A finished file, and the examples that are missing in it.

    Args:
        name: file name without suffix.
        count: number of examples in it.
        bytes: size of the file.
        sha256: of the file.
        failures: key of each missing example -> reason.
        inputs: digest of the content of the files that it was made from; "" if unknown.
        files: digest of their sizes and times of modification, which is not part of the manifest.
    """

    name: str
    count: int
    bytes: int
    sha256: str
    failures: dict[str, str]
    inputs: str = ""
    files: str = ""

    def to_dict(self, unit: str) -> dict[str, Any]:
        """A row of the manifest, in which `unit` is the key of the number of examples."""
        inputs = {"inputs": self.inputs} if self.inputs else {}
        return {"name": self.name, unit: self.count, "bytes": self.bytes, "sha256": self.sha256, **inputs}

    @classmethod
    def of(cls, path: StoragePath, count: int, failures: dict[str, str]) -> Shard:
        """Describe a file that has been written."""
        digest = sha256(path) if isinstance(path, Path) else path.sha256()
        return cls(Path(path.name).stem, count, path.stat().st_size, digest, failures)


@dataclass(frozen=True)
class SplitSummary:
    """Totals of a split, and its missing examples."""

    count: int
    bytes: int
    shards: int
    failures: dict[str, str]


class Manifest:
    """The manifest of a folder: settings, shards, failures and totals of each split.

    Args:
        folder: the folder of shards.
        unit: name of its examples, "clips" or "images".
        suffix: of the shards, with the dot.

    Raises:
        ValueError: a manifest.json in another format.
    """

    def __init__(self, folder: StoragePath, unit: str = "clips", suffix: str = ".tar") -> None:
        self.folder, self.path, self.unit, self.suffix = folder, folder / MANIFEST, unit, suffix
        self.splits = read_splits(self.path)

    def begin(self, split: str, settings: dict[str, Any]) -> None:
        """Record that a split is being packed with these settings.

        Raises:
            ValueError: it was started with other settings, or the folder contains shards of it without a manifest.
        """
        folder = self.folder
        if split in self.splits:
            if changes := describe_changes(self.splits[split]["settings"], settings):
                raise ValueError(f"{folder}: {split} was prepared with other settings: {changes}; choose another --out")
        elif stray := next(iter(folder.glob(f"{split}-*{self.suffix}")), None):
            raise ValueError(f"{stray}: not listed in a {MANIFEST}; choose another --out")
        self.splits[split] = {"settings": settings, "complete": False, "suffix": self.suffix}
        self._write()

    def finish(self, split: str, shards: list[Shard]) -> SplitSummary:
        """Record the finished shards of a split."""
        summary = SplitSummary(
            count=sum(shard.count for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
            shards=len(shards),
            failures={key: reason for shard in shards for key, reason in shard.failures.items()},
        )
        rows = [shard.to_dict(self.unit) for shard in shards]
        totals = {self.unit: summary.count, "bytes": summary.bytes, "failures": len(summary.failures)}
        self.splits[split] |= {"complete": True, "totals": totals, "shards": rows, "failures": summary.failures}
        self._write()
        return summary

    def _write(self) -> None:
        text = json.dumps({"splits": self.splits}, indent=1, ensure_ascii=False) + "\n"
        with output_file(self.path) as file:
            file.write_bytes(encode_text(text))


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The settings that differ, for an error message; "" if none does."""
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys)


class NotAManifest(ValueError):
    """A manifest.json in another format."""


def read_splits(path: StoragePath) -> dict[str, Any]:
    """The splits in a manifest.json; {} if there is no such file. Raises NotAManifest if it has another format."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    try:
        splits = json.loads(content)["splits"]
        valid = all(_is_entry(entry) for entry in splits.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise NotAManifest(f"{path}: not a manifest of prepared data: remove it")
    return splits


def _is_entry(entry: Any) -> bool:
    """Whether the entry of a split has the expected types; the file is untrusted."""
    if not isinstance(entry["complete"], bool) or not isinstance(entry.get("settings", {}), dict):
        return False
    return not entry["complete"] or (entry["totals"]["bytes"] is not None and all(map(_is_shard, entry["shards"])))


def _is_shard(row: Any) -> bool:
    """Whether a row names a file in the same folder, with no more examples than bytes."""
    name, size = row["name"], row["bytes"]
    counts = [value for key, value in row.items() if key in ("images", "clips")]
    return (
        isinstance(name, str)
        and re.fullmatch(r"[\w.-]+", name) is not None
        and all(isinstance(number, int) and 0 <= number <= size for number in (size, *counts))
    )


def verify(folder: Path, on_shard: Callable[[int, int], object] = lambda done, total: None) -> dict[str, str]:
    """Compare every shard with the manifest by SHA-256, and return the number of examples by split, e.g. "12 clips".

    Args:
        folder: prepared data.
        on_shard: progress callback, called with the number of shards verified so far and their total.

    Raises:
        ValueError: no manifest, a split that is not complete, or files that are missing or changed.
    """
    manifest = Manifest(folder)
    if not manifest.splits:
        raise ValueError(f"{folder}: no {MANIFEST} in it, so it is not prepared data")
    if unfinished := [split for split, entry in manifest.splits.items() if not entry["complete"]]:
        raise ValueError(f"{folder}: {', '.join(unfinished)} is not complete: run the same preparation again")
    shards = [
        (shard["name"] + entry.get("suffix", ".tar"), shard)
        for entry in manifest.splits.values()
        for shard in entry["shards"]
    ]
    problems = list(_check_labels(folder, manifest))
    with ThreadPoolExecutor() as threads:
        checks = threads.map(lambda shard: _check_shard(folder / shard[0], shard[1]), shards)
        for done, problem in enumerate(checks, start=1):
            problems += [problem] if problem else []
            on_shard(done, len(shards))
    listed = {name for name, _ in shards}
    suffixes = {Path(name).suffix for name in listed}
    present = sorted(path.name for suffix in suffixes for path in folder.glob(f"*{suffix}"))
    problems += [f"{name} is not in the manifest" for name in present if name not in listed]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{folder}: {'; '.join(problems[:3])}{more} (remove such files and prepare again)")
    return {split: _count(entry["totals"]) for split, entry in manifest.splits.items()}


def _count(totals: dict[str, int]) -> str:
    unit = next(key for key in totals if key not in ("bytes", "failures"))
    return f"{totals[unit]:,} {unit}"


def _check_labels(folder: Path, manifest: Manifest) -> Iterator[str]:
    expected = {entry["settings"].get("labels_sha256") for entry in manifest.splits.values()} - {None}
    path = folder / LABELS
    if not expected:
        return
    if not path.exists():
        yield f"{LABELS} is missing"
    elif expected != {sha256(path)}:
        yield f"{LABELS} differs from the one that was prepared (SHA-256)"


def _check_shard(path: Path, shard: dict[str, Any]) -> str | None:
    if not path.exists():
        return f"{path.name} is missing"
    if (size := path.stat().st_size) != shard["bytes"]:
        return f"{path.name} has {size:,} bytes, not {shard['bytes']:,}"
    if (digest := sha256(path)) != shard["sha256"]:
        return f"{path.name} has SHA-256 {digest[:12]}…, not {shard['sha256'][:12]}…"
    return None
