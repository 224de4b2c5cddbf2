"""Published files of weights: supplied by the user or downloaded once, and read only if their hash is right."""

import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import torch

from ulzoo.files import retries
from ulzoo.files.atomic import sha256 as sha256_of
from ulzoo.files.atomic import write_atomically


@dataclass(frozen=True)
class DetectorFile:
    """A published file that a metric needs.

    Attributes:
        metric: name of the metric in messages.
        what: content and size of the file in messages.
        url: where it is published.
        sha256: its hash.
        cached: its path in torch's cache (TORCH_HOME), to which it is downloaded.
        alternative: a metric that does not need it, in messages.
        option: the option of the command line that takes such a file.
    """

    metric: str
    what: str
    url: str
    sha256: str
    cached: str
    alternative: str
    option: str = "--detector"

    def find(self, file: Path | None, sha256: str | None = None, download: bool = False) -> tuple[Path, str]:
        """The path of the file, and the hash that it must have.

        Args:
            file: a file of the user's; None for the published one in torch's cache.
            sha256: the hash of the user's file, if it is not the published one.
            download: download the published file if it is not in the cache.

        Raises:
            ValueError: the file is neither given nor in the cache, and `download` is False.
            OSError: the download failed.
        """
        if file is not None:
            return file, sha256 or self.sha256
        if sha256 is not None:
            raise ValueError(f"a SHA-256 belongs to a file: name the file by {self.option}")
        cached = Path(torch.hub.get_dir()) / self.cached
        if not cached.exists():
            if not download:
                raise ValueError(
                    f"{self.metric} needs {self.what}: --download fetches it, {self.option} FILE reads it from a file; "
                    f"{self.alternative}"
                )
            write_atomically(cached, self._download)
        return cached, self.sha256

    def _download(self, path: Path) -> None:
        try:
            retries.retry(lambda: self._fetch(path), self.url, _is_final)
        except (OSError, HTTPException) as error:
            reason = retries.reason(error)
            raise OSError(f"{self.what} could not be fetched from {self.url}: {reason}") from None
        if (digest := sha256_of(path)) != self.sha256:
            raise OSError(f"{self.url}: the file has SHA-256 {digest}, not {self.sha256}; it was not kept")

    def _fetch(self, path: Path) -> None:
        request = urllib.request.Request(self.url, headers={"User-Agent": "ulzoo"})
        with urllib.request.urlopen(request, timeout=retries.TIMEOUT) as response, open(path, "wb") as file:
            shutil.copyfileobj(response, file)
            size, expected = file.tell(), response.headers.get("Content-Length")
        if expected and size < int(expected):
            raise ConnectionError(f"the connection ended after {size:,} of {int(expected):,} bytes")


def _is_final(error: BaseException) -> bool:
    """Whether the server refused the request, or the error is one of this machine."""
    if isinstance(error, HTTPError):
        return error.code < 500
    cause = error.reason if isinstance(error, URLError) else error
    return not isinstance(cause, TimeoutError | ConnectionError | HTTPException)


@contextmanager
def checked(file: Path, sha256: str, what: str) -> Iterator[str]:
    """Verify a file before it is read in this context.

    Args:
        file: the file.
        sha256: the hash that it must have, in hex.
        what: the expected content, for messages.

    Yields:
        The hash in hex.

    Raises:
        ValueError: there is no such file, it has another hash, or reading it in the context failed.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    if (digest := sha256_of(file)) != sha256.lower():
        raise ValueError(f"{file}: its SHA-256 is {digest}, not {sha256.lower()}; it was not loaded")
    try:
        yield digest
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, struct.error, EOFError, KeyError, ...
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{file}: not {what}: {reason}") from error


def read_tensors(file: Path) -> dict[str, Any]:
    """The tensors in a PyTorch file by name; no other objects are unpickled."""
    return torch.load(file, map_location="cpu", weights_only=True)
