"""The engine for one machine: worker processes, one per GPU or several on the CPU, each training one job at a time."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from ulzoo.registry.runs.stopwatch import seconds_worked
from ulzoo.registry.sweeps.jobs import RETRIES, Job, SweepCallback
from ulzoo.registry.sweeps.point import PointBusy, make_row, run_point
from ulzoo.registry.sweeps.ranks import RankKilled, exit_with_parent, send_to_parent
from ulzoo.registry.sweeps.store import ResultRow, Store
from ulzoo.runtime.devices import pick_device
from ulzoo.runtime.messages import list_texts
from ulzoo.training.interruption import STOPPED_STATUS

SECONDS_BETWEEN_STEP_MESSAGES = 0.5
SECONDS_TO_SAVE = 30.0
_SPAWN = multiprocessing.get_context("spawn")


def worker_devices(device: str | None, workers: int | None, jobs: int, per_point: int = 1) -> tuple[list[str], int]:
    """The devices of all workers, one worker after another, and the number of CPU threads per device.

    Args:
        device: name of a device; None or "cuda" uses all GPUs, if there are any.
        workers: number of jobs at the same time; None: as many as the GPUs suffice for, or one. They share the cores,
            within the limit of OMP_NUM_THREADS.
        jobs: number of jobs; there are no more workers than jobs.
        per_point: devices of each worker. More than one GPU each are not shared between workers.

    Raises:
        ValueError: there are fewer devices.
    """
    selected = pick_device(device)
    if selected.type == "cuda" and device in (None, "cuda"):
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    else:
        devices = [str(selected)]
    requested = workers or max(len(devices) // per_point, 1)
    if per_point > 1 and selected.type != "cpu" and (needed := requested * per_point) > len(devices):
        available = f"there are {len(devices)}" if len(devices) > 1 else f"there is 1, {devices[0]}"
        raise ValueError(f"{requested} × {per_point} devices per point are {needed} devices: {available}")
    count = max(min(requested, jobs), 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(cores // (requested * per_point), 1)
    used = [devices[i % len(devices)] for i in range(count * per_point)]
    return used, min(threads, _thread_limit() or threads)


def _thread_limit() -> int | None:
    """The threads per process that OMP_NUM_THREADS permits; None if it is not set to a number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # further numbers are for nested regions
    return int(first) if first.isdecimal() and int(first) > 0 else None


class LocalEngine:
    """Trains jobs in worker processes, which end with this process.

    Args:
        devices: the devices of all workers, such as ["cuda:0", "cuda:1"] or ["cpu"] * 2.
        threads: CPU threads per device. Their number may change the last bits of a result.
        callback: receives the progress.
        per_point: devices of each worker, which starts a process for each if there are several.
    """

    def __init__(
        self, devices: Sequence[str], threads: int = 1, callback: SweepCallback | None = None, *, per_point: int = 1
    ) -> None:
        devices = list_texts(devices, "devices: expected a list of names")
        assert devices and len(devices) % per_point == 0
        self.devices = [tuple(devices[i : i + per_point]) for i in range(0, len(devices), per_point)]
        self.threads, self.callback = threads, callback or SweepCallback()

    def run(self, jobs: Sequence[Job]) -> Iterator[ResultRow]:
        queue = _JobQueue(jobs)
        workers = [_Worker(devices, self.threads) for devices in self.devices[: len(jobs)]]
        try:
            while queue or any(worker.job for worker in workers):
                for worker in workers:
                    if worker.job is None and queue:
                        self.callback.started(worker.assign(*queue.pop()))
                for worker in _wait_for_message([worker for worker in workers if worker.job]):
                    if row := self._receive(worker, queue):
                        queue.retry_busy()
                        yield row
        finally:
            for worker in workers:
                worker.request_stop()
            for worker in workers:
                worker.join(SECONDS_TO_SAVE)

    def _receive(self, worker: "_Worker", queue: "_JobQueue") -> ResultRow | None:
        """Handle one message of a worker, or its exit. Returns the row if a job has ended."""
        job = worker.job
        assert job is not None
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            return self._handle_worker_exit(worker, job, queue)
        if kind == "step":
            self.callback.step(job, *content)
        elif kind == "note":
            self.callback.note(job, *content)
        else:
            worker.job = None
            if kind == "busy":
                queue.defer(job)
            return content[0] if kind == "row" else None
        return None

    def _handle_worker_exit(self, worker: "_Worker", job: Job, queue: "_JobQueue") -> ResultRow | None:
        """Replace a worker that died; its job is queued again, or fails after `RETRIES` retries."""
        code = worker.join()
        reason = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        worker.start()
        if queue.retry(job):
            self.callback.note(job, f"its process ended {reason}; restarting from its last checkpoint")
            return None
        seconds = seconds_worked(Path(job.store) / job.folder)
        row = make_row(job, seconds, error=f"its process ended {reason}, {RETRIES + 1} times")
        Store(job.store).append(row)
        return row


