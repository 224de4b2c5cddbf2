"""What a run had to leave out of its data: counted, named, written down."""

import warnings
from pathlib import Path

from ulzoo.files.atomic import write_text

NAMED = 3  # in warnings; the file names all


class LeftOut:
    """The examples that a stage could not read, each once.

    Args:
        folder: the run directory; `left_out.txt` in it lists both stages' examples, one line each.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "left_out.txt"
        self.found: dict[int, str] = {}  # index of the example -> its name and what is wrong
        self.written = 0

    def add(self, left_out: dict[int, str]) -> None:
        """Take in a batch's. New ones are warned of: a few by name."""
        for index, line in left_out.items():
            if index in self.found:
                continue
            self.found[index] = line
            if len(self.found) <= NAMED:
                warnings.warn(f"left out: {line}", stacklevel=2)
            elif len(self.found) == NAMED + 1:
                warnings.warn(f"more is left out than {NAMED} examples: see {self.path}", stacklevel=2)

    def write(self, main: bool = True) -> int:
        """Bring the file up to date, in the `main` process; how many were left out so far."""
        if main and len(self.found) > self.written:
            before = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            lines = sorted({*before, *self.found.values()})
            write_text(self.path, "".join(line + "\n" for line in lines))
            self.written = len(self.found)
        return len(self.found)

    def state(self) -> dict[str, str]:
        """For a checkpoint, as JSON has it."""
        return {str(index): line for index, line in self.found.items()}

    def load(self, state: dict[str, str]) -> None:
        self.found = {int(index): line for index, line in state.items()}
