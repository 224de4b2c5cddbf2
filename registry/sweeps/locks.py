"""Locks between processes: of this machine, and of others on a shared file system that knows POSIX locks.

A lock ends with the process that holds it, whatever ends that; threads of one process do not exclude each other.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Busy(Exception):
    """Another process holds the lock."""


class Lock:
    """The lock of one file, which is made if need be and stays.

    Args:
        path: the file; its folder must be there.
        wait: until the lock is free; else `Busy` is raised.
    """

    def __init__(self, path: Path, wait: bool = True) -> None:
        self._file: IO[bytes] | None = open(path, "ab")  # noqa: SIM115
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            self.release()
            if isinstance(error, BlockingIOError | PermissionError):  # POSIX allows either
                raise Busy(str(path)) from None
            raise

    def release(self) -> None:
        """Let go; again is no error."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of `path`. Raises `Busy`."""
    lock = Lock(path, wait)
    try:
        yield
    finally:
        lock.release()


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that other processes add to as well, on the disk when this returns.

    A last line without its end, which a process that was killed left, gets one first.
    """
    assert "\n" not in line
    with open(path, "a+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        whole = size == 0 or file.read(1) == b"\n"
        file.write((b"" if whole else b"\n") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
