"""Files of weights that others published: handed by the user or fetched once, and read only if their hash is right."""

import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ulzoo.files.atomic import sha256 as sha256_of
from ulzoo.files.atomic import write_atomically


@dataclass(frozen=True)
class DetectorFile:
    """A published file that a figure needs.

    Attributes:
        figure: its name in messages.
        what: the file's content, with its size.
        url: where it is.
        sha256: of it.
        cached: its path below torch's cache (TORCH_HOME), where a download is kept.
        instead: what there is without it.
        option: of the command line, that names such a file.
    """

    figure: str
    what: str
    url: str
    sha256: str
    cached: str
    instead: str
    option: str = "--detector"

    def find(self, file: Path | None, sha256: str | None = None, download: bool = False) -> tuple[Path, str]:
        """The file and the hash that it must have: the one that was given, or the published one in torch's cache.

        Args:
            file: where it lies; None for torch's cache.
            sha256: its hash, if it is not the published one.
            download: fetch the published one into the cache if no file was given and it is not there.

        Raises:
            ValueError: none was given, and downloading was not asked for; the message names the ways on.
            OSError: the download failed.
        """
        if file is not None:
            return file, sha256 or self.sha256
        if sha256 is not None:
            raise ValueError(f"a SHA-256 belongs to a file: give that too, by {self.option}")
        cached = Path(torch.hub.get_dir()) / self.cached
        if not cached.exists():
            if not download:
                raise ValueError(
                    f"{self.figure} needs {self.what}: --download fetches it, {self.option} FILE names one that is "
                    f"here; {self.instead}"
                )
            write_atomically(cached, self._download)
        return cached, self.sha256

    def _download(self, path: Path) -> None:
        request = urllib.request.Request(self.url, headers={"User-Agent": "ulzoo"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer, open(path, "wb") as file:
                shutil.copyfileobj(answer, file)
        except OSError as error:
            raise OSError(f"{self.what} could not be fetched from {self.url}: {error}") from None
        if (found := sha256_of(path)) != self.sha256:
            raise OSError(f"{self.url} gave a file with SHA-256 {found}, not {self.sha256}; it was not kept")


@contextmanager
def checked(file: Path, sha256: str, what: str) -> Iterator[str]:
    """Within it a file is read that was compared with its hash, in hex, which it gives.

    Raises:
        ValueError: no such file, or another hash; or reading failed, as the file is not `what` it should be.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    if (found := sha256_of(file)) != sha256.lower():
        raise ValueError(f"{file}: its SHA-256 is {found}, not {sha256.lower()}; it was not loaded")
    try:
        yield found
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, struct.error, EOFError, KeyError, ...
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{file}: not {what}: {reason}") from error


def read_tensors(file: Path) -> dict[str, Any]:
    """The tensors of a PyTorch file by name; nothing else is unpickled."""
    return torch.load(file, map_location="cpu", weights_only=True)
