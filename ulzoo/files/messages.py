"""What a message may quote of a file: it may be anybody's."""


def one_line(text: str) -> str:
    """`text` without what would break a line or speak to a terminal, and not too long."""
    text = text if len(text) <= 1000 else text[:1000] + " ..."
    return "".join(char if char.isprintable() else " " if char.isspace() else repr(char)[1:-1] for char in text)
