"""The processes of this machine that work on one point together, with the environment that torchrun gives to its own.

They find each other through a store at a free port, so that points that are trained at the same time do not collide.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from ulzoo.registry.sweeps.store import error_line
from ulzoo.runtime.processes import process_group
from ulzoo.training.interruption import StopSignals

SECONDS_TO_SAVE = 25.0  # after a signal; the engine waits a little longer
SECONDS_TO_FAIL = 5.0  # after the error of another process
SECONDS_BETWEEN_SIGNALS = 0.2  # how often a signal to this process is looked for
_SPAWN = multiprocessing.get_context("spawn")

Send = Callable[[Any], None]
"""Sends a message to the process that started the ranks. KeyboardInterrupt if that has ended."""


class RankKilled(BaseException):
    """A signal killed one of the processes: they can be started again, from the last checkpoint.

    Args:
        rank: the process.
        number: the signal.
    """

    def __init__(self, rank: int, number: int) -> None:
        super().__init__(f"process {rank} was killed by signal {number}")
        self.number = number


class RankFailed(ValueError):
    """An error of one of the processes, in one line, with its traceback as a note."""


def run_ranks(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    devices: Sequence[str],
    *,
    threads: int = 1,
    timeout_minutes: float = 10.0,
    on_message: Callable[[Any], None] = lambda message: None,
) -> Any:
    """Call `function(*arguments, processes, send)` in a process for each device, which are a `ProcessGroup`.

    Args:
        function: of a module; `send` is a `Send`.
        arguments: that can be pickled.
        devices: the device of each process.
        threads: CPU threads of each.
        timeout_minutes: how long a process waits for the others in a collective operation.
        on_message: called here with the messages that the processes send. If it raises, they are killed.

    Returns:
        what the first process returned.

    Raises:
        RankFailed: an error of a process; the others are ended.
        RankKilled: a process was killed; the others are ended.
        KeyboardInterrupt: this process or one of the others was asked to stop; they had time to save their work.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    ranks: list[_Rank] = []
    try:
        with StopSignals() as signals:
            for rank, device in enumerate(devices):
                numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(devices))}
                group = (numbers | address, torch.device(device), timeout_minutes)
                ranks.append(_Rank(rank, (group, os.getcwd(), threads, function, arguments)))
            return _Group(ranks, on_message).run(signals)
    finally:
        for each in ranks:
            each.kill()


class _Rank:
    """A process, seen from the one that starts it."""

    def __init__(self, number: int, work: tuple[Any, ...]) -> None:
        self.number = number
        self.connection, child = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(child, *work), name=f"ulzoo sweep, rank {number}")
        self.process.start()
        child.close()

    def exit_status(self) -> int:
        """The exit status, after the process has closed its connection; 1 if it does not end."""
        self.process.join(SECONDS_TO_FAIL)
        status = self.process.exitcode
        self.kill()
        return 1 if status is None else status

    def kill(self) -> None:
        """End the process if it is still running."""
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.connection.close()


class _Group:
    """Receives what the processes send until all have ended."""

    def __init__(self, ranks: Sequence[_Rank], on_message: Callable[[Any], None]) -> None:
        self.ranks, self.on_message = ranks, on_message
        self.running = list(ranks)
        self.result: tuple[Any, ...] = ()
        self.errors: dict[int, tuple[str, str]] = {}  # a line and a traceback by rank, the first one first
        self.statuses: dict[int, int] = {}
        self.killed: RankKilled | None = None  # errors of the others, who lose its connection, may come before it
        self.interrupted = False
        self.deadline = float("inf")  # when those that are still running are given up

    def run(self, signals: StopSignals) -> Any:
        """Wait for the end of all processes. Returns and raises what `run_ranks` does."""
        while self.running and time.monotonic() < self.deadline:
            if signals.received and not self.interrupted:
                self._interrupt()
            ready = wait([rank.connection for rank in self.running], SECONDS_BETWEEN_SIGNALS)
            for rank in [rank for rank in self.running if rank.connection in ready]:
                try:
                    kind, content = rank.connection.recv()
                except (EOFError, OSError):
                    self._handle_exit(rank)
                else:
                    self._handle_message(rank, kind, content)
        if self.interrupted:
            raise KeyboardInterrupt("the processes of the point were stopped")
        if self.killed:
            raise self.killed
        if self.errors:
            raise self._error()
        if not self.result or any(self.statuses.values()):
            raise RankFailed(f"its processes ended with exit statuses {list(self.statuses.values())}")
        return self.result[0]

    def _interrupt(self) -> None:
        """Ask the processes to save their work and to end."""
        self.interrupted = True
        self._end_within(SECONDS_TO_SAVE)
        for rank in self.running:
            rank.process.terminate()

    def _handle_exit(self, rank: _Rank) -> None:
        self.running.remove(rank)
        status = self.statuses[rank.number] = rank.exit_status()
        follows_an_error = self.errors and status == -signal.SIGABRT  # of another process, whose connection it lost
        if status < 0 and not self.killed and not follows_an_error:
            self.killed = RankKilled(rank.number, -status)
        if status:
            self._end_within(SECONDS_TO_FAIL)

    def _handle_message(self, rank: _Rank, kind: str, content: Any) -> None:
        if kind == "message":
            self.on_message(content)
        elif kind == "result":
            if rank.number == 0:
                self.result = (content,)
        elif kind == "error":
            self.errors.setdefault(rank.number, content)
            self._end_within(SECONDS_TO_FAIL)
        else:
            self.interrupted = True
            self._end_within(SECONDS_TO_SAVE)

    def _end_within(self, seconds: float) -> None:
        self.deadline = min(self.deadline, time.monotonic() + seconds)

    def _error(self) -> RankFailed:
        """The first error, with its process unless that is the main one or had the same error."""
        rank, (line, trace) = next(iter(self.errors.items()))
        if self.errors.get(0, ("", ""))[0] != line:
            line = f"process {rank} of {len(self.ranks)}: {line}"
        error = RankFailed(line)
        error.add_note(trace)
        return error


def _work(
    connection: Connection,
    group: tuple[dict[str, str], torch.device, float],
    folder: str,
    threads: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Main function of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command handles it and ends the processes that it started
    threading.Thread(target=exit_with_parent, daemon=True).start()
    environment, device, timeout_minutes = group
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")

    def send(kind: str, content: Any) -> None:
        send_to_parent(connection, (kind, content))

    @contextmanager
    def send_errors() -> Iterator[None]:
        try:
            yield
        except Exception as error:
            send("error", (error_line(error), traceback.format_exc()))
            sys.exit(1)

    try:  # an error is sent before the process leaves the group, from which errors of the others follow
        with send_errors(), process_group(device, timeout_minutes) as processes, send_errors():
            result = function(*arguments, processes, lambda message: send("message", message))
        send("result", result)
    except KeyboardInterrupt:
        send("stopped", None)


def send_to_parent(connection: Connection, message: Any) -> None:
    """Send a message to the parent. KeyboardInterrupt if it no longer listens: the sweep has been interrupted."""
    try:
        connection.send(message)
    except OSError:
        raise KeyboardInterrupt("the sweep has ended") from None


def exit_with_parent() -> None:
    """End this process when its parent was killed, so that it does not keep the lock of its point."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
