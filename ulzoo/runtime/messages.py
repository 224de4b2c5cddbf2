"""Parts of error messages: suggestions for unknown words, and text from files and servers that is safe to print."""

from collections.abc import Iterable
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
