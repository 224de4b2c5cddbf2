"""When training makes no progress: where every thread stands, on stderr."""

import faulthandler
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STALLED_SECONDS = 900.0
AGAIN_SECONDS = 5.0


@contextmanager
def watchdog(seconds: float = STALLED_SECONDS) -> Iterator[Callable[[], None]]:
    """Gives a function to call at every step; if it was not for so long, the stacks are printed and the run goes on."""
    armed = 0.0

    def alive() -> None:
        nonlocal armed
        if sys.__stderr__ and (now := time.monotonic()) - armed > min(AGAIN_SECONDS, seconds / 4):
            armed = now
            faulthandler.dump_traceback_later(seconds, repeat=True, file=sys.__stderr__)

    alive()
    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()
