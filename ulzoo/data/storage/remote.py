"""Files behind a URL, s3://, gs://, https:// and the rest of fsspec's: the few things that ulzoo asks of a path."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

T = TypeVar("T")
PAUSES = (1.0, 4.0)  # seconds before what failed is tried again
BLOCK = 2**22  # bytes that are read at once where a file is looked through
MARKS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "created")  # of fsspec's infos: what changes


class Missing(ValueError):
    """There is no such file, or none that may be read."""


class Stat(NamedTuple):
    """What `os.stat` has of a file: its size, and a number that is another one when it has been written again."""

    st_size: int
    st_mtime_ns: int


class RemotePath:
    """A file or folder by its URL. It holds nothing open, so that workers make connections of their own.

    Every method raises a ValueError in one line that names the URL: `Missing`, or what failed three times.
    """

    def __init__(self, url: str, stat: Stat | None = None) -> None:
        self.url, self._stat = url.rstrip("/"), stat

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def glob(self, pattern: str) -> list[RemotePath]:
        """The files in this folder; none where they cannot be listed, as web servers seldom do."""
        try:
            found = self._tried(lambda system, path: system.glob(f"{path}/{pattern}", detail=True))
        except Missing:
            return []
        return [RemotePath(f"{self.url}/{name.rpartition('/')[2]}", _stat(info)) for name, info in found.items()]

    def is_file(self) -> bool:
        try:
            self.stat()
        except Missing:
            return False
        return True

    def stat(self) -> Stat:
        """DistanceConfig for once."""
        if self._stat is None:
            self._stat = _stat(self._tried(lambda system, path: system.info(path)))
        if self._stat is None:
            raise ValueError(f"{self}: the server does not say how large it is")
        return self._stat

    def read(self, offset: int, size: int) -> bytes:
        """This many bytes, or fewer at the end."""
        content = self._tried(lambda system, path: system.cat_file(path, start=offset, end=offset + size))
        if len(content) > size:
            raise ValueError(f"{self}: the server sends whole files where a part is asked for (HTTP ranges)")
        return content

    def read_bytes(self) -> bytes:
        return self._tried(lambda system, path: system.cat_file(path))

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)

    def open(self) -> BinaryIO:
        """For reading from front to back."""
        return io.BufferedReader(_Blocks(self), BLOCK)

    def _tried(self, ask: Callable[[Any, str], T]) -> T:
        for pause in (*PAUSES, None):
            try:
                return ask(*self._system())
            except Exception as failed:  # of aiohttp, botocore, ...: each has its own
                error = failed.__cause__ if isinstance(failed, FileNotFoundError) and failed.__cause__ else failed
            status = getattr(error, "status", None)
            if isinstance(error, FileNotFoundError | PermissionError) or status in (401, 403, 404, 410):
                raise Missing(f"{self}: no such file, or not for you ({_reason(error)})") from error
            if pause is None or isinstance(error, ImportError | ValueError):
                raise ValueError(f"{self}: {_reason(error)}") from error
            time.sleep(pause)
        raise AssertionError

    def _system(self) -> tuple[Any, str]:
        """fsspec's file system, one a process, and the path in it."""
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.url)
        except ImportError as error:  # names the package
            raise ImportError(f"{error}; http:// and https:// need pip install 'ulzoo[remote]'") from error


def place(root: str) -> Path | RemotePath:
    """A folder by what a spec calls it."""
    return RemotePath(root) if "://" in root else Path(root).expanduser()


class _Blocks(io.RawIOBase):
    """A file that can be read and sought, by parts."""

    def __init__(self, path: RemotePath) -> None:
        self.path, self.size, self.position = path, path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.size - self.position)
        content = self.path.read(self.position, wanted) if wanted > 0 else b""
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def _stat(info: dict[str, Any]) -> Stat | None:
    if info.get("size") is None:
        return None
    marks = repr([(key, str(info[key])) for key in MARKS if info.get(key)])
    return Stat(int(info["size"]), int(sha256(marks.encode()).hexdigest()[:15], 16))


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
