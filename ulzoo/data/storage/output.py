"""Files in a local folder or in an object store, written so that a reader sees complete ones only."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from ulzoo.data.storage.remote import RemotePath, StoragePath
from ulzoo.files.atomic import atomic_file, check_destination, remove_unfinished

PROBE = ".ulzoo-can-write"


def check_writable(folder: StoragePath) -> None:
    """Check that files can be written to a folder, which may not exist yet. Leaves nothing behind.

    Raises:
        ValueError: they cannot, for want of rights or because it is a web server.
    """
    if isinstance(folder, Path):
        return check_destination(folder / PROBE)
    if folder.is_web:
        raise ValueError(f"{folder}: web servers only serve files; use an object store, such as s3://bucket/folder")
    with output_file(folder / PROBE) as file:
        file.write_bytes(b"")
    (folder / PROBE).remove()


@contextlib.contextmanager
def writing_to(folder: StoragePath, names: str) -> Iterator[None]:
    """Create and lock a local folder, and remove what interrupted writes left, of names that match a regex.

    The operating system releases the lock when the process ends, however it ends. Object stores have no folders, locks
    or unfinished files: two processes that write the same files replace each other's.

    Raises:
        ValueError: another process holds the lock.
    """
    if isinstance(folder, RemotePath):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder}: another process is preparing data there") from None
    with lock:
        remove_unfinished(folder, names)
        try:
            yield
        finally:
            remove_unfinished(folder, names)


@contextlib.contextmanager
def output_file(path: StoragePath) -> Iterator[Path]:
    """A temporary local file of the same name, which becomes `path` unless there is an error."""
    if isinstance(path, Path):
        with atomic_file(path) as file:
            yield file
    else:
        with TemporaryDirectory() as folder:
            yield (file := Path(folder) / path.name)
            path.upload(file)
