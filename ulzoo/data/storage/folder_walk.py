"""The files below a folder of examples: hidden ones are passed over, and links that lead back are not followed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

HIDDEN = "hidden"
LINK = "link that leads back"
CLOSED = "folder that cannot be opened"
PLURALS = {LINK: "links that lead back", CLOSED: "folders that cannot be opened"}
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
"""Folders that operating systems and archive programs create, without a dot in front."""
NAMED_KINDS = 6


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over: `.ipynb_checkpoints`, `._a.png`, `__MACOSX`."""
    return (name.startswith(".") and name not in (".", "..")) or name in SYSTEM_FOLDERS


def list_folders(folder: Path) -> list[str]:
    """The names of the subfolders that are not hidden, in alphabetical order; [] if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_files(folder: Path, passed_over: Counter[str], *, excluded: Iterable[Path] = ()) -> list[str]:
    """The paths of all files below a folder: sorted by their folder's path, then by name.

    Links to folders are followed, each folder once: real folders are entered first, then the links in alphabetical
    order. A link to a folder that was entered, to one above `folder`, or to one of `excluded` leads back.

    Args:
        folder: the folder.
        passed_over: counts what is passed over, by reason.
        excluded: folders that no link is followed to.
    """
    entered = {_identity(path) for path in (*folder.absolute().parents, *folder.resolve().parents, *excluded)}
    files: dict[str, list[str]] = {}
    starts = [str(folder)]
    while starts:
        links: list[str] = []
        for start in starts:
            if start != str(folder) and _identity(start) in entered:
                passed_over[LINK] += 1
            else:
                links += _walk(start, entered, files, passed_over)
        starts = sorted(links)
    return [os.path.join(parent, name) for parent in sorted(files) for name in sorted(files[parent])]


def describe_passed_over(passed_over: Counter[str]) -> str:
    """A phrase such as "passed over 9 .txt, 1 .heic, 3 hidden"."""
    rows = [(kind, count) for kind, count in passed_over.most_common() if count]
    parts = [f"{count:,} {PLURALS.get(kind, kind) if count > 1 else kind}" for kind, count in rows[:NAMED_KINDS]]
    if more := sum(count for _, count in rows[NAMED_KINDS:]):
        parts.append(f"{more:,} others")
    return f"passed over {', '.join(parts)}"


def _walk(
    start: str, entered: set[tuple[int, int]], files: dict[str, list[str]], passed_over: Counter[str]
) -> list[str]:
    """Add the files below `start` by folder, without following links; returns the links to folders."""
    links: list[str] = []
    folders = [start]
    while folders:
        parent = folders.pop()
        entered.add(_identity(parent))
        try:
            with os.scandir(parent) as entries:
                children = [(entry.name, entry.path, entry.is_dir(), entry.is_symlink()) for entry in entries]
        except OSError:
            passed_over[CLOSED] += 1
            continue
        names = files.setdefault(parent, [])
        for name, path, is_folder, is_link in children:
            if is_hidden(name):
                passed_over[HIDDEN] += 1
            elif not is_folder:
                names.append(name)
            elif is_link:
                links.append(path)
            else:
                folders.append(path)
    return links


def _identity(path: str | Path) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return -1, -1
    return stat.st_dev, stat.st_ino
