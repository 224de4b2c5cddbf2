"""Atomic writes, after which a reader sees the old content or the new, never a mixture; and small file helpers."""

import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill the temporary file of `atomic_file`."""
    with atomic_file(path) as unfinished:
        write(unfinished)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which is synced to disk and renamed to `path` unless there is an error.

    The file lies in a temporary folder of its own. A process that is killed meanwhile leaves this folder behind,
    including anything else that was created in it; the next write of `path` or `remove_unfinished` removes it.
    """
    folder = path.with_name(f".{path.name}.tmp")
    unfinished = folder / path.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        unfinished.chmod(folder.stat().st_mode & 0o666)  # as open() sets it; safetensors writes files for the user only
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _sync_folder(path.parent)


@contextmanager
def warned_of_errors(message: str) -> Iterator[None]:
    """Turn an OSError into a warning that starts with `message`; for files that can be done without."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{message}: {error.strerror or error}", stacklevel=3)


def check_destination(path: Path) -> None:
    """Check that a file can be written to `path`, before the work whose result it is. Leaves nothing behind.

    Raises:
        ValueError: `path` is a folder, is below a file, or its folder cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, not a file to write")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise ValueError(f"{path}: cannot be written: {folder} is not a folder")
    try:
        with TemporaryDirectory(dir=folder, prefix=".ulzoo-") as temporary:
            Path(temporary, "file").write_bytes(b"0")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {folder}: {error.strerror or error}") from None


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a folder whose files are synced to disk, replacing a folder that has the name already."""
    _sync_folder(temporary)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove the remains of interrupted writes in `folder` whose file names match the regular expression `name`.

    They are folders; files and links of such names are kept.
    """
    for temporary in folder.glob(".*.tmp"):
        is_folder = temporary.is_dir() and not temporary.is_symlink()
        if is_folder and re.fullmatch(name, temporary.name[1 : -len(".tmp")]):
            shutil.rmtree(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically, encoded by `encode_text`."""
    write_bytes(path, encode_text(text))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def encode_text(text: str) -> bytes:
    r"""Encode as UTF-8; a byte of a file name that is not UTF-8 becomes an escape, `\udce9`, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content in hex, without reading the file into memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The folder for files that can be recomputed: `$XDG_CACHE_HOME/ulzoo`, or `~/.cache/ulzoo`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ulzoo"
