"""A signal that asks a run to stop: it finishes the step, saves, and says with its exit status that it can go on.

SIGTERM (a scheduler's), SIGUSR1 (Slurm's warning, with `--signal=USR1@120`) and SIGINT (Ctrl-C; a second one does not
wait for the step).
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STOPPED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class RunStopped(KeyboardInterrupt):
    """The run saved a checkpoint and stopped, as it was asked to.

    Args:
        number: of the signal; another process may have got it.
        where: stage and step.
    """

    def __init__(self, number: int, where: str) -> None:
        super().__init__(f"{signal.Signals(number).name}, saved at {where}")
        self.status = 130 if number == signal.SIGINT else STOPPED_STATUS


class StopSignals:
    """While the context lasts, `received` is the number of the signal that came, else 0. In the main thread alone."""

    def __init__(self) -> None:
        self.received = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                    self._before[number] = handler
                    signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker, forked since: it ends if it is told to, and with this one
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self.received = number


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
