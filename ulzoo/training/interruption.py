"""Interruption of a run: signals that make it save and stop after the current step, and a watchdog for stalled steps.

The signals are SIGTERM (from a scheduler), SIGUSR1 (Slurm's warning, with `--signal=USR1@120`) and SIGINT (Ctrl-C; a
second one stops at once). The exit status says that the run can be resumed.
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
STOPPED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again
STALLED_SECONDS = 900.0
REARM_SECONDS = 5.0


class RunStopped(KeyboardInterrupt):
    """A signal stopped the run after it saved a checkpoint.

    Args:
        number: the number of the signal, which another process may have received.
        position: stage and step of the checkpoint.
    """

    def __init__(self, number: int, position: str) -> None:
        super().__init__(f"{signal.Signals(number).name}, saved at {position}")
        self.status = 130 if number == signal.SIGINT else STOPPED_STATUS


class StopSignals:
    """Sets `received` to the number of the last signal, 0 before one. Works in the main thread only."""

    def __init__(self) -> None:
        self.received = 0
        self._process = os.getpid()
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                    self._previous_handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker of the data loader, which inherited this handler
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def watchdog(seconds: float = STALLED_SECONDS) -> Iterator[Callable[[], None]]:
    """Yield a function to call after every step. If `seconds` pass without a call, print the stacks of all threads.

    The run itself continues.
    """
    armed_at = 0.0

    def reset() -> None:
        nonlocal armed_at
        if sys.__stderr__ and (now := time.monotonic()) - armed_at > min(REARM_SECONDS, seconds / 4):
            armed_at = now
            faulthandler.dump_traceback_later(seconds, repeat=True, file=sys.__stderr__)

    reset()
    try:
        yield reset
    finally:
        faulthandler.cancel_dump_traceback_later()