class _JobQueue:
    """Jobs to train; those that another process of the sweep is training at the moment come last."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs, self.busy, self.failures = deque(jobs), set[str](), Counter[str]()

    def __bool__(self) -> bool:
        return bool(self.jobs)

    def pop(self) -> tuple[Job, bool]:
        """The next job, and whether to wait for its lock: only if other processes train all the remaining jobs."""
        for job in self.jobs:
            if job.spec_hash not in self.busy:
                self.jobs.remove(job)
                return job, False
        return self.jobs.popleft(), True

    def defer(self, job: Job) -> None:
        """Put back a job that another process is training."""
        self.busy.add(job.spec_hash)
        self.jobs.append(job)

    def retry(self, job: Job) -> bool:
        """Put a job whose worker died at the front. False if it has been retried too often."""
        self.failures[job.spec_hash] += 1
        if self.failures[job.spec_hash] > RETRIES:
            return False
        self.jobs.appendleft(job)
        return True

    def retry_busy(self) -> None:
        """Try deferred jobs again, since some time has passed."""
        self.busy.clear()


class _Worker:
    """A process that trains the jobs it is assigned."""

    def __init__(self, devices: tuple[str, ...], threads: int) -> None:
        self.devices, self.threads = devices, threads
        self.job: Job | None = None
        self.start()

    def start(self) -> None:
        self.job = None
        self.connection, child = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(child, self.threads), name=f"ulzoo sweep, {self.devices[0]}")
        self.process.start()
        child.close()

    def assign(self, job: Job, wait_for_lock: bool) -> Job:
        """Send a job to the process. Returns the job with its devices."""
        self.job = replace(job, devices=self.devices, threads=self.threads)
        with suppress(OSError):  # the process died, which the next `recv` reports
            self.connection.send((self.job, wait_for_lock))
        return self.job

    def join(self, seconds: float = 5.0) -> int:
        """Wait for a process that is about to end, and kill it after some seconds. Returns its exit status."""
        self.connection.close()
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def request_stop(self) -> None:
        """Ask the process to end; if it is training, after saving a checkpoint."""
        if self.job is None:
            with suppress(OSError):
                self.connection.send(None)
        else:
            self.process.terminate()


def _wait_for_message(workers: list[_Worker]) -> list[_Worker]:
    """The workers that sent a message or died, at least one."""
    ready = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


def _work(connection: Connection, threads: int) -> None:
    """Main function of a worker process: trains one job after another until it receives None or its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and ends this process
    threading.Thread(target=exit_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=UserWarning, module=r"ulzoo(\.|$)")
    warnings.showwarning = lambda message, *_: send_to_parent(connection, ("note", f"warning: {message}"))
    try:
        while (message := connection.recv()) is not None:
            job, wait_for_lock = message
            try:
                answer: tuple[Any, ...] = ("row", run_point(job, _ProgressSender(connection), wait_for_lock))
            except PointBusy:
                answer = ("busy",)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            send_to_parent(connection, answer)
    except RankKilled as killed:
        os.kill(os.getpid(), killed.number)  # so that the engine restarts it
    except (KeyboardInterrupt, EOFError):  # a signal, after which the training was saved, or the parent has ended
        sys.exit(STOPPED_STATUS)


class _ProgressSender:
    """Progress callback that sends steps to the parent process, at limited frequency."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.last_sent = connection, 0.0
        self.images_per_second: float | None = None

    def __call__(self, stage: str, step: int, steps: int, row: dict[str, Any] | None) -> None:
        self.images_per_second = row["images_per_second"] if row else self.images_per_second
        if time.monotonic() - self.last_sent > SECONDS_BETWEEN_STEP_MESSAGES or step == steps:
            self.last_sent = time.monotonic()
            send_to_parent(self.connection, ("step", stage, step, steps, self.images_per_second))
