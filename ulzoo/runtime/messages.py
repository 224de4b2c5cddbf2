"""Parts of error messages: suggestions for unknown words, and text from files and servers that is safe to print."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def suggest(word: object, options: Iterable[str]) -> str:
    """The end of an error message about an unknown word: "; did you mean 'x'?", or the list of valid words."""
    options = list(options)
    close = get_close_matches(str(word), options, n=1, cutoff=0.65)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; expected one of: {', '.join(options)}" if options else ""


def one_line(text: str) -> str:
    """`text` on one line, truncated to 1000 characters, with control characters escaped."""
    text = text if len(text) <= 1000 else text[:1000] + " ..."
    return "".join(char if char.isprintable() else " " if char.isspace() else repr(char)[1:-1] for char in text)


def list_texts(values: Iterable[str], expected: str) -> list[str]:
    """`values` as a list.

    Args:
        expected: the argument and what it is, such as "devices: expected a list of names".

    Raises:
        ValueError: `values` is a single text, which would be read letter by letter, or contains anything but texts.
    """
    if isinstance(values, str | bytes):
        raise ValueError(f"{expected}, not a text; write [{values!r}]")
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{expected}, not {type(values).__name__}")
    texts = list(values)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{expected}, but it contains {one_line(repr(text))}")
    return texts
