"""What a folder of packed shards holds, by the file `manifest.json` in it, and whether that is still so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulzoo.data.storage.remote import RemotePath
from ulzoo.files.atomic import sha256, write_text

NAME = "manifest.json"
LABELS = "labels.json"


@dataclass(frozen=True)
class Shard:
    """One finished file, and the examples that should be in it and are not.

    Args:
        name: its file name without suffix.
        count: how many examples are in it.
        bytes: its size.
        sha256: of the file.
        failures: key -> why it is missing.
    """

    name: str
    count: int
    bytes: int
    sha256: str
    failures: dict[str, str]

    def to_dict(self, unit: str) -> dict[str, Any]:
        """As plain data, in which the number of examples is called by what they are."""
        return {"name": self.name, unit: self.count, "bytes": self.bytes, "sha256": self.sha256}

    @classmethod
    def of(cls, path: Path, count: int, failures: dict[str, str]) -> Shard:
        """Of a file that has been written."""
        return cls(path.stem, count, path.stat().st_size, sha256(path), failures)


@dataclass(frozen=True)
class SplitSummary:
    """Totals of one split."""

    count: int
    bytes: int
    shards: int
    failures: dict[str, str]


class Manifest:
    """The manifest of a folder: for every split its settings, shards, failures and totals.

    Args:
        folder: where it lies, or will.
        unit: what its examples are, "clips" or "images".
        suffix: of the shards, with the dot.

    Raises:
        ValueError: a manifest.json that is not one.
    """

    def __init__(self, folder: Path, unit: str = "clips", suffix: str = ".tar") -> None:
        self.path, self.unit, self.suffix = folder / NAME, unit, suffix
        self.splits = read_splits(self.path)

    def begin(self, split: str, settings: dict[str, Any]) -> None:
        """Write down that the split is being packed with these settings.

        Raises:
            ValueError: it was begun with other ones, or the folder holds shards of it that no manifest speaks of.
        """
        folder = self.path.parent
        if split in self.splits:
            there = self.splits[split]["settings"]
            keys = [key for key in {**there, **settings} if there.get(key) != settings.get(key)]
            if keys:
                differ = "; ".join(f"{key} was {there.get(key)}, now {settings.get(key)}" for key in keys)
                raise ValueError(f"{folder}: {split} was prepared with other settings: {differ}; choose another --out")
        elif stray := next(folder.glob(f"{split}-*{self.suffix}"), None):
            raise ValueError(f"{stray}: no {NAME} says what it is; choose another --out")
        self.splits[split] = {"settings": settings, "complete": False, "suffix": self.suffix}
        self._write()

    def finish(self, split: str, shards: list[Shard]) -> SplitSummary:
        """Write down what the split's shards hold."""
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
        write_text(self.path, json.dumps({"splits": self.splits}, indent=1, ensure_ascii=False) + "\n")


class NoManifest(ValueError):
    """A manifest.json of something else."""


def read_splits(path: Path | RemotePath) -> dict[str, Any]:
    """The splits in a manifest.json; {} where there is none. Raises NoManifest, a ValueError, if it is not one."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    try:
        splits = json.loads(content)["splits"]
        whole = all(_is_entry(entry) for entry in splits.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise NoManifest(f"{path}: not a manifest of prepared data: remove it")
    return splits


def _is_entry(entry: Any) -> bool:
    """Whether a split's entry is of the types that it must have: anybody may have written it."""
    if not isinstance(entry["complete"], bool) or not isinstance(entry.get("settings", {}), dict):
        return False
    return not entry["complete"] or (entry["totals"]["bytes"] is not None and all(map(_is_shard, entry["shards"])))


def _is_shard(row: Any) -> bool:
    """A file of this very folder, with no more examples than bytes."""
    name, size = row["name"], row["bytes"]
    counts = [value for key, value in row.items() if key in ("images", "clips")]
    return (
        isinstance(name, str)
        and re.fullmatch(r"[\w.-]+", name) is not None
        and all(isinstance(number, int) and 0 <= number <= size for number in (size, *counts))
    )


def verify(folder: Path, on_shard: Callable[[int, int], object] = lambda done, total: None) -> dict[str, str]:
    """Read every shard again and compare it with the manifest; how many clips, images, ... by split, in words.

    Args:
        folder: prepared data.
        on_shard: told how many shards of how many are done.

    Raises:
        ValueError: no manifest, a split that is not complete, or files that are missing or changed.
    """
    manifest = Manifest(folder)
    if not manifest.splits:
        raise ValueError(f"{folder}: no {NAME} in it, so it is no prepared data")
    if unfinished := [split for split, entry in manifest.splits.items() if not entry["complete"]]:
        raise ValueError(f"{folder}: {', '.join(unfinished)} is not complete: run the same preparation again")
    shards = [
        (shard["name"] + entry.get("suffix", ".tar"), shard)
        for entry in manifest.splits.values()
        for shard in entry["shards"]
    ]
    wrong = list(_labels_wrong(folder, manifest))
    with ThreadPoolExecutor() as threads:
        checks = threads.map(lambda shard: _wrong(folder / shard[0], shard[1]), shards)
        for done, found in enumerate(checks, start=1):
            wrong += found
            on_shard(done, len(shards))
    known = {name for name, _ in shards}
    there = sorted(path.name for suffix in {Path(name).suffix for name in known} for path in folder.glob(f"*{suffix}"))
    wrong += [f"{name} is not in the manifest" for name in there if name not in known]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{folder}: {'; '.join(wrong[:3])}{more} (remove such files and prepare again)")
    return {split: _words(entry["totals"]) for split, entry in manifest.splits.items()}


def _words(totals: dict[str, int]) -> str:
    """ "12 clips"."""
    unit = next(key for key in totals if key not in ("bytes", "failures"))
    return f"{totals[unit]:,} {unit}"


def _labels_wrong(folder: Path, manifest: Manifest) -> Iterator[str]:
    expected = {entry["settings"].get("labels_sha256") for entry in manifest.splits.values()} - {None}
    path = folder / LABELS
    if not expected:
        return
    if not path.exists():
        yield f"{LABELS} is missing"
    elif expected != {sha256(path)}:
        yield f"{LABELS} has another SHA-256 than when it was prepared"


def _wrong(path: Path, shard: dict[str, Any]) -> Iterator[str]:
    if not path.exists():
        return iter([f"{path.name} is missing"])
    if (size := path.stat().st_size) != shard["bytes"]:
        return iter([f"{path.name} has {size:,} bytes, not {shard['bytes']:,}"])
    if (found := sha256(path)) != shard["sha256"]:
        return iter([f"{path.name} has SHA-256 {found[:12]}…, not {shard['sha256'][:12]}…"])
    return iter([])
