"""The engine of one machine: a process for each GPU, or some on the CPU, each training one point after another."""

import gc
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from ulzoo.registry.sweeps.engine import RETRIES, SweepCallback
from ulzoo.registry.sweeps.jobs import Job
from ulzoo.registry.sweeps.store import ResultRow, Store

SECONDS_PER_STEP_TOLD = 0.5
_SPAWN = multiprocessing.get_context("spawn")


class LocalEngine:
    """Trains jobs in processes of its own, which end with this one.

    Args:
        devices: of each process, such as ["cuda:0", "cuda:1"] or ["cpu"] * 2.
        threads: of each process on the CPU. Their number may change the last bits of a result.
        watch: told of progress.
    """

    def __init__(self, devices: Sequence[str], threads: int = 1, watch: SweepCallback | None = None) -> None:
        assert devices
        self.devices, self.threads, self.watch = devices, threads, watch or SweepCallback()

    def run(self, jobs: Sequence[Job]) -> Iterator[ResultRow]:
        queue = _Queue(jobs)
        workers = [_Worker(device, self.threads) for device in self.devices[: len(jobs)]]
        try:
            while queue or any(worker.job for worker in workers):
                for worker in workers:
                    if worker.job is None and queue:
                        self.watch.started(worker.give(*queue.next()))
                for worker in _heard([worker for worker in workers if worker.job]):
                    if row := self._hear(worker, queue):
                        queue.news()
                        yield row
        finally:
            for worker in workers:
                worker.end()

    def _hear(self, worker: "_Worker", queue: "_Queue") -> ResultRow | None:
        """One message of a worker, or its death; a row if that is what it is."""
        job = worker.job
        assert job is not None
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            return self._handle_worker_exit(worker, job, queue)
        if kind == "step":
            self.watch.step(job, *content)
        elif kind == "note":
            self.watch.note(job, *content)
        else:
            worker.job = None
            if kind == "busy":
                queue.later(job)
            return content[0] if kind == "row" else None
        return None

    def _handle_worker_exit(self, worker: "_Worker", job: Job, queue: "_Queue") -> ResultRow | None:
        """A worker died: another one takes its place, and its job goes on from the last checkpoint or fails."""
        code = worker.join()
        how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        worker.start()
        if queue.again(job):
            self.watch.note(job, f"its process ended {how}; it goes on from its last checkpoint")
            return None
        from ulzoo.registry.sweeps.point import make_row

        row = make_row(job, 0.0, error=f"its process ended {how}, {RETRIES + 1} times")
        Store(job.store).append(row)
        return row


class _Queue:
    """Jobs that wait, those at the end that another process has just now."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs, self.busy, self.deaths = deque(jobs), set[str](), Counter[str]()

    def __bool__(self) -> bool:
        return bool(self.jobs)

    def next(self) -> tuple[Job, bool]:
        """A job, and whether to wait for whoever has it: where all that are left are with others."""
        for job in self.jobs:
            if job.spec_hash not in self.busy:
                self.jobs.remove(job)
                return job, False
        return self.jobs.popleft(), True

    def later(self, job: Job) -> None:
        self.busy.add(job.spec_hash)
        self.jobs.append(job)

    def again(self, job: Job) -> bool:
        """Back to the front, unless it was tried often enough."""
        self.deaths[job.spec_hash] += 1
        if self.deaths[job.spec_hash] > RETRIES:
            return False
        self.jobs.appendleft(job)
        return True

    def news(self) -> None:
        """A point is settled, others may be free."""
        self.busy.clear()


class _Worker:
    """A process that trains what it is given."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads
        self.job: Job | None = None
        self.start()

    def start(self) -> None:
        self.job = None
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, self.threads), name=f"ulzoo sweep, {self.device}")
        self.process.start()
        theirs.close()

    def give(self, job: Job, waits: bool) -> Job:
        self.job = replace(job, device=self.device, threads=self.threads)
        with suppress(OSError):  # it died; that is heard of next
            self.connection.send((self.job, waits))
        return self.job

    def join(self) -> int:
        """Its exit status, after it closed its end."""
        self.connection.close()
        self.process.join(5)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def end(self) -> None:
        """At once if it trains, which loses what came after its last checkpoint."""
        if self.job is None:
            with suppress(OSError):
                self.connection.send(None)
                self.process.join(5)
        if self.process.exitcode is None:
            self.process.terminate()
        self.join()


def _heard(workers: list[_Worker]) -> list[_Worker]:
    """Those that said something or died."""
    ready = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


def _work(connection: Connection, threads: int) -> None:
    """What a worker does: a job at a time until there are no more, or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a keyboard interrupt is the parent's to hear, and it ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from ulzoo.registry.sweeps.locks import Busy
    from ulzoo.registry.sweeps.point import run_point

    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=UserWarning, module=r"ulzoo(\.|$)")
    warnings.showwarning = lambda message, *_: connection.send(("note", f"warning: {message}"))
    while (message := connection.recv()) is not None:
        job, waits = message
        try:
            answer: tuple[Any, ...] = ("row", run_point(job, _ProgressSender(connection), waits))
        except Busy:
            answer = ("busy",)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        connection.send(answer)


class _ProgressSender:
    """Tells the parent of steps, not of all of them."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.told = connection, 0.0
        self.speed: float | None = None

    def __call__(self, stage: str, step: int, steps: int, row: dict[str, Any] | None) -> None:
        self.speed = row["images_per_second"] if row else self.speed
        if time.monotonic() - self.told > SECONDS_PER_STEP_TOLD or step == steps:
            self.told = time.monotonic()
            self.connection.send(("step", stage, step, steps, self.speed))


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on unseen, holding its point's lock."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
