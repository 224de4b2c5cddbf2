"""The terminal: consoles, one-line messages, and how numbers and sizes are written."""

import codecs
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_OF_A_PIPE = 120
PLAIN = {"×": "x", "²": "^2", "±": "+/-", "→": "->", "…": "...", "·": "*", "–": "-", "—": "-", "−": "-", "λ": "lambda"}
"""Symbols of the output -> text for terminals and files whose encoding does not have them."""


def print_in_any_encoding() -> None:
    """Let stdout and stderr replace the characters that their encoding (ASCII, cp1252) does not have.

    Symbols become `PLAIN` text, other characters and the bytes of file names that are not UTF-8 escapes as in JSON.
    """
    codecs.register_error("ulzoo", _replace_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not None, as without a terminal, or an object of a notebook
            stream.reconfigure(errors="ulzoo")


def _replace_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(map(_plain, characters)), error.end


def _plain(char: str) -> str:
    if "\u2800" <= char <= "\u28ff":  # a spinner's Braille
        return "*"
    return PLAIN.get(char) or json.dumps(char)[1:-1]


def console(stderr: bool = False) -> "Console":
    """A console for results on stdout or progress on stderr; colours and live displays on a terminal only."""
    from rich.console import Console

    result = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not result.is_terminal and "COLUMNS" not in os.environ:
        result.width = WIDTH_OF_A_PIPE
    return result


def say(message: object) -> None:
    """Print one line to stderr, above a live display if there is one."""
    print(" ".join(str(message).split()), file=sys.stderr, flush=True)


def to_json(data: Any) -> str:
    """JSON for stdout, with escapes for all but ASCII if its encoding is not UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(data, indent=1, ensure_ascii=not encoding.lower().startswith("utf"))


def scaled(value: float, unit: str = "") -> str:
    """1234567 -> "1.23 M", with three digits."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{three_digits(value / factor)} {prefix}{unit}"
    return f"{three_digits(value)} {unit}".rstrip()


def gflops(value: float) -> str:
    """FLOPs as GFLOPs with three digits."""
    return three_digits(value / 1e9)


def three_digits(value: float) -> str:
    """12.345 -> "12.3"; digits before the decimal point are never dropped."""
    size = abs(value)
    places = 0 if size >= 99.95 or size == 0 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:,.{places}f}"


def shape(size: Sequence[int]) -> str:
    """(3, 32, 32) -> "3×32×32"."""
    return "×".join(map(str, size))


def short_shape(size: Sequence[int]) -> str:
    """(32, 32) -> "32²", (16, 64, 64) -> "16×64²"."""
    *leading, height, width = size
    return "×".join([*map(str, leading), f"{width}²"]) if height == width else shape(size)


def examples(size: Sequence[int], plural: bool = True) -> str:
    """What examples of this size are called: "images" of (h, w), "clips" of (t, h, w)."""
    return ("clip" if len(size) == 3 else "image") + "s" * plural


def duration(seconds: float) -> str:
    """75 -> "1:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
