"""The time that all processes together have worked on a run, however often its training was interrupted."""

import time
from contextlib import suppress
from pathlib import Path

from ulzoo.files.atomic import write_text

FILE = ".seconds"
SECONDS_BETWEEN_SAVES = 5.0


class Stopwatch:
    """Counts from the time that earlier processes spent in a run directory. A process that is killed loses little.

    Args:
        folder: the run directory.
        recorded: seconds according to the row of a sweep's point, for runs without the file.
        restart: count from zero, since the run starts from scratch.
    """

    def __init__(self, folder: Path, recorded: float = 0.0, *, restart: bool = False) -> None:
        self.path, self.before = folder / FILE, 0.0 if restart else max(seconds_worked(folder), recorded)
        self.started = self.saved = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def tick(self) -> None:
        """Save the time if some seconds have passed since it was saved."""
        if time.monotonic() - self.saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write the time; a full disk is no reason to stop."""
        self.saved = time.monotonic()
        with suppress(OSError):
            write_text(self.path, f"{self.seconds:.3f}\n")


def seconds_worked(folder: Path) -> float:
    """The saved time of a run directory; 0 without the file."""
    try:
        seconds = float((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return 0.0
    return seconds if 0 <= seconds < float("inf") else 0.0
