"""A caption in a file of the user's: the token embeddings that a text encoder made of it, as numpy saves them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ulzoo.data.source import Unreadable


class UnreadableText(Unreadable):
    """A file that does not hold token embeddings."""


def text_path(image: str | Path) -> Path:
    """NAME.npy beside the image NAME.jpg."""
    return Path(image).with_suffix(".npy")


def read_text(file: Path | BinaryIO, width: int, length: int, name: object = None) -> Tensor:
    """The first `length` token embeddings of a file, (L, `width`) float32; L = 0 is an empty caption.

    Raises:
        UnreadableText: missing, damaged, pickled, of other numbers than float16 or float32, not (L, `width`), or
            with one that is not finite.
    """
    with _opened(file, name) as opened:
        header = _checked_header(opened, width)
        content = opened.read(header.bytes)
        values = np.frombuffer(content, header.dtype).reshape(header.shape, order=header.order)[:length]
        if not (finite := np.isfinite(values).all(axis=1)).all():
            raise ValueError(f"token {int(finite.argmin())} is not finite; float16 ends at 65504, so save float32")
        return torch.from_numpy(values.astype(np.float32, order="C"))


def check_text(file: Path | BinaryIO, width: int, name: object = None) -> None:
    """Raise UnreadableText as `read_text` does, but by the file's header and size alone."""
    with _opened(file, name) as opened:
        _checked_header(opened, width)


@contextmanager
def _opened(file: Path | BinaryIO, name: object) -> Iterator[BinaryIO]:
    """The file; whatever goes wrong in the block is an UnreadableText that names it."""
    name = name or file
    try:
        with open(file, "rb") if isinstance(file, Path) else nullcontext(file) as opened:
            yield opened
    except FileNotFoundError as error:
        raise UnreadableText(f"{name}: missing; the embeddings of an image's caption lie beside it") from error
    except Exception as error:  # numpy's header parser raises ValueError, SyntaxError, TokenError, TypeError, ...
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableText(f"{name}: {reason}") from error


class _Header(NamedTuple):
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def order(self) -> Literal["C", "F"]:
        return "F" if self.by_columns else "C"


def _checked_header(file: BinaryIO, width: int) -> _Header:
    """Read without running anything that the file brings along. Raises ValueError."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"a .npy of version {version[0]}.{version[1]}, which no array of plain numbers needs")
    header = _Header(*(npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file))
    if header.dtype.hasobject:
        raise ValueError("holds pickled objects, which are not opened; save an array of float16 or float32")
    if header.dtype.kind != "f" or header.dtype.itemsize not in (2, 4):
        raise ValueError(f"holds {header.dtype.name}, not float16 or float32")
    if len(header.shape) != 2 or header.shape[1] != width or header.shape[0] < 0:
        raise ValueError(f"has shape {header.shape}, but text_width {width} asks for (tokens, {width})")
    begin = file.tell()
    there = file.seek(0, SEEK_END) - begin
    file.seek(begin)
    if there < header.bytes:
        raise ValueError(f"cut short: {there} of the {header.bytes} bytes of its array")
    return header
