"""Writing files so that a reader sees the old content or the new, never half of it; and their SHA-256."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file in a folder beside `path`, bring it to the disk, then put it in the place of `path`.

    A process killed meanwhile leaves that folder, whatever `write` put there included; the next write of `path` or
    `remove_unfinished` takes it away.
    """
    aside = path.with_name(f".{path.name}.tmp")
    unfinished = aside / path.name
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write(unfinished)
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        unfinished.chmod(aside.stat().st_mode & 0o666)  # as open() would; safetensors writes for the user alone
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _to_disk(path.parent)


def put_in_place(aside: Path, path: Path) -> None:
    """Give a folder whose files are on the disk its name, in the place of one that may have it, which is removed."""
    _to_disk(aside)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(aside, path)
    _to_disk(path.parent)


def _to_disk(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove what killed writes of files whose names match the regular expression `name` left in `folder`."""
    for aside in folder.glob(".*.tmp"):
        if re.fullmatch(name, aside.name[1 : -len(".tmp")]):
            shutil.rmtree(aside)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def sha256(path: Path) -> str:
    """Of a file's content, in hex, without holding it in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where what can be made anew is kept: `$XDG_CACHE_HOME/ulzoo`, or `~/.cache/ulzoo`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ulzoo"


def one_line(text: str) -> str:
    """`text` without what would break a line or speak to a terminal, and not too long."""
    text = text if len(text) <= 1000 else text[:1000] + " ..."
    return "".join(char if char.isprintable() else " " if char.isspace() else repr(char)[1:-1] for char in text)
