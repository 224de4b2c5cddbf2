"""Caption files: the token embeddings of one caption, computed by a text encoder, in NumPy's .npy format; its text."""

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

SUFFIX, CAPTION_SUFFIX = ".npy", ".txt"
MAX_CAPTION_BYTES = 2**16


class UnreadableText(Unreadable):
    """A file that does not contain token embeddings."""


def text_path(image: str | Path) -> Path:
    """The path of an image's caption: NAME.npy beside NAME.jpg."""
    return Path(image).with_suffix(SUFFIX)


def read_text(file: Path | BinaryIO, width: int, length: int, name: object = None) -> Tensor:
    """Read the first `length` token embeddings of a file, (L, `width`) float32; L = 0 is an empty caption.

    Raises:
        UnreadableText: missing, damaged, pickled, not of type float16 or float32, not of shape (L, `width`), or with
            non-finite values.
    """
    with _open(file, name) as stream:
        header = _checked_header(stream, width)
        content = stream.read(header.bytes)
        values = np.frombuffer(content, header.dtype).reshape(header.shape, order=header.order)[:length]
        if not (finite := np.isfinite(values).all(axis=1)).all():
            raise ValueError(f"token {int(finite.argmin())} is not finite; float16 ends at 65504, so save float32")
        return torch.from_numpy(values.astype(np.float32, order="C"))


def read_caption(image: str | Path) -> str:
    """The caption of an image as text: NAME.txt beside NAME.jpg, UTF-8, without white space around it.

    Raises:
        UnreadableText: missing, empty, not UTF-8, or larger than 64 KiB.
    """
    path = Path(image).with_suffix(CAPTION_SUFFIX)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_CAPTION_BYTES + 1)
        text = content.decode("utf-8").strip()
    except FileNotFoundError as error:
        raise UnreadableText(f"{path}: missing; the caption of an image as text is expected beside it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableText(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    if not text or len(content) > MAX_CAPTION_BYTES:
        raise UnreadableText(f"{path}: {'larger than 64 KiB' if text else 'empty'}; a caption is a few words")
    return text


def check_text(file: Path | BinaryIO, width: int, name: object = None) -> None:
    """Raise UnreadableText as `read_text` does, checking only the header and the size of the file."""
    with _open(file, name) as stream:
        _checked_header(stream, width)


@contextmanager
def _open(file: Path | BinaryIO, name: object) -> Iterator[BinaryIO]:
    """Open the file and turn every error in the block into an UnreadableText that names it."""
    name = name or file
    try:
        with open(file, "rb") if isinstance(file, Path) else nullcontext(file) as stream:
            yield stream
    except FileNotFoundError as error:
        raise UnreadableText(f"{name}: missing; the caption of an image is expected beside it") from error
    except Exception as error:  # numpy's header parser raises ValueError, SyntaxError, TokenError, TypeError, ...
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableText(f"{name}: {reason}") from error


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def order(self) -> Literal["C", "F"]:
        return "F" if self.fortran_order else "C"


def _checked_header(file: BinaryIO, width: int) -> _Header:
    """Read and validate the header without unpickling anything. Raises ValueError."""
    start = file.tell()
    if file.seek(0, SEEK_END) == start:
        raise ValueError("an empty file")
    file.seek(start)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy version {version[0]}.{version[1]} is not supported; arrays of numbers have 1.0 or 2.0")
    header = _Header(*(npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file))
    if header.dtype.hasobject:
        raise ValueError("contains pickled objects, which are not loaded; save an array of float16 or float32")
    if header.dtype.kind != "f" or header.dtype.itemsize not in (2, 4):
        raise ValueError(f"contains {header.dtype.name}, not float16 or float32")
    if len(header.shape) != 2 or header.shape[1] != width or header.shape[0] < 0:
        raise ValueError(f"has shape {header.shape}, but text_width {width} requires (tokens, {width})")
    start = file.tell()
    available = file.seek(0, SEEK_END) - start
    file.seek(start)
    if available < header.bytes:
        raise ValueError(f"truncated: has {available} of the {header.bytes} bytes of its array")
    return header
