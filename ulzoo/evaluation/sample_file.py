"""Files that an evaluation writes on the way; if one cannot be written, the metrics are measured all the same."""

import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from ulzoo.files.atomic import atomic_file, check_destination


def check_destinations(paths: Iterable[Path | None]) -> None:
    """Check that files can be written to these paths, of which some may be None. Raises ValueError."""
    for path in paths:
        if path is not None:
            check_destination(path)


class UnwrittenFiles(dict[str, str]):
    """The files that could not be written, by path, each with the reason."""

    def add(self, path: Path, error: OSError) -> None:
        """Add a file, with a warning."""
        self[str(path)] = error.strerror or str(error)
        warnings.warn(f"{path}: not written: {self[str(path)]}", stacklevel=2)

    @contextmanager
    def catching(self, path: Path) -> Iterator[None]:
        """Add the file that is written in this context if there is an error."""
        try:
            yield
        except OSError as error:
            self.add(path, error)


class SampleFile:
    """Writes samples to an `.npz` file batch by batch, without keeping them in memory.

    After an error, such as that of a full disk, nothing more is written, and a previous file keeps its content.

    Args:
        path: the file, written atomically.
        images: the number of images that will be written.
        size: (H, W) of each.

    Attributes:
        error: the first error; None if there was none.
    """

    def __init__(self, path: Path, images: int, size: tuple[int, int]) -> None:
        self.shape, self.written = (images, *size, 3), 0
        self.error: OSError | None = None
        self._file = atomic_file(path)
        self._opened: list[Any] = []  # the archive and the array in it

    def __enter__(self) -> "SampleFile":
        self._attempt(self._open)
        return self

    def add(self, images: Tensor) -> None:
        """Write uint8 images (B, C, H, W) with one or three channels."""
        pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        assert pixels.shape[1:] == self.shape[1:] and pixels.dtype == np.uint8, (pixels.shape, pixels.dtype)
        self._attempt(lambda: self._opened[-1].write(pixels.data))
        self.written += len(pixels)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._opened:
            self._attempt(self._opened.pop().close, always=True)
        assert error is not None or self.written == self.shape[0], (self.written, self.shape)
        failure = error or self.error
        kind = None if failure is None else type(failure)
        self._attempt(lambda: self._file.__exit__(kind, failure, None), always=True)

    def _open(self) -> None:
        self._opened.append(zipfile.ZipFile(self._file.__enter__(), "w", zipfile.ZIP_STORED))
        self._opened.append(self._opened[0].open("arr_0.npy", "w", force_zip64=True))
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._opened[1], header)

    def _attempt(self, write: Callable[[], object], *, always: bool = False) -> None:
        """Call `write` unless there was an error before, and keep its error."""
        if self.error and not always:
            return
        try:
            write()
        except OSError as error:
            self.error = self.error or error
