"""Files behind URLs (s3://, gs://, https:// and other protocols of fsspec), with the path methods that ulzoo uses."""

from __future__ import annotations

import io
from collections.abc import Callable
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ulzoo.files import retries

T = TypeVar("T")
BLOCK = 2**22  # bytes per request of a sequential read
VERSION_FIELDS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "created")  # of fsspec's file infos


class MissingFile(ValueError):
    """A file that does not exist, or that may not be read."""


class Stat(NamedTuple):
    """The fields of `os.stat_result` that are used: the size, and a number that changes when the file is rewritten."""

    st_size: int
    st_mtime_ns: int


class RemotePath:
    """A file or folder, given by its URL. It keeps no connection open, so that workers open their own.

    Every method raises a one-line ValueError that names the URL: `MissingFile`, or the error of the third attempt.
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

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which only serves files."""
        return self.url.startswith(("http://", "https://"))

    def glob(self, pattern: str) -> list[RemotePath]:
        """The matching files in this folder; [] if it cannot be listed, as on most web servers."""
        try:
            infos = self._retry(lambda system, path: system.glob(f"{path}/{pattern}", detail=True))
        except MissingFile:
            return []
        return [RemotePath(f"{self.url}/{name.rpartition('/')[2]}", _stat(info)) for name, info in infos.items()]

    def is_file(self) -> bool:
        try:
            self.stat()
        except MissingFile:
            return False
        return True

    def stat(self) -> Stat:
        """Size and version of the file, requested once."""
        if self._stat is None:
            self._stat = _stat(self._retry(lambda system, path: system.info(path)))
        if self._stat is None:
            raise ValueError(f"{self}: the server does not report its size")
        return self._stat

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, or fewer at the end of the file."""
        content = self._retry(lambda system, path: system.cat_file(path, start=offset, end=offset + size))
        if len(content) > size:
            raise ValueError(f"{self}: the server sends entire files when asked for a part (no HTTP range requests)")
        return content

    def read_bytes(self) -> bytes:
        return self._retry(lambda system, path: system.cat_file(path))

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)

    def list_names(self) -> list[str]:
        """The names of the files and folders in this folder, as they are now; [] if there is no such folder."""

        def request(system: Any, path: str) -> list[str]:
            system.invalidate_cache()
            return system.ls(path, detail=False)

        try:
            return sorted(name.rstrip("/").rpartition("/")[2] for name in self._retry(request))
        except MissingFile as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return []
            raise

    def upload(self, file: Path) -> None:
        """Write a local file here. Object stores show it once it is complete."""
        self._retry(lambda system, path: system.put_file(str(file), path))
        self._stat = None

    def download(self, file: Path) -> None:
        """Write the file to a local one."""
        self._retry(lambda system, path: system.get_file(path, str(file)))

    def remove(self) -> None:
        """Remove the file."""
        self._retry(lambda system, path: system.rm_file(path))

    def sha256(self) -> str:
        """SHA-256 of the content in hex."""
        with self.open() as file:
            return file_digest(file, "sha256").hexdigest()

    def open(self) -> io.BufferedReader:
        """Open the file for sequential reading."""
        return io.BufferedReader(_RangeReader(self), BLOCK)

    def _retry(self, request: Callable[[Any, str], T]) -> T:
        """Run a request on the file system and the path in it, with two retries."""

        def attempt() -> T:
            try:
                return request(*self._system())
            except FileNotFoundError as error:  # fsspec replaces other errors by it
                raise error.__cause__ or error from None

        try:
            return retries.retry(attempt, str(self), _is_final)
        except Exception as error:
            if _is_missing(error):
                message = f"{self}: no such file, or no permission to read it ({retries.reason(error)})"
                raise MissingFile(message) from error
            raise ValueError(f"{self}: {retries.reason(error)}") from error

    def _system(self) -> tuple[Any, str]:
        """fsspec's file system, one instance per process, and the path in it."""
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.url, **(_client_options() if self.is_web else {}))
        except ImportError as error:  # its message names the package
            extras = "http:// and https:// need pip install 'ulzoo[remote]', s3:// needs 'ulzoo[s3]'"
            raise ImportError(f"{error}; {extras}") from error


StoragePath = Path | RemotePath


def storage_path(root: str) -> StoragePath:
    """The path of a folder that a spec gives as a local path or as a URL."""
    return RemotePath(root) if "://" in root else Path(root).expanduser()


class _RangeReader(io.RawIOBase):
    """A seekable stream that reads a remote file by ranges."""

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
        size = min(len(buffer), self.size - self.position)
        content = self.path.read(self.position, size) if size > 0 else b""
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def _stat(info: dict[str, Any]) -> Stat | None:
    if info.get("size") is None:
        return None
    version = repr([(key, str(info[key])) for key in VERSION_FIELDS if info.get(key)])
    return Stat(int(info["size"]), int(sha256(version.encode()).hexdigest()[:15], 16))


def _is_missing(error: BaseException) -> bool:
    response = getattr(error, "response", {})  # of botocore; aiohttp's errors have the status
    answer = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    denied = answer.get("HTTPStatusCode", getattr(error, "status", None)) in (401, 403, 404, 410)
    return denied or isinstance(error, FileNotFoundError | PermissionError)


def _is_final(error: BaseException) -> bool:
    return _is_missing(error) or isinstance(error, ImportError | ValueError)


def _client_options() -> dict[str, Any]:
    """Options of fsspec's file system for web servers: the timeout. Clients of object stores have their own."""
    from aiohttp import ClientTimeout

    seconds = retries.TIMEOUT
    return {"client_kwargs": {"timeout": ClientTimeout(total=15 * seconds, sock_connect=seconds, sock_read=seconds)}}
